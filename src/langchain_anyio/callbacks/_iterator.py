"""`AsyncIteratorCallbackHandler`: iterate over the tokens of models."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, final, overload

from anyio import WouldBlock
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import BaseMessage, get_buffer_string
from typing_extensions import Self, override

from langchain_anyio._backends.event_loops import Loop
from langchain_anyio._backends.waiters import waiters
from langchain_anyio._primitives.batches import Pace
from langchain_anyio._primitives.checkpoints import ConsumerCheckpoints
from langchain_anyio._stream_state import start_entered

from ._copies import Copied
from ._run_node import RunGroup, RunNode
from ._run_tree import RunTree, text_in, text_of

if TYPE_CHECKING:
    from uuid import UUID

    from langchain_core.documents import Document
    from langchain_core.outputs import LLMResult

    from langchain_anyio._primitives.event import Event
    from langchain_anyio._primitives.queue import Queue

B = TypeVar("B")
T = TypeVar("T")


@final
class TokenIterator(AsyncIterator[T], Generic[T]):
    """One iteration over the tokens that a handler receives.

    Tasks that share an iterator share out its tokens. A step that is cancelled takes no token. A
    handler with a bounded buffer holds the model back for the iterator until it has ended, is
    closed, or is dropped.
    """

    __slots__ = ("_reader",)

    def __init__(self, reader: _Reader[T]) -> None:
        self._reader = reader

    def __aiter__(self) -> Self:
        return self

    # Not a coroutine function: an error or a cancellation keeps the frames of a step alive. They
    # must not refer to this object once the step has begun, so that it is freed when the loop over
    # it is left.
    def __anext__(self) -> Coroutine[Any, Any, T]:
        """Return the next token.

        Every step is a checkpoint; it yields to other tasks at least every 64 steps.
        """
        return self._reader.step(self)

    @overload
    def batches(  # type: ignore[overload-overlap]  # a batch of text is a string, not a list
        self: TokenIterator[str], interval: float = 0.0
    ) -> TokenBatches[str]: ...

    @overload
    def batches(self, interval: float = 0.0) -> TokenBatches[list[T]]: ...

    def batches(self, interval: float = 0.0) -> TokenBatches[Any]:
        """Iterate over what has come since the last step, all at once.

        A batch is the text of the tokens as one `str`, or of `runs()` a list, and is never empty.
        The batches are part of this iteration: what one takes the other does not get.

        With an interval, the first batch comes as soon as there is one, and the last one as soon as
        the iteration ends. In between, models may run ahead, but no further than the handler's
        buffer allows.

        Args:
            interval: The shortest time between two batches in seconds, such as 0.05 for a page that
                is updated 20 times a second.

        Raises:
            TypeError: `interval` is not a number.
            ValueError: `interval` is negative, infinite or NaN.
        """
        return TokenBatches(self, self._reader, interval)

    async def aclose(self) -> None:
        """End the iteration, and leave the remaining tokens for another one. Idempotent."""
        self._reader.close()

    def __del__(self) -> None:
        self._reader.drop()


@final
class TokenBatches(AsyncIterator[B], Generic[B]):
    """The batches of a `TokenIterator`, with the same guarantees.

    A step that is cancelled takes no token, also while it waits for the interval to be over.
    """

    __slots__ = ("_pace", "_reader", "_tokens")

    def __init__(self, tokens: TokenIterator[Any], reader: _Reader[Any], interval: float) -> None:
        self._pace = Pace(interval)
        self._tokens = tokens  # which is open while it is alive
        self._reader = reader

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, B]:
        """Return the next batch; always a checkpoint."""
        return self._reader.step_batch(self, self._pace)

    async def aclose(self) -> None:
        """End the iteration, as `TokenIterator.aclose()` does."""
        await self._tokens.aclose()


@final
class _Reader(Generic[T]):
    """The state of a `TokenIterator`: its place, which is given up when the iterator is dropped."""

    __slots__ = (
        "_dropped",
        "_hands",
        "_loop",
        "_over",
        "_part",
        "_queue",
        "_raise_on_error",
        "_remaining",
        "_run",
        "_runs",
        "_shape",
        "_steps",
        "_steps_begun",
    )

    def __init__(
        self,
        runs: RunTree,
        run: RunNode | None,
        shape: Callable[[RunNode, str], T],
        *,
        raise_on_error: bool,
    ) -> None:
        self._runs = runs
        self._run = run
        self._queue = runs.queue if run is None else runs.queue_of(run)
        self._shape = shape
        self._raise_on_error = raise_on_error
        # The run or the run group that it reads. The group is known only once iteration has begun.
        self._part: RunNode | RunGroup | None = None
        self._hands = 0
        self._remaining: int | None = None
        self._steps = ConsumerCheckpoints()
        self._loop: Loop | None = None
        # Number of steps in progress; a dropped iterator stays open until they have ended.
        self._steps_begun = 0
        self._over = False
        self._dropped = False

    async def step(self, iterator: object) -> T:
        """Return the next token.

        Args:
            iterator: The iterator. As an argument, a step that never begins keeps it alive and
                releases it.
        """
        self._steps_begun += 1
        del iterator
        try:
            queue, part = self._queue, self._part
            ready = part is None or part.ended or self._over or queue.qsize() > 0
            await self._steps.take(ready=ready)
            if part is None:
                await start_entered(self._runs)
            while True:
                with self._runs.lock:
                    part = self._part or self._begin()
                    run = self._next_run(part)
                    if run is not None:
                        return self._shape(run, queue.take())
                    self._runs.settle()
                    if self._over or self._remaining is not None or part.ended:
                        self._end(part)
                    if self._loop is None:
                        self._loop = Loop()
                    self._steps.check_loop(self._loop.token)
                    waiter = (self._steps.make_waiter or self._steps.look_up_waiters())()
                    queue.expect_news(waiter, self._loop)
                await queue.news.wait(waiter)
        finally:
            self._steps_begun -= 1
            if self._dropped:
                self.drop()

    async def step_batch(self, iterator: object, pace: Pace) -> Any:
        """Return all tokens that have come, as `step()` returns one.

        Args:
            iterator: The iterator, as in `step()`.
            pace: When the next batch is due.
        """
        self._steps_begun += 1
        del iterator
        try:
            queue, part = self._queue, self._part
            ready = part is None or part.ended or self._over or queue.qsize() > 0
            await self._steps.take(ready=ready)
            if part is None:
                await start_entered(self._runs)
            while True:
                with self._runs.lock:
                    part = self._part or self._begin()
                    early = pace.is_early() and not self._is_ending(part)
                    if not early:
                        if batch := self._take_all(part):
                            pace.note_batch()
                            return batch
                        self._runs.settle()
                        if self._is_ending(part):
                            self._end(part)
                    if self._loop is None:
                        self._loop = Loop()
                    self._steps.check_loop(self._loop.token)
                    waiter = (self._steps.make_waiter or self._steps.look_up_waiters())()
                    if early:
                        queue.ends.join(waiter, self._loop)
                    else:
                        queue.expect_news(waiter, self._loop)
                if early:
                    await queue.ends.wait(waiter, pace.due)
                else:
                    await queue.news.wait(waiter)
        finally:
            self._steps_begun -= 1
            if self._dropped:
                self.drop()

    def _take_all(self, part: RunNode | RunGroup) -> str | list[T]:
        """Take the tokens that are there: as one string, unless each comes with an id."""
        taken: list[Any] = []
        while (run := self._next_run(part)) is not None:
            taken.append(self._shape(run, self._queue.take()))
        return "".join(taken) if self._shape is _token else taken

    def _is_ending(self, part: RunNode | RunGroup) -> bool:
        """Return whether no token will come after those that are there."""
        return (
            self._over
            or self._remaining is not None
            or part.ended
            or self._runs.is_by_hand(self._hands)
        )

    def _begin(self) -> RunNode | RunGroup:
        self._part = self._run or self._runs.next_span()
        self._hands = self._runs.hands
        self._queue.readers += 1
        self._queue.released = False
        return self._part

    def _next_run(self, part: RunNode | RunGroup) -> RunNode | None:
        """Return the run of the first token in the queue, if this iteration takes that token."""
        if self._over:
            return None
        if self._remaining is None and self._runs.is_by_hand(self._hands):
            # Once `done` is set by hand, the tokens that are there are read, but none that come
            # later.
            self._remaining = self._queue.qsize()
        if self._remaining is not None:
            self._remaining -= 1
            if self._remaining < 0:
                return None
        run = self._queue.first_run
        return run if run is not None and part.gives(run) else None

    def _end(self, part: RunNode | RunGroup) -> NoReturn:
        """Raise the exception that ends the iteration."""
        if not self._over:
            self._over = True
            self._queue.readers -= 1
            if isinstance(part, RunNode):
                self._runs.read_run(part)
            else:
                self._runs.read_span(part)
            if part.error is not None and self._raise_on_error:
                part.error.throw()
        raise StopAsyncIteration

    def close(self) -> None:
        with self._runs.lock:
            if not self._over:
                if self._part is not None:
                    self._queue.readers -= 1
                if not self._queue.readers:
                    # The iterator may have left for good, even before its first step, so nobody
                    # waits for it.
                    self._queue.released = True
                    self._queue.room.ring()
            self._over = True
            self._queue.announce_end()

    def drop(self) -> None:
        self._dropped = True
        if not self._steps_begun:
            self.close()


class AsyncIteratorCallbackHandler(Copied, AsyncCallbackHandler):
    """Iterate over the tokens of models, as an async iterable, while a run of any kind goes on.

    Passed in the config of a run, the handler sees that run and everything that is part of it. One
    handler serves any number of runs, one after the other or in parallel:

    | way to listen | gives | ends |
    |---|---|---|
    | `async for token in handler`, `handler.aiter()` | tokens | with the outermost run |
    | `handler.aiter(run_id=id)` | tokens of that run and of its parts | with that run |
    | `handler.runs()` | `(id of the model's run, token)` | with the outermost run |

    Each token goes to exactly one iteration, exactly once, in the order of arrival, no matter when
    the iteration begins and which tasks are cancelled. Iterators that cover the same tokens share
    them out.

    The outermost run is the one that is not part of any other run that the handler sees: a chain,
    an agent, or a model that is called directly. Where several outermost runs overlap, iteration
    ends with the last. An iteration that begins before a run waits for it; one that begins after a
    run that nobody has read gets its tokens and then ends. Setting `done` ends all iterations, once
    they have taken the tokens that are there; do this where a call fails before it calls any
    handler.

    The error of the outermost run is raised after the tokens, with its own type; a cancelled run
    raises `StreamCancelledError`. An error that the run recovered from is not raised.

    A bounded buffer holds a model back until its tokens are taken, from the first one on. Once the
    last iterator is closed or dropped (leaving an `async for` drops it), models are no longer held
    back, until the next iterator begins.

    The handler may be used from any thread: the tokens of a synchronous run in a worker thread
    arrive on the event loop of the task that iterates. With a bounded buffer, such a run must not
    be on the thread of that event loop.

    A deep copy (`model.model_copy(deep=True)` copies a model's handlers) and an unpickled handler
    have the same settings and runs of their own; a shallow copy shares the runs and the queue.

    Ports `langchain_classic.callbacks.AsyncIteratorCallbackHandler`. As there, a subclass may put
    into `queue` and set `done` itself.

    Args:
        max_buffer_size: Number of tokens that `queue` holds before a model is held back; unlimited
            by default. A run that is iterated over by its id has a separate buffer of that size.
        raise_on_error: Whether iteration raises the error of a run, or ends silently.

    Raises:
        ValueError: `max_buffer_size` is negative, or neither an integer nor `math.inf`.
    """

    # Called in the task of the run, so that tokens stay in order and a cancelled run can be told
    # from one that goes on.
    run_inline = True

    _of_runs = frozenset(("_runs", "queue", "done"))

    queue: Queue[str]
    """The tokens not taken yet, except those of runs that are iterated over by their id."""

    done: Event
    """Set when the outermost run has ended; setting it by hand ends every iteration."""

    def __init__(self, max_buffer_size: float = math.inf, *, raise_on_error: bool = True) -> None:
        self._max_buffer_size = max_buffer_size
        self._raise_on_error = raise_on_error
        self._renew()

    @override
    def _renew(self) -> None:
        self._runs = RunTree(self._max_buffer_size)
        self.queue = self._runs.queue
        self.done = self._runs.done

    @property
    def always_verbose(self) -> bool:
        """Always `True`: the handler is called even where `verbose` is off."""
        return True

    # Iteration

    def aiter(self, *, run_id: UUID | None = None) -> TokenIterator[str]:
        """Return an iterator over the tokens.

        Args:
            run_id: The id of a run, which may have ended or not have started yet. The iterator
                gives only the tokens of that run and of its parts, and from now on no other
                iteration gets them.
        """
        run = None if run_id is None else self._runs.claim(run_id)
        return TokenIterator(_Reader(self._runs, run, _token, raise_on_error=self._raise_on_error))

    def runs(self) -> TokenIterator[tuple[UUID, str]]:
        """Return an iterator over `(id of the model's run, token)`, in the order of arrival.

        An item that was put into `queue` by hand has the id `UUID(int=0)`.
        """
        return TokenIterator(
            _Reader(self._runs, None, _id_and_token, raise_on_error=self._raise_on_error)
        )

    def __aiter__(self) -> AsyncIterator[str]:
        """Return an iterator over the tokens, like `aiter()`."""
        return self.aiter()

    # Events of models

    def _gives_tokens_to(self, reader: object) -> bool:
        return self._runs is reader

    @override
    async def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], **kwargs: Any
    ) -> None:
        """Record that a chat model has started.

        This calls `on_llm_start`, for subclasses that override only that method.
        """
        prompts = []
        if type(self).on_llm_start is not AsyncIteratorCallbackHandler.on_llm_start:
            prompts = [get_buffer_string(batch) for batch in messages]
        await self.on_llm_start(serialized, prompts, **kwargs)

    @override
    async def on_llm_start(
        self, serialized: dict[str, Any], prompts: list[str], **kwargs: Any
    ) -> None:
        """Record that a model has started."""
        self._start(kwargs, alone=True)

    @override
    async def on_llm_new_token(
        self, token: str | list[str | dict[str, Any]], **kwargs: Any
    ) -> None:
        """Emit a token, or the text in a list of content blocks; waits while the buffer is full."""
        run = self._run(kwargs)
        text = run.new_from_token(text_of(token))
        if text:
            await self._emit(run, text)

    @override
    async def on_stream_event(self, event: Any, **kwargs: Any) -> None:
        """Emit the text of a model that streams without reporting tokens."""
        text = text_in(event)
        if text:
            run = self._run(kwargs)
            if new := run.new_from_event(text):
                await self._emit(run, new)

    @override
    async def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        """Record that a model has ended."""
        self._end(kwargs)

    @override
    async def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        """Record that a model has failed or was cancelled."""
        self._end(kwargs, error)

    # Events of the runs that models are part of

    @override
    async def on_chain_start(
        self, serialized: dict[str, Any], inputs: dict[str, Any], **kwargs: Any
    ) -> None:
        """Record that a chain has started."""
        self._start(kwargs)

    @override
    async def on_chain_end(self, outputs: dict[str, Any], **kwargs: Any) -> None:
        """Record that a chain has ended."""
        self._end(kwargs)

    @override
    async def on_chain_error(self, error: BaseException, **kwargs: Any) -> None:
        """Record that a chain has failed or was cancelled."""
        self._end(kwargs, error)

    @override
    async def on_tool_start(
        self, serialized: dict[str, Any], input_str: str, **kwargs: Any
    ) -> None:
        """Record that a tool has started."""
        self._start(kwargs, alone=True)

    @override
    async def on_tool_end(self, output: Any, **kwargs: Any) -> None:
        """Record that a tool has ended."""
        self._end(kwargs)

    @override
    async def on_tool_error(self, error: BaseException, **kwargs: Any) -> None:
        """Record that a tool has failed or was cancelled."""
        self._end(kwargs, error)

    @override
    async def on_retriever_start(
        self, serialized: dict[str, Any], query: str, **kwargs: Any
    ) -> None:
        """Record that a retriever has started."""
        self._start(kwargs, alone=True)

    @override
    async def on_retriever_end(self, documents: Sequence[Document], **kwargs: Any) -> None:
        """Record that a retriever has ended."""
        self._end(kwargs)

    @override
    async def on_retriever_error(self, error: BaseException, **kwargs: Any) -> None:
        """Record that a retriever has failed or was cancelled."""
        self._end(kwargs, error)

    def _start(self, kwargs: dict[str, Any], *, alone: bool = False) -> None:
        self._runs.begin(kwargs.get("run_id"), kwargs.get("parent_run_id"), alone=alone)

    def _run(self, kwargs: dict[str, Any]) -> RunNode:
        run = self._runs.get(kwargs.get("run_id"), kwargs.get("parent_run_id"))
        self._runs.follow(run)
        return run

    def _end(self, kwargs: dict[str, Any], error: BaseException | None = None) -> None:
        self._runs.end(kwargs.get("run_id"), kwargs.get("parent_run_id"), error)

    async def _emit(self, run: RunNode, text: str) -> None:
        """Put a token into the queue of its run, waiting for room if there is none."""
        while True:
            with self._runs.lock:
                if run.cut_off:
                    return None
                queue = self._runs.queue_of(run)
                try:
                    return queue.put_of(run, text)
                except WouldBlock:
                    waiter = waiters()()
                    queue.room.join(waiter, Loop())
            await queue.room.wait(waiter)


def _token(_: RunNode, token: str) -> str:
    return token


def _id_and_token(run: RunNode, token: str) -> tuple[UUID, str]:
    return run.id, token


for _public in (AsyncIteratorCallbackHandler, TokenIterator, TokenBatches):
    _public.__module__ = "langchain_anyio"
del _public
