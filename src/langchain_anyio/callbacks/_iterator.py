"""`AsyncIteratorCallbackHandler`: the tokens of models to iterate over."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, final

from anyio import WouldBlock
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import BaseMessage, get_buffer_string
from typing_extensions import Self, override

from langchain_anyio._backends.background import Loop, waiters
from langchain_anyio._primitives.checkpoints import ConsumerCheckpoints

from ._copies import Copied
from ._run_tree import RunGroup, RunNode, RunTree, text_in, text_of

if TYPE_CHECKING:
    from uuid import UUID

    from langchain_core.documents import Document
    from langchain_core.outputs import LLMResult

    from langchain_anyio._primitives.event import Event
    from langchain_anyio._primitives.queue import Queue

T = TypeVar("T")


@final
class TokenIterator(AsyncIterator[T], Generic[T]):
    """One iteration over the tokens that a handler was told of.

    Tasks that share it share out the tokens. One that is cancelled takes none with it. A handler with a
    bounded buffer holds the model back for it until it has ended, is closed, or is dropped.
    """

    __slots__ = ("_reader",)

    def __init__(self, reader: _Reader[T]) -> None:
        self._reader = reader

    def __aiter__(self) -> Self:
        return self

    # Not async itself: the frames of a step, which an error or a cancellation keeps alive, do not refer to this
    # object once the step has begun, so that it goes when the loop that uses it is left.
    def __anext__(self) -> Coroutine[Any, Any, T]:
        """Take the next token; a checkpoint, and gives way to other tasks at least every 64 steps."""
        return self._reader.step(self)

    async def aclose(self) -> None:
        """End the iteration; tokens not taken are left for another one. Idempotent."""
        self._reader.close()

    def __del__(self) -> None:
        self._reader.drop()


@final
class _Reader(Generic[T]):
    """What stands behind a `TokenIterator`: its place, which an iterator that is dropped gives up."""

    __slots__ = (
        "_dropped",
        "_hands",
        "_left",
        "_loop",
        "_over",
        "_part",
        "_queue",
        "_raise_on_error",
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
        # What it reads: a run or a span. The span is known once iteration has begun.
        self._part: RunNode | RunGroup | None = None
        self._hands = 0
        self._left: int | None = None
        self._steps = ConsumerCheckpoints()
        self._loop: Loop | None = None
        # Number of steps that have begun and not ended; until they have, an iterator that is dropped stays open.
        self._steps_begun = 0
        self._over = False
        self._dropped = False

    async def step(self, iterator: object) -> T:
        """Take the next token.

        Args:
            iterator: The iterator, which a step that never begins keeps alive and lets go of, as any argument.
        """
        self._steps_begun += 1
        del iterator
        try:
            queue, part = self._queue, self._part
            ready = part is None or part.ended or self._over or queue.qsize() > 0
            await self._steps.take(ready=ready)
            while True:
                with self._runs.lock:
                    part = self._part or self._begin()
                    run = self._next_run(part)
                    if run is not None:
                        return self._shape(run, queue.take())
                    self._runs.settle()
                    if self._over or self._left is not None or part.ended:
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

    def _begin(self) -> RunNode | RunGroup:
        self._part = self._run or self._runs.next_span()
        self._hands = self._runs.hands
        self._queue.readers += 1
        self._queue.released = False
        return self._part

    def _next_run(self, part: RunNode | RunGroup) -> RunNode | None:
        """Return the run of the first token in the queue, if that is to be taken."""
        if self._over:
            return None
        if self._left is None and self._runs.is_by_hand(self._hands):
            # From when `done` was set by hand, what is there is read, but not what comes after it.
            self._left = self._queue.qsize()
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                return None
        run = self._queue.first_run
        return run if run is not None and part.gives(run) else None

    def _end(self, part: RunNode | RunGroup) -> NoReturn:
        """Raise what ends the iteration."""
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
                    # It may have left for good, be it before its first step was begun, so nobody is to wait for it.
                    self._queue.released = True
                    self._queue.room.ring()
            self._over = True
            self._queue.news.ring()

    def drop(self) -> None:
        self._dropped = True
        if not self._steps_begun:
            self.close()


class AsyncIteratorCallbackHandler(Copied, AsyncCallbackHandler):
    """Iterate over the tokens of models, as an async iterable, while a run of whatever kind goes on.

    Given to a run by its config, the handler sees the run and all that is part of it. One is enough for any number
    of runs, one after the other or in parallel:

    | way to listen | gives | ends |
    |---|---|---|
    | `async for token in handler`, `handler.aiter()` | tokens | with the outermost run |
    | `handler.aiter(run_id=id)` | tokens of that run and of its parts | with that run |
    | `handler.runs()` | `(id of the model's run, token)` | with the outermost run |

    A token goes to one of them, exactly once, in the order in which it came, whenever iteration begins and whoever is
    cancelled; several iterators share out what they have in common. The outermost run is the one that the handler is
    told of and none that it is part of: a chain, an agent, or the bare call of a model. Where several of them
    overlap, iteration ends with the last. One that begins before a run waits for it; one that begins after a run that
    nobody has read gets its tokens and then ends. Setting `done` ends all of them, once they have what is there; it
    is also the way to end where a call fails before it calls any handler.

    The error of the outermost run is raised after the tokens, with its own type; a cancelled run is a
    `StreamCancelledError`. An error that was recovered from, within the run, is none.

    A bounded buffer holds a model back until its tokens are taken, from the first one on. It does not any more when the
    last iterator was closed or dropped (an `async for` that is left drops it), until the next one begins.

    The handler may be used from any thread: the tokens of a synchronous run in a worker thread come on the event
    loop of those who iterate. With a bounded buffer such a run must not be on the thread of that event loop.

    A deep copy of it (`model.model_copy(deep=True)` makes one of a model's handlers) and one by pickle have its settings and are
    told of runs of their own; a shallow copy shares its runs and its queue.

    Ports `langchain_classic.callbacks.AsyncIteratorCallbackHandler`. A subclass may put into `queue` and set `done`
    itself, as there.

    Args:
        max_buffer_size: Number of tokens that may lie in `queue` before a model is held back; by default any number.
            A run that is iterated over by its id has a buffer of that size to itself.
        raise_on_error: Whether the error of a run is raised, or iteration ends in silence.

    Raises:
        ValueError: `max_buffer_size` is negative, or neither an integer nor `math.inf`.
    """

    # Called in the task of the run: tokens stay in order, and a cancelled run can be told from one that goes on.
    run_inline = True

    _of_runs = frozenset(("_runs", "queue", "done"))

    queue: Queue[str]
    """The tokens that nobody took yet, but for those of runs that are iterated over by their id."""

    done: Event
    """Set when the outermost run has ended; set by hand, it ends every iteration."""

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
        """Whether the handler is called even where `verbose` is off, which is always."""
        return True

    # Iterating

    def aiter(self, *, run_id: UUID | None = None) -> TokenIterator[str]:
        """Iterate over the tokens.

        Args:
            run_id: The id of a run, which may have ended or be yet to start: only its tokens and those of its parts,
                which from now on no other iteration gets.
        """
        run = None if run_id is None else self._runs.claim(run_id)
        return TokenIterator(_Reader(self._runs, run, _token, raise_on_error=self._raise_on_error))

    def runs(self) -> TokenIterator[tuple[UUID, str]]:
        """Iterate over `(id of the model's run, token)`, in the order in which they came.

        What was put into `queue` by hand has the id `UUID(int=0)`.
        """
        return TokenIterator(
            _Reader(self._runs, None, _id_and_token, raise_on_error=self._raise_on_error)
        )

    def __aiter__(self) -> AsyncIterator[str]:
        """Iterate over the tokens, as `aiter()` does."""
        return self.aiter()

    # Models

    @override
    async def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], **kwargs: Any
    ) -> None:
        """Note that a chat model has started; a subclass that knows `on_llm_start` alone is told by it."""
        prompts = []
        if type(self).on_llm_start is not AsyncIteratorCallbackHandler.on_llm_start:
            prompts = [get_buffer_string(batch) for batch in messages]
        await self.on_llm_start(serialized, prompts, **kwargs)

    @override
    async def on_llm_start(
        self, serialized: dict[str, Any], prompts: list[str], **kwargs: Any
    ) -> None:
        """Note that a model has started."""
        self._start(kwargs, alone=True)

    @override
    async def on_llm_new_token(
        self, token: str | list[str | dict[str, Any]], **kwargs: Any
    ) -> None:
        """Take a token, or the text in a list of content blocks; waits where the buffer is full."""
        run = self._run(kwargs)
        text = run.new_from_token(text_of(token))
        if text:
            await self._emit(run, text)

    @override
    async def on_stream_event(self, event: Any, **kwargs: Any) -> None:
        """Take the text of a model that streams without telling of its tokens."""
        text = text_in(event)
        if text:
            run = self._run(kwargs)
            if new := run.new_from_event(text):
                await self._emit(run, new)

    @override
    async def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        """Note that a model has ended."""
        self._end(kwargs)

    @override
    async def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        """Note that a model has failed or was cancelled."""
        self._end(kwargs, error)

    # What models are part of

    @override
    async def on_chain_start(
        self, serialized: dict[str, Any], inputs: dict[str, Any], **kwargs: Any
    ) -> None:
        """Note that a chain has started."""
        self._start(kwargs)

    @override
    async def on_chain_end(self, outputs: dict[str, Any], **kwargs: Any) -> None:
        """Note that a chain has ended."""
        self._end(kwargs)

    @override
    async def on_chain_error(self, error: BaseException, **kwargs: Any) -> None:
        """Note that a chain has failed or was cancelled."""
        self._end(kwargs, error)

    @override
    async def on_tool_start(
        self, serialized: dict[str, Any], input_str: str, **kwargs: Any
    ) -> None:
        """Note that a tool has started."""
        self._start(kwargs, alone=True)

    @override
    async def on_tool_end(self, output: Any, **kwargs: Any) -> None:
        """Note that a tool has ended."""
        self._end(kwargs)

    @override
    async def on_tool_error(self, error: BaseException, **kwargs: Any) -> None:
        """Note that a tool has failed or was cancelled."""
        self._end(kwargs, error)

    @override
    async def on_retriever_start(
        self, serialized: dict[str, Any], query: str, **kwargs: Any
    ) -> None:
        """Note that a retriever has started."""
        self._start(kwargs, alone=True)

    @override
    async def on_retriever_end(self, documents: Sequence[Document], **kwargs: Any) -> None:
        """Note that a retriever has ended."""
        self._end(kwargs)

    @override
    async def on_retriever_error(self, error: BaseException, **kwargs: Any) -> None:
        """Note that a retriever has failed or was cancelled."""
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
        """Hand a token to whoever iterates, waiting for room if there is none."""
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


for _public in (AsyncIteratorCallbackHandler, TokenIterator):
    _public.__module__ = "langchain_anyio"
del _public
