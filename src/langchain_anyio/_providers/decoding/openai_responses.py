"""Events of OpenAI's Responses API: deltas of text, reasoning and the arguments of tool calls."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

from .light import LightFlat, light
from .shapes import Shape, UnknownModelError
from .templates import copies

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .templates import Build, Path

_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
_DELTA: Final = {"delta": "x", "item_id": "item_1", "output_index": 0, "sequence_number": 1}


def has_finished(data: Any) -> bool:
    """Return whether an event is the last one of its response."""
    kind = data.get("type") if isinstance(data, dict) else None
    return isinstance(kind, str) and kind in _ENDS


@final
class Responses:
    """Decodes the deltas of responses."""

    samples: Final = (
        {"type": "response.output_text.delta", **_DELTA, "content_index": 0, "logprobs": []},
        {"type": "response.reasoning_summary_text.delta", **_DELTA, "summary_index": 0},
        {"type": "response.reasoning_text.delta", **_DELTA, "content_index": 0},
        {"type": "response.function_call_arguments.delta", **_DELTA, "obfuscation": "x"},
    )

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._models: dict[str, tuple[Any, Shape]] = {}
        for sample in self.samples:
            model: Any = type(make(sample))
            if not hasattr(model, "model_fields"):
                raise UnknownModelError(model)
            nested = {"logprobs": (list,)} if "logprobs" in sample else {}
            shape = Shape(model, nested=nested, extras={"obfuscation": (str,)}, required=("type",))
            self._models[str(sample["type"])] = model, shape

    def decode(self, data: Any, make: Callable[[Any], Any]) -> Any:
        """Return what stands in for the event; `None` if the SDK is to make it."""
        if type(data) is not dict:
            return None
        kind = data.get("type")
        known = self._models.get(kind) if type(kind) is str else None
        if known is None:
            return None
        model, shape = known
        if not shape.accepts(data) or data.get("logprobs"):
            return None
        return light(LightFlat, {**shape.template, **data}, model, partial(make, data))

    values: Final[Mapping[Path, type]] = {
        ("delta",): str,
        ("obfuscation",): str,
        ("sequence_number",): int,
    }

    def builder(self, item: Any, paths: list[Path]) -> Build:
        """Return what makes events like a decoded one, with other values at the given paths."""
        model, copy = item._model_class, copies(vars(item), paths)
        return lambda values, make: light(LightFlat, copy(values), model, make)

    def is_equal(self, light: Any, model: Any) -> bool:
        """Return whether a result of `decode` equals the SDK's model of the same data."""
        return bool(light.model_dump() == model.model_dump())
