"""The examples of the page on graphs, run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

DOCS = (Path(__file__).parents[2] / "docs" / "langgraph.md").read_text(encoding="utf-8")
PROGRAM, CHECKPOINTER = re.findall(r"^```python\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)


@pytest.mark.unhurried
@pytest.mark.parametrize("backend", ("asyncio", "trio"))
def test_the_program(backend: str) -> None:
    assert PROGRAM.count('backend="trio"') == 1
    program = PROGRAM.replace('backend="trio"', f"backend={backend!r}")
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    printed = "[]\n['first']\n['first', 'second']\n{'seen': ['first', 'second']}\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, printed, "")


class State(TypedDict):
    answer: str


async def ask(state: State) -> State:
    return {"answer": interrupt("what?")}


@pytest.mark.trio
@pytest.mark.usefixtures("enabled")
async def test_the_checkpointer() -> None:
    names: dict[str, Any] = {"__name__": "example"}
    exec(CHECKPOINTER, names)
    checkpointer = names["checkpointer"]
    try:
        graph = StateGraph(State).add_node("ask", ask).add_edge(START, "ask")
        compiled: Any = graph.compile(checkpointer=checkpointer)
        config = {"configurable": {"thread_id": "1"}}
        assert (await compiled.ainvoke({"answer": ""}, config))["__interrupt__"]
        assert await compiled.ainvoke(Command(resume="this"), config) == {"answer": "this"}
        assert len([state async for state in compiled.aget_state_history(config)]) == 3
        await checkpointer.adelete_thread("1")
        assert [state async for state in compiled.aget_state_history(config)] == []
    finally:
        checkpointer.conn.close()
