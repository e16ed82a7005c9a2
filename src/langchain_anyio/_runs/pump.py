"""The way of a model's answer into a stream's state."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from types import AsyncGeneratorType
from typing import Any, final

import anyio
from anyio.lowlevel import checkpoint

from langchain_anyio._backends import limits
from langchain_anyio._backends.cancellation import is_cancellation
from langchain_anyio._backends.current import is_loop_ending
from langchain_anyio._errors import StreamStalledError
from langchain_anyio._primitives.checkpoints import STEPS_BETWEEN_YIELDS
from langchain_anyio._protocol.converters import Converter
from langchain_anyio._stream_state import StreamState

from .late_error import LateError
from .managers import AnyioLLMRunManager
from .stall_timer import StallTimer


@final
class Pump:
    """Dispatches a model's items as events, and holds the model back if no consumer keeps up.

    Args:
        items: The items that the model yields.
        converter: Converts each item to events, and gives the final events.
        state: Receives the events.
        run: The run manager, whose handlers are notified of each event.
        max_buffer_size: Number of events that no consumer has read at which the model is held back.
        stall: The time limit of each wait for the model.
        scope: The scope that the model runs in.
        late: Receives errors of closing the items.
    """

    def __init__(
        self,
        items: AsyncIterator[Any],
        converter: Converter,
        state: StreamState,
        run: AnyioLLMRunManager,
        *,
        max_buffer_size: float,
        stall: StallTimer | None,
        scope: anyio.CancelScope,
        late: LateError,
    ) -> None:
        self._items = items
        self._converter = converter
        self._state = state
        self._run = run
        self._limit = max_buffer_size
        self._stall = stall
        self._model_scope = scope
        self._late = late
        self._open: tuple[Any, ...] = (items,)

    async def run(self, fail: Callable[[BaseException], None]) -> None:
        """Dispatch all items.

        Args:
            fail: Called with the error that ends the model, before the model is closed.

        Raises:
            StreamStalledError: The model took too long for an item.
            BaseException: The model's error.
        """
        state, flow, limit, stall = self._state, self._state.flow, self._limit, self._stall
        converter, run = self._converter, self._run
        handlers = run.handlers
        iterator = self._items.__aiter__()
        if iterator is not self._items:
            self._open = (iterator, self._items)
        next_item: Callable[[], Awaitable[Any]] = iterator.__anext__
        step = next_item
        steps = 0
        over = False
        failure: BaseException | None = None
        # A generator may be suspended within a cancel scope or task group of its own. These are
        # nested in our scope, so the generator must be closed within it. Until it is closed, our
        # scope shields it from the cancellation that ended the run.
        scope = anyio.CancelScope() if stall is None else stall.new_scope()
        stalled = False
        try:
            with scope:
                while not over:
                    try:
                        # A native producer may go on after the message's end, where nobody reads.
                        if not (flow.has_room(limit) or state.done or step is not next_item):
                            await flow.wait_for_room(limit)
                        if stall is not None and step is next_item:
                            stall.start()
                        try:
                            events = converter.feed(await step())
                        except StopAsyncIteration:
                            events = converter.finish()
                            over = True
                        if stall is not None:
                            stall.stop()
                        if step is not next_item:
                            step, failure = next_item, None
                            scope.deadline = math.inf
                        for event in events:
                            if not (flow.has_room(limit) or state.done):
                                await flow.wait_for_room(limit)
                            state.dispatch(event)
                            if handlers:
                                await run.on_stream_event(event)
                        steps += 1
                        if not steps % STEPS_BETWEEN_YIELDS:
                            await checkpoint()
                    except BaseException as exc:
                        stalled = failure is None and scope.cancel_called
                        step, failure = next_item, exc
                        if stall is not None:
                            stall.stop()
                        scope.deadline = anyio.current_time() + limits.MODEL_SECONDS
                        if self._is_for_generator(exc, iterator, scope):
                            # A scope of its own was cancelled while it was suspended.
                            step = partial(iterator.athrow, exc)  # type: ignore[attr-defined]
                            continue
                        scope.shield = True
                        if not is_cancellation(exc):
                            fail(exc)
                        await self.aclose()
                        raise
            if stall is not None and stalled and scope.cancelled_caught:
                raise StreamStalledError(stall.seconds)
            if failure is not None:  # closing took too long
                raise failure
        finally:
            del failure

    def _is_for_generator(
        self, error: BaseException, iterator: object, scope: anyio.CancelScope
    ) -> bool:
        """Return whether `error` is a cancellation by a scope that the model's generator holds."""
        return (
            isinstance(error, anyio.get_cancelled_exc_class())
            and isinstance(iterator, AsyncGeneratorType)
            and iterator.ag_frame is not None
            and not (self._model_scope.cancel_called or scope.cancel_called)
            and not is_loop_ending()
        )

    async def aclose(self) -> None:
        """Close the source of the items, only once even if closing it fails."""
        sources, self._open = self._open, ()
        for source in sources:
            # An iterator that is not an async generator may lack it.
            aclose = getattr(source, "aclose", None)
            if aclose is not None:
                try:
                    await aclose()
                except anyio.get_cancelled_exc_class():
                    raise
                except BaseException as exc:  # noqa: BLE001 - raised to whoever awaits the stream
                    self._late.note(exc)
