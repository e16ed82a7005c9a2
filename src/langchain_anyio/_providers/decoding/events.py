"""Server-sent events from bytes, as the decoders of the SDKs give them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Protocol, final

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator

    Parse = Callable[[str | None, str], Any]

_END: Final = b"\n\n"
_DATA: Final = b"data: "
_OBJECT: Final = _DATA + b"{"
_EVENT: Final = b"event: "
# Bytes of the end that are kept: those of the mark's line and of a line's end before it.
_TAIL: Final = 64
_DONE: Final = re.compile(rb"[\r\n]data: ?\[DONE\][^\r\n]*(?:\r?\n|\r)?\Z")


class SDKDecoder(Protocol):
    """The decoder of an SDK."""

    def decode(self, line: str) -> Any: ...

    def aiter_bytes(self, iterator: AsyncIterator[bytes]) -> AsyncIterator[Any]: ...


@final
class Event:
    """A server-sent event, with what the SDKs read of one."""

    __slots__ = ("_parse", "data", "event")

    id: Final = None
    retry: Final = None

    def __init__(self, event: str | None, data: str, parse: Parse) -> None:
        self.event = event
        self.data = data
        self._parse = parse

    def json(self) -> Any:
        return self._parse(self.event, self.data)


@final
class EventDecoder:
    """Decodes the bytes of a response, in place of an SDK's decoder and to equal events.

    Events in the plain form of all servers of these SDKs, an object in one line of data with or
    without its name before it, are decoded here. Lines of any other event go to the SDK's decoder,
    one by one; from the first carriage return on, all bytes do.

    Memory is bounded by the longest event.

    Args:
        sdk: The SDK's decoder.
        on_end: Called when the bytes have ended, after their last event, with whether `[DONE]` was
            among them. May raise.
        parse: Parses the data of an event that is decoded here, given the event's name and data.
    """

    __slots__ = ("_done", "_on_end", "_parse", "_pending", "_sdk")

    def __init__(self, sdk: SDKDecoder, on_end: Callable[[bool], object], parse: Parse) -> None:
        self._sdk = sdk
        self._on_end = on_end
        self._parse = parse
        self._pending = bytearray()
        self._done = False

    def aiter_bytes(self, iterator: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        """Iterate over the events; the SDKs call this."""
        return _Events(self, iterator)

    def rest(self, data: bytes, iterator: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        """Iterate over the events in `data` and what follows, decoded by the SDK."""
        return self._sdk.aiter_bytes(self._rest(data, iterator))

    def end(self) -> None:
        """Call `on_end`, at the end of the bytes."""
        # The bytes may end within the event of the mark.
        begin = b"" if len(self._pending) > _TAIL else _END
        self._on_end(self._done or _DONE.search(begin + self._pending[-_TAIL:]) is not None)

    async def _rest(
        self, data: bytes, iterator: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes, None]:
        # How the SDK's decoder splits lines may depend on where the bytes are split.
        pending = self._pending
        pending += data
        yield bytes(pending)
        async for data in iterator:
            yield data
            pending += data
            del pending[: -_TAIL - 1]

    def feed(self, data: bytes) -> Iterable[Any]:
        """Decode more bytes, without carriage returns, up to the end of the last whole event."""
        pending = self._pending
        if pending:
            # Only what is new, and the byte before it, can complete the event.
            begin = len(pending) - 1
            pending += data
            if pending.find(_END, begin) < 0:
                return ()
            data = bytes(pending)
            pending.clear()
        elif data.find(_END) == len(data) - len(_END):
            # One whole event, as nearly all servers write them.
            event = _plain(data[: -len(_END)], self._parse)
            if event is not None:
                return (event,)
        return self._blocks(data)

    def _blocks(self, data: bytes) -> Iterator[Any]:
        blocks = data.split(_END)
        self._pending += blocks.pop()
        for block in blocks:
            event = _plain(block, self._parse)
            if event is not None:
                yield event
                continue
            yield from self._by_lines(block.split(b"\n"))
            yield from self._by_lines((b"",))

    def finish(self) -> Iterator[Any]:
        """Decode what is left at the end of the bytes."""
        lines = bytes(self._pending).split(b"\n")
        if not lines[-1]:
            lines.pop()
        return self._by_lines(lines)

    def _by_lines(self, lines: Iterable[bytes]) -> Iterator[Any]:
        for line in lines:
            event = self._sdk.decode(line.decode("utf-8"))
            if event is not None:
                self.note(event)
                yield event

    def note(self, event: Any) -> None:
        """Remember whether an event is the mark of the end."""
        if event.data.startswith("[DONE]"):
            self._done = True


@final
class _Events:
    """The events of a response.

    Not a generator: the SDKs leave it before its end, which would then be reported when it is
    collected.
    """

    __slots__ = ("_decoder", "_over", "_ready", "_rest", "_source")

    def __init__(self, decoder: EventDecoder, source: AsyncIterator[bytes]) -> None:
        self._decoder = decoder
        self._source = source
        self._ready: Iterator[Any] = iter(())
        self._rest: AsyncIterator[Any] | None = None
        self._over = False

    def __aiter__(self) -> _Events:
        return self

    async def __anext__(self) -> Any:
        decoder = self._decoder
        while not self._over:
            for event in self._ready:
                return event
            data: bytes | None = None
            try:
                if self._rest is not None:
                    event = await self._rest.__anext__()
                    decoder.note(event)
                    return event
                data = await self._source.__anext__()
            except StopAsyncIteration:
                pass
            if data is not None and b"\r" in data:
                self._rest = decoder.rest(data, self._source)
            elif data is not None:
                self._ready = iter(decoder.feed(data))
            elif self._rest is None:
                self._ready, self._rest = iter(decoder.finish()), _NoMore()
            else:
                self._over = True
                decoder.end()
        raise StopAsyncIteration


@final
class _NoMore:
    """An iteration that has ended."""

    __slots__ = ()

    def __aiter__(self) -> _NoMore:
        return self

    async def __anext__(self) -> Any:
        raise StopAsyncIteration


def _plain(block: bytes, parse: Parse) -> Event | None:
    """Return an event in its plain form; `None` if it has another one, or is not UTF-8."""
    name = None
    try:
        if block.startswith(_EVENT):
            line, _, block = block.partition(b"\n")
            name = line.decode("utf-8")[len(_EVENT) :] or None
        if not block.startswith(_OBJECT) or b"\n" in block:
            return None
        return Event(name, block.decode("utf-8")[len(_DATA) :], parse)
    except UnicodeDecodeError:
        return None  # the SDK's decoder raises for the same line
