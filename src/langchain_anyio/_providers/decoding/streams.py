"""One stream of an SDK that is made by Stainless: its events decoded here, and its end seen.

Two attributes of the SDK's stream are replaced, before it is read: its decoder of server-sent
events, and its client, of which it uses the method that makes models. The private names of these
SDKs that this needs stand in this module alone, and where one is not as expected, or has been
replaced by somebody, the stream is left as it is.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from types import AsyncGeneratorType, FunctionType
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from langchain_anyio._errors import StreamTruncatedError

from . import anthropic_messages, openai_chat, openai_responses
from .anthropic_messages import Messages
from .events import EventDecoder
from .light import Light, LightDict, LightFlat
from .openai_chat import ChatCompletions
from .openai_responses import Responses
from .shapes import UnknownModelError
from .templates import Templates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .templates import Build, Path

# Set in the environment, streams are left to the SDK, also their end, which a server without any
# mark of it needs.
SWITCH: Final = "LANGCHAIN_ANYIO_SDK_DECODING"


class Format(Protocol):
    """The events of a wire format that are decoded here, in place of one SDK's models.

    Attributes:
        samples: Data of such events.
        values: The type of each value in which the events of an answer differ, by its path.
    """

    @property
    def samples(self) -> Iterable[Any]: ...

    @property
    def values(self) -> Mapping[Path, type]: ...

    def decode(self, data: Any, make: Callable[[Any], Any]) -> Any:
        """Return what stands in for the SDK's model; `None` if the SDK is to make it.

        Args:
            data: The event's data.
            make: Makes the SDK's model of such data.
        """

    def builder(self, light: Any, paths: list[Path], /) -> Build:
        """Return what makes events like a decoded one, with other values at the given paths."""

    def is_equal(self, light: Any, model: Any) -> bool:
        """Return whether a result of `decode` equals the SDK's model of the same data."""


def decoded(stream: Any, *, models: bool = False) -> Any:
    """Return the same stream, which now decodes its answer here and sees where it was cut.

    Call it before the stream is read. A stream that is not an SDK's own, of a known wire format,
    in every part that matters here, stays as it is.

    Args:
        stream: What an SDK returned.
        models: Whether the SDK makes the models of all events. The end is seen all the same.
    """
    if os.environ.get(SWITCH):
        return stream
    try:
        _decode(stream, models)
    except (AttributeError, KeyError, TypeError, UnknownModelError):
        pass  # another release of the SDK
    return stream


def _decode(stream: Any, models: bool) -> None:
    package = type(stream).__module__.partition(".")[0]
    if package not in {"openai", "anthropic"} or not _is_known(stream, package):
        return
    has_finished = _end_of(package, stream._cast_to)
    if has_finished is None:
        return
    client, decoder = stream._client, stream._decoder
    make = partial(client._process_response_data, cast_to=stream._cast_to, response=stream.response)
    reader = _Reader(client, _making(make), has_finished)
    if not models:
        reader.use(_format_of(package, stream._cast_to, type(client), reader.make))
    stream._decoder = EventDecoder(decoder, reader.check_end, reader.parse)
    stream._client = reader


def _is_known(stream: Any, package: str) -> bool:
    """Return whether a stream is the SDK's own, and nobody has replaced a part of it."""
    streaming = sys.modules[f"{package}._streaming"]
    stream_class = streaming.AsyncStream
    if type(stream) is not stream_class or type(stream._decoder) is not streaming.SSEDecoder:
        return False
    # The one SDK opens the generator with the stream, the other on first use; what traces a stream
    # sets another one, or has an observer.
    generator = vars(stream).get("_iterator")
    if generator is not None and not (
        isinstance(generator, AsyncGeneratorType)
        and generator.ag_code is stream_class.__stream__.__code__
    ):
        return False
    if getattr(stream, "_observer", None) is not None:
        return False
    client = stream._client
    if client._strict_response_validation or "_process_response_data" in vars(client):
        return False
    base = sys.modules[f"{package}._base_client"]
    parts = (
        (type(client)._process_response_data, base),
        *((getattr(stream_class, name), streaming) for name in _PARTS),
        *((getattr(type(stream._decoder), name), streaming) for name in ("decode", "aiter_bytes")),
    )
    if not all(
        isinstance(part, FunctionType) and part.__globals__ is vars(home) for part, home in parts
    ):
        return False
    return {"_client", "_process_response_data"} <= {
        *stream_class.__stream__.__code__.co_names
    } and "_decoder" in stream_class._iter_events.__code__.co_names


_PARTS: Final = ("__anext__", "__aiter__", "_iter_events", "__stream__")


def _end_of(package: str, cast_to: Any) -> Callable[[Any], bool] | None:
    types = sys.modules[f"{package}.types"]
    if package == "anthropic":
        known = types.RawMessageStreamEvent, types.beta.BetaRawMessageStreamEvent
        return anthropic_messages.has_finished if cast_to in known else None
    if cast_to is types.chat.ChatCompletionChunk:
        return openai_chat.has_finished
    if cast_to == types.responses.ResponseStreamEvent:
        return openai_responses.has_finished
    return None


# By the package, what the stream's events are and the client's class.
_formats: Final[dict[Any, Format | None]] = {}


def _format_of(
    package: str, cast_to: Any, client: type, make: Callable[[Any], Any]
) -> Format | None:
    """Return the format, if on its samples it equals the SDK; else `None`."""
    key = package, cast_to, client
    if key not in _formats:
        try:
            found: Format
            if package == "anthropic":
                found = Messages(make)
            elif isinstance(cast_to, type):
                found = ChatCompletions(cast_to)
            else:
                found = Responses(make)
            lights = [(found.decode(sample, make), make(sample)) for sample in found.samples]
            equal = all(light is not None and found.is_equal(light, made) for light, made in lights)
            _formats[key] = found if equal else None
        except (AttributeError, KeyError, TypeError, UnknownModelError):
            _formats[key] = None
    return _formats[key]


def _making(process: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda data: process(data=data)


_DECODED: Final = frozenset({Light, LightDict, LightFlat})


@final
class _Reader:
    """In place of a stream's client: makes its events, and knows whether the last one has come."""

    __slots__ = ("_client", "_finished", "_format", "_has_finished", "_templates", "make")

    def __init__(
        self, client: Any, make: Callable[[Any], Any], has_finished: Callable[[Any], bool]
    ) -> None:
        self._client = client
        self._has_finished = has_finished
        self._finished = False
        self._format: Format | None = None
        self._templates: Templates | None = None
        self.make = make

    def use(self, format: Format | None) -> None:
        """Decode the events of a format, instead of making the SDK's models."""
        self._format = format
        self._templates = None if format is None else Templates(format.values, format.builder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def parse(self, name: str | None, text: str) -> Any:
        """Return an event's data, or what stands in for the event if it is like an earlier one."""
        if self._templates is None:
            return json.loads(text)
        return self._templates.parse(name, text, self.make)

    def _process_response_data(self, *, data: Any, cast_to: Any, response: Any) -> Any:
        if type(data) in _DECODED:
            return data
        if self._format is not None and self._templates is not None:
            light = self._format.decode(data, self.make)
            if light is not None:
                self._templates.note(data, light)
                return light
        if not self._finished:
            self._finished = self._has_finished(data)
        return self._client._process_response_data(data=data, cast_to=cast_to, response=response)

    def check_end(self, marked: bool) -> None:
        """Raise if the bytes have ended before the answer has.

        Raises:
            StreamTruncatedError: None of the events said that the answer is whole.
        """
        if not self._finished and not marked:
            raise StreamTruncatedError
