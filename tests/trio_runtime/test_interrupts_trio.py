"""Where trio, which raises KeyboardInterrupt between any two statements of its tasks, may do so in a run."""

from __future__ import annotations

import signal
import sys
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from langchain_core.runnables import RunnableLambda

from langchain_anyio import disable_trio, enable_trio, open_stream
from langchain_anyio._backends import async_generators as _asyncgens
from langchain_anyio._backends.tasks import spawn_background
from langchain_anyio._runs.drop_guard import DropGuard
from langchain_anyio._runs.model import ModelRun
from models import AStreamModel, AsyncRecorder

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

pytestmark = pytest.mark.usefixtures("interruptible")


@pytest.mark.trio
async def test_neither_the_start_nor_the_tasks_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    protected = []

    async def look(*_: Any) -> None:
        protected.append(trio.lowlevel.currently_ki_protected())

    starting = ModelRun._start

    async def start_and_look(run: ModelRun) -> None:
        await look()
        await starting(run)

    monkeypatch.setattr(ModelRun, "_start", start_and_look)
    assert not trio.lowlevel.currently_ki_protected()
    told = AsyncRecorder(react=look)
    await open_stream(AStreamModel(words=["one"], before=look), "hi", {"callbacks": [told]})
    assert protected == [True] * (2 + len(told.told))
    assert told.names()[0] == "on_chat_model_start"
    assert told.names()[-1] == "on_llm_end"


def test_a_chain_is_where_it_waits_alone() -> None:
    async def look(input: Any) -> Any:
        assert trio.lowlevel.currently_ki_protected()
        return input

    async def wait(input: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()

    async def stream(chain: Any) -> None:
        assert not trio.lowlevel.currently_ki_protected()
        async for _ in chain.astream(1):
            pass

    chain = RunnableLambda(look) | look
    enable_trio()
    try:
        assert trio.run(chain.ainvoke, 1) == 1
        trio.run(stream, chain)
        for call in (partial((chain | wait).ainvoke, 1), partial(stream, chain | wait)):
            with pytest.raises(KeyboardInterrupt):
                trio.run(call)
    finally:
        disable_trio()


def test_one_that_a_group_of_the_background_has_goes_to_the_main_task() -> None:
    async def interrupted() -> None:
        raise BaseExceptionGroup("", [KeyboardInterrupt()])

    async def main() -> None:
        spawn_background(interrupted, name="interrupted")
        await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_stream_that_is_half_made_goes_without_a_word() -> None:
    DropGuard.__new__(DropGuard)


def test_the_hooks_of_async_generators_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*hooks: Any) -> None:
        sys.set_asyncgen_hooks(*hooks)
        monkeypatch.undo()
        raise KeyboardInterrupt

    class Nothing:
        def __await__(self) -> Any:
            yield from ()

    async def main() -> None:
        before = sys.get_asyncgen_hooks()
        hooked = SimpleNamespace(
            set_asyncgen_hooks=interrupted, get_asyncgen_hooks=sys.get_asyncgen_hooks
        )
        monkeypatch.setattr(_asyncgens, "sys", hooked)
        with pytest.raises(KeyboardInterrupt):
            await _asyncgens.AsyncGenerators().watch(Nothing())
        assert sys.get_asyncgen_hooks() == before

    trio.run(main)
