"""This package's stream as the `astream_events(version="v3")` of a chat model on trio."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, final

from langchain_core.language_models import chat_model_stream as core

from langchain_anyio._errors import StreamCancelledError
from langchain_anyio._open_stream import open_stream
from langchain_anyio._runs.model import ModelRun
from langchain_anyio._stream import AsyncChatModelStream


@final
class ProducerTask:
    """The run behind a stream, in the place of the task in langchain-core's `_producer_task`.

    It has the methods that code uses of that task. langchain-core has no public way to wait for the
    end of a failed run, so code awaits this attribute.
    """

    __slots__ = ("_run", "_stream")

    def __init__(self, stream: AsyncChatModelStream, run: ModelRun) -> None:
        self._stream = stream
        self._run = run

    def done(self) -> bool:
        return self._run.is_over()

    def cancelled(self) -> bool:
        return self.done() and isinstance(self._stream.error, StreamCancelledError)

    def __await__(self) -> Generator[Any, Any, None]:
        return self._run.over().__await__()


@final
class StreamOfCore(AsyncChatModelStream, core.AsyncChatModelStream):  # type: ignore[misc]
    """This package's stream as an instance of langchain-core's class, which some code checks for.

    Its public interface is this package's.
    """

    @property
    def _producer_task(self) -> ProducerTask | None:  # type: ignore[override]
        run = self._run
        return ProducerTask(self, run) if isinstance(run, ModelRun) and run.is_started() else None


async def open_for_core(model: Any, input: Any, config: Any, **kwargs: Any) -> StreamOfCore:
    """Port `await model.astream_events(input, config, version="v3", **kwargs)`."""
    stream = open_stream(model, input, config, **kwargs)
    assert stream._run is not None
    return StreamOfCore._of_run(stream._state, stream._run, stream._owner)
