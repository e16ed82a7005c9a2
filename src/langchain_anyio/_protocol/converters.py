"""Converters of what a model gives to protocol events. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, final

from langchain_core.messages import AIMessage

from langchain_anyio._langchain_core import message_to_events

Event = Mapping[str, Any]


class Converter(Protocol):
    """Turns the items of one answer into events, as `ChunkBridge` does for chunks."""

    def feed(self, item: Any, /) -> Iterable[Event]:
        """Return the events of the next item."""
        ...

    def finish(self) -> Iterable[Event]:
        """Return the events that end the message."""
        ...


@final
class EventConverter:
    """Converter for items that are events already."""

    __slots__ = ()

    def feed(self, item: Event) -> Iterable[Event]:
        return (item,)

    def finish(self) -> Iterable[Event]:
        return ()


@final
class MessageConverter:
    """Converter for items that are whole messages.

    It adds `additional_kwargs`, which langchain-core leaves out of the events of a message.
    """

    __slots__ = ("_message_id",)

    def __init__(self, message_id: str | None) -> None:
        self._message_id = message_id

    def feed(self, item: AIMessage) -> Iterable[Event]:
        for event in message_to_events(item, message_id=self._message_id):
            if event["event"] == "message-finish" and item.additional_kwargs:
                yield {**event, "additional_kwargs": dict(item.additional_kwargs)}
            else:
                yield event

    def finish(self) -> Iterable[Event]:
        return ()
