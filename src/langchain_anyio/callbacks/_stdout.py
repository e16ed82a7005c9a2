"""`AsyncStreamingStdOutCallbackHandler`: tokens on standard output, as they come."""

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
from ._run_tree import REMEMBERED, RunNode, text_in, text_of

if TYPE_CHECKING:
    from uuid import UUID

    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import LLMResult

_limiter: RunVar[anyio.CapacityLimiter] = RunVar("langchain_anyio_stdout")


class TextFile(Protocol):
    """What tokens can be written to."""

    def write(self, text: str, /) -> object:
        """Write a text."""
        ...

    def flush(self) -> object:
        """Have written what was written so far."""
        ...


class AsyncStreamingStdOutCallbackHandler(Copied, AsyncCallbackHandler):
    """Write each token to a stream, and flush it.

    It is written in a worker thread, so a slow terminal or pipe holds the model back, but never the event loop. Tokens
    that are waiting are written together, and in the order in which they came. A cancellation returns at once and leaves
    the thread to what it is writing.

    A stream that was closed raises `anyio.BrokenResourceError` once, which langchain-core logs (or raises, with
    `raise_error`); the model goes on, and later tokens are dropped.

    A deep copy writes to the same stream; by pickle the stream has to be one that can be pickled, or standard output.

    The async sibling of `langchain_core.callbacks.StreamingStdOutCallbackHandler`.

    Args:
        file: Where tokens are written to; by default standard output, whatever it is at the time.
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
        """Note that a run has started."""
        self._start(kwargs)

    @override
    async def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], **kwargs: Any
    ) -> None:
        """Note that a run has started."""
        self._start(kwargs)

    @override
    async def on_llm_new_token(
        self, token: str | list[str | dict[str, Any]], **kwargs: Any
    ) -> None:
        """Write a token, or the text in a list of content blocks.

        Raises:
            anyio.BrokenResourceError: The stream was closed, for the first token that meets it.
        """
        run = self._run(kwargs)
        if run is not None:
            await self._write(run.new_from_token(text_of(token)))

    @override
    async def on_stream_event(self, event: Any, **kwargs: Any) -> None:
        """Write the text of a model that streams without telling of its tokens."""
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
        """Return the run, or `None` where its call is over, and what it says comes from a thread that goes on."""
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
                # Where no thread has got to it, it is not to be the first token of the next run.
                if text in self._waiting:
                    self._waiting.remove(text)
                raise

    def _write_waiting(self) -> None:
        """Write all that waits; one thread does at a time, and what it was handed before goes first."""
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
    # A stream that blocks holds its threads for as long as it does, and nobody else's.
    try:
        return _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(math.inf)
        _limiter.set(limiter)
        return limiter


AsyncStreamingStdOutCallbackHandler.__module__ = "langchain_anyio"
