"""`AsyncStreamingStdOutCallbackHandler`: what is written, when, and to what ends."""

from __future__ import annotations

import io
import logging
import os
import threading
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import pytest

from cancelling import settle
from langchain_anyio import AsyncStreamingStdOutCallbackHandler, callbacks, open_stream
from limits import HANGS
from models import AStreamModel, StreamModel

pytestmark = pytest.mark.anyio


class File(io.StringIO):
    """Notes what was written at each flush."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed: list[str] = []
        self.thread: set[int] = set()

    def flush(self) -> None:
        self.thread.add(threading.get_ident())
        self.flushed.append(self.getvalue())


class SlowFile(File):
    """Blocks until it is let through."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.open = threading.Event()

    def write(self, text: str, /) -> int:
        self.reached.set()
        assert self.open.wait(20)
        return super().write(text)


def test_its_name() -> None:
    handler = AsyncStreamingStdOutCallbackHandler
    assert handler.__module__ == "langchain_anyio"
    assert callbacks.AsyncStreamingStdOutCallbackHandler is handler


@pytest.mark.parametrize("model", (AStreamModel(), AStreamModel(tell=True), StreamModel(tell=True)))
async def test_writes_and_flushes_each_token(model: Any) -> None:
    file = File()
    handler = AsyncStreamingStdOutCallbackHandler(file)
    for _ in range(2):
        await open_stream(model, "x", {"callbacks": [handler]})
    assert file.flushed[:3] == ["one ", "one two ", "one two three"]
    assert file.getvalue() == "one two three" * 2
    assert threading.get_ident() not in file.thread


async def test_writes_to_standard_output_as_it_is_then(capsys: pytest.CaptureFixture[str]) -> None:
    handler = AsyncStreamingStdOutCallbackHandler()
    await open_stream(AStreamModel(), "x", {"callbacks": [handler]})
    assert capsys.readouterr().out == "one two three"


async def test_writes_the_text_of_content_blocks() -> None:
    file = File()
    handler: Any = AsyncStreamingStdOutCallbackHandler(file)
    await handler.on_llm_new_token([{"type": "text", "text": "a"}, {"type": "reasoning"}])
    await handler.on_llm_new_token("")
    assert file.flushed == ["a"]


async def test_a_slow_file_does_not_block_the_event_loop() -> None:
    file = SlowFile()
    handler = AsyncStreamingStdOutCallbackHandler(file)
    model = AStreamModel()
    async with anyio.create_task_group() as group:

        async def call() -> None:
            await open_stream(model, "x", {"callbacks": [handler]})

        group.start_soon(call)
        assert await anyio.to_thread.run_sync(file.reached.wait, 10)
        # The loop runs, and the model is held back.
        await settle()
        assert model.trace == ["chunk 0"]
        file.open.set()
    assert file.getvalue() == "one two three"


async def test_a_full_pipe_does_not_block_the_event_loop() -> None:
    read, write = os.pipe()
    tokens = ["x" * 50_000] * 4
    with os.fdopen(write, "w") as file, os.fdopen(read) as other:
        handler = AsyncStreamingStdOutCallbackHandler(file)
        model = AStreamModel(words=tokens)
        async with anyio.create_task_group() as group:

            async def call() -> None:
                await open_stream(model, "x", {"callbacks": [handler]})

            group.start_soon(call)
            got = 0
            while got < 200_000:
                got += len(await anyio.to_thread.run_sync(other.read, 1000))


async def test_a_cancelled_run_leaves_the_slow_file_at_once_and_keeps_the_order() -> None:
    file = SlowFile()
    handler: Any = AsyncStreamingStdOutCallbackHandler(file)
    async with anyio.create_task_group() as group:
        group.start_soon(handler.on_llm_new_token, "a")
        assert await anyio.to_thread.run_sync(file.reached.wait, 10)
        with anyio.fail_after(HANGS):
            group.cancel_scope.cancel()
    with anyio.move_on_after(0):
        await handler.on_llm_new_token("never")
    async with anyio.create_task_group() as group:
        for token in "bcd":
            group.start_soon(handler.on_llm_new_token, token)
            await settle()
        file.open.set()
    assert file.getvalue() == "abcd"


@pytest.mark.parametrize("kind", ("file", "pipe"))
async def test_a_closed_file_is_one_clear_error(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    if kind == "file":
        file: Any = io.StringIO()
        file.close()
    else:
        read, write = os.pipe()
        os.close(read)
        file = os.fdopen(write, "w")
    handler = AsyncStreamingStdOutCallbackHandler(file)
    with caplog.at_level(logging.WARNING):
        message = await open_stream(AStreamModel(), "x", {"callbacks": [handler]})
    assert message.text == "one two three"
    assert caplog.text.count("no more tokens are written to") == 1
    assert "AsyncStreamingStdOutCallbackHandler.on_llm_new_token" in caplog.text or (
        "AsyncStreamingStdOutCallbackHandler.on_stream_event" in caplog.text
    )
    with pytest.raises(BrokenPipeError) if kind == "pipe" else anyio.CancelScope():
        file.close()


async def test_raises_where_the_handler_says_so() -> None:
    file = io.StringIO()
    file.close()
    handler = AsyncStreamingStdOutCallbackHandler(file)
    handler.raise_error = True
    with pytest.raises(anyio.BrokenResourceError, match="closed file"):
        await open_stream(AStreamModel(), "x", {"callbacks": [handler]})


async def test_another_error_of_the_file_is_not_hidden() -> None:
    class Refuses(io.StringIO):
        def write(self, text: str, /) -> int:
            raise UnicodeEncodeError("ascii", text, 0, 1, "no such letter")

    handler: Any = AsyncStreamingStdOutCallbackHandler(Refuses())
    for _ in range(2):
        with pytest.raises(UnicodeEncodeError):
            await handler.on_llm_new_token("ä", run_id=uuid4())


async def test_a_synchronous_run_in_a_worker_thread() -> None:
    file = File()
    config: Any = {"callbacks": [AsyncStreamingStdOutCallbackHandler(file)]}
    words = [f"{number} " for number in range(20)]
    await anyio.to_thread.run_sync(lambda: list(StreamModel(words=words).stream("x", config)))
    assert file.getvalue() == "".join(words)


async def test_runs_that_are_over_are_forgotten() -> None:
    handler = AsyncStreamingStdOutCallbackHandler(File())
    await open_stream(AStreamModel(), "x", {"callbacks": [handler]})
    assert handler._runs == {}
