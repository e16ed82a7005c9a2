"""The examples in docstrings, run as they stand there."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import trio
from langchain.agents import create_agent
from langchain_core.language_models import FakeListChatModel, FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.store.sqlite import SqliteStore

import langchain_anyio
from langchain_anyio import AsyncProjection, GraphStream, enable_trio, open_stream
from langchain_anyio.langgraph import ThreadedCheckpointSaver, ThreadedStore

SOURCE = Path(langchain_anyio.__file__).parent
ANSWER = "Bubbles rise."


def code_in(documented: Any) -> str:
    found = re.findall(r"```python\n(.*?)```", inspect.getdoc(documented) or "", re.DOTALL)
    assert len(found) == 1
    return textwrap.dedent(found[0])


def test_all_of_them_are_run_here() -> None:
    count = sum(
        path.read_text(encoding="utf-8").count("```python") for path in SOURCE.rglob("*.py")
    )
    assert count == 6


async def run(documented: Any, names: dict[str, Any]) -> None:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    coroutine = eval(compile(code_in(documented), documented.__name__, "exec", flags), names)
    await coroutine


@pytest.mark.trio
async def test_open_stream(capsys: pytest.CaptureFixture[str]) -> None:
    names = {"open_stream": open_stream, "model": FakeListChatModel(responses=[ANSWER])}
    await run(open_stream, names)
    assert capsys.readouterr().out == ANSWER


@pytest.mark.trio
@pytest.mark.usefixtures("enabled")
async def test_the_loop_over_an_agents_run(capsys: pytest.CaptureFixture[str]) -> None:
    class Model(FakeMessagesListChatModel):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self

    def look_up(topic: str) -> str:
        """Look a topic up."""
        return f"{topic} is wet"

    call: Any = {"name": "look_up", "args": {"topic": "water"}, "id": "call"}
    model = Model(responses=[AIMessage("", tool_calls=[call]), AIMessage(ANSWER)])
    agent = create_agent(model, [look_up])
    await run(GraphStream.interleave, {"open_stream": open_stream, "agent": agent})
    assert capsys.readouterr().out == (
        "look_up {'topic': 'water'}\nlook_up: water is wet\n" + ANSWER
    )


@pytest.mark.trio
async def test_batches() -> None:
    class Page:
        text = ""

        async def append(self, text: str) -> None:
            self.text += text

    page = Page()
    async with open_stream(FakeListChatModel(responses=[ANSWER]), "Sing.") as stream:
        await run(AsyncProjection.batches, {"stream": stream, "page": page})
    assert page.text == ANSWER


@pytest.mark.usefixtures("enabled")
def test_enable_trio(capsys: pytest.CaptureFixture[str]) -> None:
    names = {
        "aclosing": aclosing,
        "prompt": ChatPromptTemplate.from_template("Write about {topic}."),
        "model": FakeListChatModel(responses=[ANSWER]),
        "StrOutputParser": StrOutputParser,
    }
    exec(code_in(enable_trio), names)
    assert capsys.readouterr().out == ANSWER


@pytest.mark.trio
@pytest.mark.usefixtures("enabled")
async def test_the_checkpointer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {
        "ThreadedCheckpointSaver": ThreadedCheckpointSaver,
        "SqliteSaver": SqliteSaver,
        "create_agent": create_agent,
        "model": FakeListChatModel(responses=[ANSWER]),
        "tools": [],
        "input": {"messages": [("user", "Sing.")]},
    }
    with trio.fail_after(60):
        await run(ThreadedCheckpointSaver, names)
    assert (tmp_path / "runs.sqlite").exists()


@pytest.mark.trio
@pytest.mark.usefixtures("enabled")
async def test_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with trio.fail_after(60):
        await run(ThreadedStore, {"ThreadedStore": ThreadedStore, "SqliteStore": SqliteStore})
    assert (tmp_path / "memory.sqlite").exists()
