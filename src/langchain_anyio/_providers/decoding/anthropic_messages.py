"""Events of Anthropic's messages: deltas of text, thinking and the input of tools."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

from .light import Light, LightFlat, light
from .shapes import Shape, UnknownModelError
from .templates import copies

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .templates import Build, Path


def has_finished(data: Any) -> bool:
    """Return whether an event ends the message, or says why the model stopped."""
    if not isinstance(data, dict):
        return False
    if data.get("type") == "message_delta":
        delta = data.get("delta")
        return isinstance(delta, dict) and bool(delta.get("stop_reason"))
    return data.get("type") == "message_stop"


@final
class Messages:
    """Decodes the deltas of messages."""

    samples: Final = tuple(
        {"type": "content_block_delta", "index": 0, "delta": delta}
        for delta in (
            {"type": "text_delta", "text": "x"},
            {"type": "thinking_delta", "thinking": "x"},
            {"type": "input_json_delta", "partial_json": "{"},
        )
    )

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._deltas: dict[str, tuple[Any, Shape]] = {}
        for sample in self.samples:
            made = make(sample)
            self._event: Any = type(made)
            delta: Any = type(made.delta)
            if not hasattr(self._event, "model_fields") or not hasattr(delta, "model_fields"):
                raise UnknownModelError(delta)
            self._shape = Shape(self._event, nested={"delta": (dict,)}, required=("delta",))
            kind: Any = sample["delta"]
            self._deltas[kind["type"]] = delta, Shape(delta, required=("type",))

    def decode(self, data: Any, make: Callable[[Any], Any]) -> Any:
        """Return what stands in for the event; `None` if the SDK is to make it."""
        if type(data) is not dict or data.get("type") != "content_block_delta":
            return None
        if not self._shape.accepts(data):
            return None
        delta = data["delta"]
        kind = delta.get("type")
        known = self._deltas.get(kind) if type(kind) is str else None
        if known is None:
            return None
        model, shape = known
        if not shape.accepts(delta):
            return None
        event = partial(make, data)
        fields = {
            **self._shape.template,
            **data,
            "delta": light(
                LightFlat, {**shape.template, **delta}, model, partial(_delta_of, event)
            ),
        }
        return light(Light, fields, self._event, event)

    values: Final[Mapping[Path, type]] = {
        ("delta", key): str for key in ("text", "thinking", "partial_json")
    }

    def builder(self, item: Any, paths: list[Path]) -> Build:
        """Return what makes events like a decoded one, with other values at the given paths."""
        fields, delta = vars(item), item.delta
        of_event, of_delta = item._model_class, delta._model_class
        copy = copies(vars(delta), [path[1:] for path in paths])

        def build(values: list[Any], make: Callable[[], Any]) -> Light:
            new = light(LightFlat, copy(values), of_delta, partial(_delta_of, make))
            return light(Light, {**fields, "delta": new}, of_event, make)

        return build

    def is_equal(self, light: Any, model: Any) -> bool:
        """Return whether a result of `decode` equals the SDK's model of the same data."""
        fields = {**vars(light), "delta": light.delta.model_dump()}
        return bool(fields == model.model_dump())


def _delta_of(make: Callable[[], Any]) -> Any:
    return make().delta
