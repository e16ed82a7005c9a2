"""`AsyncStreamingStdOutCallbackHandler`: write tokens to standard output as they arrive."""

from __future__ import annotations

import math
import sys
from collections import deque
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar
from langchain_core.callbacks import AsyncCallbackHandler
from typing_extensions import override

from langchain_anyio._langchain_core import current_caller

from ._copies import Copied
from ._run_node import RunNode
from ._run_tree import REMEMBERED, text_in, text_of

if TYPE_CHECKING:
    from uuid import UUID

    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import LLMResult

_limiter: RunVar[anyio.CapacityLimiter] = RunVar("langchain_anyio_stdout")


class TextFile(Protocol):
    """A text stream that tokens can be written to."""

    def write(self, text: str, /) -> object:
        """Write a text."""
        ...

    def flush(self) -> object:
        """Flush the text written so far."""
        ...


class AsyncStreamingStdOutCallbackHandler(Copied, AsyncCallbackHandler):
    """Write each token to a stream, and flush it.

    Tokens are written in a worker thread, so a slow terminal or pipe holds the model back, but
    never the event loop. Tokens that are waiting are written together, in the order of arrival. A
    cancelled call returns at once and leaves the thread to finish its write.

    A stream that was closed raises `anyio.BrokenResourceError` once, which langchain-core logs (or
    raises, with `raise_error`); the model continues, and later tokens are dropped.

    A deep copy writes to the same stream; to be pickled, a handler needs a stream that can be
    pickled, or standard output.

    The async counterpart of `langchain_core.callbacks.StreamingStdOutCallbackHandler`.

    Args:
        file: The stream to write to; by default standard output, looked up at each write.
    """

    # Called in the task of the run, so that tokens stay in order.
    run_inline = True

    _of_runs = frozenset(("_runs", "_cut_off", "_waiting", "_writing", "_broken"))
    _shared = frozenset(("_file",))

    def __init__(self, file: TextFile | None = None) -> None:
        self._file = file
        self._renew()

    @override
    def _renew(self) -> None:
        self._runs: dict[UUID | None, RunNode] = {}
        self._cut_off: deque[UUID | None] = deque(maxlen=REMEMBERED)
        self._waiting: deque[str] = deque()
        self._writing = Lock()
        self._broken = False

    @override
    async def on_llm_start(
        self, serialized: dict[str, Any], prompts: list[str], **kwargs: Any
    ) -> None:
        """Record that a run has started."""
        self._start(kwargs)

    @override
    async def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], **kwargs: Any
    ) -> None:
        """Record that a run has started."""
        self._start(kwargs)

    @override
    async def on_llm_new_token(
        self, token: str | list[str | dict[str, Any]], **kwargs: Any
    ) -> None:
        """Write a token, or the text in a list of content blocks.

        Raises:
            anyio.BrokenResourceError: The stream was closed; raised for the first token that meets
                it.
        """
        run = self._run(kwargs)
        if run is not None:
            await self._write(run.new_from_token(text_of(token)))

    @override
    async def on_stream_event(self, event: Any, **kwargs: Any) -> None:
        """Write the text of a model that streams without reporting tokens."""
        text = text_in(event)
        run = self._run(kwargs) if text else None
        if run is not None:
            await self._write(run.new_from_event(text))

    @override
    async def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        """Forget the run."""
        self._end(kwargs)

    @override
    async def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        """Forget the run."""
        self._end(kwargs)

    def _start(self, kwargs: dict[str, Any]) -> None:
        run_id = kwargs.get("run_id")
        caller = None if run_id is None else current_caller(run_id)
        if caller is None:
            return
        with suppress(ValueError):
            self._cut_off.remove(run_id)
        run = self._runs[run_id] = RunNode(run_id)
        runs, cut_off = self._runs, self._cut_off

        def forget() -> None:
            if runs.pop(run_id, None) is not None:
                cut_off.append(run_id)

        run.watch_call(caller, forget)

    def _run(self, kwargs: dict[str, Any]) -> RunNode | None:
        """Return the run, or `None` if its call is over and only a thread of it goes on."""
        run_id = kwargs.get("run_id")
        run = self._runs.get(run_id)
        if run is None and run_id not in self._cut_off:
            run = self._runs[run_id] = RunNode(run_id)
        return run

    def _end(self, kwargs: dict[str, Any]) -> None:
        run = self._runs.pop(kwargs.get("run_id"), None)
        if run is not None:
            run.unwatch_call()

    async def _write(self, text: str) -> None:
        if text and not self._broken:
            self._waiting.append(text)
            try:
                await anyio.to_thread.run_sync(
                    self._write_waiting, abandon_on_cancel=True, limiter=_own_limiter()
                )
            except anyio.get_cancelled_exc_class():
                # A token that no thread has taken must not become the first token of the next run.
                if text in self._waiting:
                    self._waiting.remove(text)
                raise

    def _write_waiting(self) -> None:
        """Write all waiting tokens in order; one thread writes at a time."""
        with self._writing:
            text = ""
            while self._waiting:
                text += self._waiting.popleft()
            if not text or self._broken:
                return
            file = sys.stdout if self._file is None else self._file
            try:
                file.write(text)
                file.flush()
            except (OSError, ValueError) as exc:
                if isinstance(exc, OSError) or getattr(file, "closed", False):
                    self._broken = True
                    raise anyio.BrokenResourceError(
                        f"no more tokens are written to {getattr(file, 'name', file)}: {exc}"
                    ) from exc
                raise


def _own_limiter() -> anyio.CapacityLimiter:
    # A blocking stream occupies its threads, so they are not taken from the shared limiter.
    try:
        return _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(math.inf)
        _limiter.set(limiter)
        return limiter


AsyncStreamingStdOutCallbackHandler.__module__ = "langchain_anyio"
