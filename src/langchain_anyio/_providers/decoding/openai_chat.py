"""Chunks of OpenAI's chat completions: text, reasoning and the arguments of tool calls.

langchain-openai takes the chunks as dictionaries, in the form that `model_dump()` returns.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, final, get_args

from .light import LightDict
from .shapes import NONE, Shape, UnknownModelError
from .templates import copies

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .templates import Build, Path

# What servers add for each token: OpenAI's padding, the reasoning of DeepSeek, xAI, OpenRouter, and
# others, Azure's content filter, and what vLLM, Together and OpenRouter say of each chunk.
_OF_CHUNKS: Final[Mapping[str, tuple[type, ...]]] = {
    "obfuscation": (str, NONE),
    "prompt_token_ids": (NONE,),
    "provider": (str, NONE),
}
_OF_CHOICES: Final[Mapping[str, tuple[type, ...]]] = {
    "content_filter_results": (dict, NONE),
    "native_finish_reason": (NONE,),
    "seed": (int, NONE),
    "stop_reason": (NONE,),
    "text": (str, NONE),
    "token_ids": (NONE,),
}
_OF_DELTAS: Final[Mapping[str, tuple[type, ...]]] = {
    "reasoning": (str, NONE),
    "reasoning_content": (str, NONE),
    "token_id": (int, NONE),
}


def has_finished(data: Any) -> bool:
    """Return whether a chunk says why the model stopped."""
    choices = data.get("choices") if isinstance(data, dict) else None
    if not isinstance(choices, list):
        return False
    return any(isinstance(choice, dict) and choice.get("finish_reason") for choice in choices)


@final
class ChatCompletions:
    """Decodes the chunks of chat completions."""

    def __init__(self, chunk: Any) -> None:
        choice = _item_of(chunk, "choices")
        delta = _model_of(choice, "delta")
        call = _item_of(delta, "tool_calls")
        function = _model_of(call, "function")
        self._chunk = Shape(
            chunk,
            nested={"choices": (list,)},
            extras=_OF_CHUNKS,
            required=("choices",),
        )
        self._choice = Shape(
            choice,
            nested={"delta": (dict,)},
            extras=_OF_CHOICES,
            # The one chunk of an answer that has a reason is left to the SDK.
            fixed={"finish_reason": (None,)},
            required=("delta", "finish_reason"),
        )
        self._delta = Shape(
            delta,
            nested={"tool_calls": (list, NONE)},
            extras=_OF_DELTAS,
            required=("content", "tool_calls"),
        )
        self._call = Shape(call, nested={"function": (dict,)}, required=("function",))
        self._function = Shape(function, required=("arguments",))

    samples: Final = tuple(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "sample",
            "choices": [{"index": 0, "delta": delta, **choice}],
            **chunk,
        }
        for delta, choice, chunk in (
            ({"content": "text"}, {"finish_reason": None}, {}),
            (
                {"role": "assistant", "content": "", "refusal": None},
                {"logprobs": None, "finish_reason": None},
                {
                    "usage": None,
                    "service_tier": "default",
                    "system_fingerprint": "fp",
                    "obfuscation": "x",
                },
            ),
            (
                {"content": None, "reasoning_content": "hm", "reasoning": "hm"},
                {"content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}},
                {},
            ),
            ({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}, {}, {}),
            (
                {
                    "tool_calls": [
                        {
                            "index": 1,
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "f", "arguments": ""},
                        }
                    ]
                },
                {},
                {"provider": "sample"},
            ),
        )
    )

    def decode(self, data: Any, make: Callable[[Any], Any]) -> LightDict | None:
        """Return the chunk as a dictionary; `None` if the SDK is to make it."""
        if type(data) is not dict or not self._chunk.accepts(data):
            return None
        choices = data["choices"]
        if len(choices) != 1:
            return None
        choice = choices[0]
        if type(choice) is not dict or not self._choice.accepts(choice):
            return None
        delta = choice["delta"]
        if not self._delta.accepts(delta):
            return None
        delta = {**self._delta.template, **delta}
        if delta["tool_calls"]:
            calls = []
            for call in delta["tool_calls"]:
                if type(call) is not dict or not self._call.accepts(call):
                    return None
                function = call.get("function")
                if function is None or not self._function.accepts(function):
                    return None
                function = {**self._function.template, **function}
                calls.append({**self._call.template, **call, "function": function})
            delta["tool_calls"] = calls
        choices = [{**self._choice.template, **choice, "delta": delta}]
        result = LightDict({**self._chunk.template, **data, "choices": choices})
        result._make = partial(make, data)
        return result

    values: Final[Mapping[Path, type]] = {
        ("created",): int,
        ("obfuscation",): str,
        ("choices", 0, "text"): str,
        **{
            ("choices", 0, "delta", *path): kind
            for path, kind in (
                (("content",), str),
                (("reasoning",), str),
                (("reasoning_content",), str),
                (("refusal",), str),
                (("token_id",), int),
                (("tool_calls", 0, "function", "arguments"), str),
            )
        },
    }

    def builder(self, light: Any, paths: list[Path]) -> Build:
        """Return what makes chunks like a decoded one, with other values at the given paths."""
        copy = copies(light, paths)

        def build(values: list[Any], make: Callable[[], Any]) -> LightDict:
            result = LightDict(copy(values))
            result._make = make
            return result

        return build

    def is_equal(self, light: Any, model: Any) -> bool:
        """Return whether a result of `decode` equals the SDK's model of the same data."""
        return bool(light == model.model_dump())


def _model_of(model: Any, name: str) -> Any:
    """Return the model that a field holds, optional or not."""
    annotation = model.model_fields[name].annotation
    for option in (annotation, *get_args(annotation)):
        if hasattr(option, "model_fields"):
            return option
    raise UnknownModelError(model)


def _item_of(model: Any, name: str) -> Any:
    """Return the model that a field holds a list of, optional or not."""
    annotation = model.model_fields[name].annotation
    for option in (annotation, *get_args(annotation)):
        for item in get_args(option):
            if hasattr(item, "model_fields"):
                return item
    raise UnknownModelError(model)
