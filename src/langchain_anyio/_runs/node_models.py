"""The events of chat models that the nodes of a graph call.

A node calls its model by langchain-core, which makes protocol events of the chunks for langgraph's
handler. While a graph runs, this is done by this package's converter, which makes the same events
in a fraction of the time, and calls handlers that run inline without a task for each event.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import Any, Final, final

from anyio.lowlevel import checkpoint
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from typing_extensions import override

from langchain_anyio._backends.cancellation import EXITS, is_cancellation
from langchain_anyio._langchain_core import (
    EVENTS_FOR_HANDLERS,
    HAS_TOOL_CALL_DELTAS,
    can_be_read_meanwhile,
    chunks_of,
    generation_info_of,
    has_native_events,
)
from langchain_anyio._primitives.checkpoints import STEPS_BETWEEN_YIELDS
from langchain_anyio._protocol.chunk_converter import ChunkBridge
from langchain_anyio._providers.within_runs import BoundWithinRuns, is_in_loop, within_run

from .callbacks import overrides

_logger = logging.getLogger(__name__)


@final
class ConvertsWithinRuns(BoundWithinRuns):
    """langchain-core's method that makes events, of which `_events()` takes the place in runs."""

    __slots__ = ()

    @override
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if (
            instance is not None
            and within_run()
            and not has_native_events(instance)
            and is_in_loop()
        ):
            return partial(_events, instance)
        return self.method.__get__(instance, owner)


DESCRIPTORS: Final = {EVENTS_FOR_HANDLERS: ConvertsWithinRuns} if HAS_TOOL_CALL_DELTAS else {}
"""Substitutes for methods of chat models while a graph runs, by their names."""


async def _events(
    model: BaseChatModel,
    messages: Any,
    *,
    run_manager: AsyncCallbackManagerForLLMRun,
    stream: Any,
    stop: list[str] | None = None,
    **kwargs: Any,
) -> AsyncGenerator[Any, None]:
    """Yield the events of a model, each once `stream` and the handlers have got it."""
    bridge = ChunkBridge(stream.message_id, generation_info_of(stream))
    inline = _inline_handlers(run_manager)
    tell = run_manager.on_stream_event if inline is None else None
    told = {
        "run_id": run_manager.run_id,
        "parent_run_id": run_manager.parent_run_id,
        "tags": run_manager.tags,
    }
    assemble = stream.dispatch if can_be_read_meanwhile(stream) else _JoinedText(stream.dispatch)
    chunks = chunks_of(model, messages, stop=stop, run_manager=run_manager, **kwargs)
    taken = 0
    try:
        over = False
        iterator = aiter(chunks)
        while not over:
            try:
                events = bridge.feed(await anext(iterator))
            except StopAsyncIteration:
                events, over = bridge.finish(), True
            for event in events:
                assemble(event)
                if tell is not None:
                    await tell(event)
                for handler in inline or ():
                    _tell(handler, event, told)
                yield event
            taken += 1
            if not taken % STEPS_BETWEEN_YIELDS:
                await checkpoint()  # a model may never wait
    except BaseException:
        await _close(chunks)
        raise


async def _close(chunks: Any) -> None:
    """Close a model's generator after an error, which its own errors do not replace.

    One that is suspended within a task group raises its `GeneratorExit` in a group.
    """
    aclose = getattr(chunks, "aclose", None)
    if aclose is None:
        return
    try:
        await aclose()
    except BaseException as exc:
        if is_cancellation(exc) or isinstance(exc, EXITS):
            raise
        if isinstance(exc, Exception):
            _logger.warning("closing %r raised %r", chunks, exc)


@final
class _JoinedText:
    """Passes events on, successive deltas of one text as one, just before another event."""

    __slots__ = ("_dispatch", "_index", "_texts")

    def __init__(self, dispatch: Callable[[Any], None]) -> None:
        self._dispatch = dispatch
        self._index: object = None
        self._texts: list[str] = []

    def __call__(self, event: Any) -> None:
        if event["event"] == "content-block-delta" and event["delta"]["type"] == "text-delta":
            if self._texts and event["index"] != self._index:
                self._pass_on()
            self._index = event["index"]
            self._texts.append(event["delta"]["text"])
        else:
            if self._texts:
                self._pass_on()
            self._dispatch(event)

    def _pass_on(self) -> None:
        delta = {"type": "text-delta", "text": "".join(self._texts)}
        self._texts.clear()
        self._dispatch({"event": "content-block-delta", "index": self._index, "delta": delta})


def _inline_handlers(
    run_manager: AsyncCallbackManagerForLLMRun,
) -> Sequence[BaseCallbackHandler] | None:
    """Return the handlers to tell of events; `None` if one cannot just be called."""
    if type(run_manager) is not AsyncCallbackManagerForLLMRun:
        return None
    handlers = [
        handler
        for handler in run_manager.handlers
        if not handler.ignore_llm and overrides(handler, "on_stream_event")
    ]
    for handler in handlers:
        if not handler.run_inline or inspect.iscoroutinefunction(handler.on_stream_event):
            return None
    return handlers


def _tell(handler: BaseCallbackHandler, event: Any, told: dict[str, Any]) -> None:
    """Call a handler; its errors are logged as by langchain-core."""
    try:
        handler.on_stream_event(event, **told)
    except Exception as exc:
        name = f"{type(handler).__name__}.on_stream_event"
        _logger.warning("Error in %s callback: %r", name, exc)
        if handler.raise_error and not isinstance(exc, NotImplementedError):
            raise
