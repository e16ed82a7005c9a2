"""The command line with an agent: piped, on a terminal, and with what is no agent."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from langgraph.pregel.remote import RemoteGraph

import agents
from command import Terminal, run
from langchain_anyio._cli.agent import BadPathError, check_input, find_agent, make_graph

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("interruptible")]

SUPPORT = {
    "PYTHONPATH": os.pathsep.join(
        [
            str(Path(__file__).parents[1] / "support"),
            *filter(None, [os.environ.get("PYTHONPATH")]),
        ]
    )
}


@pytest.fixture
def backend(anyio_backend: tuple[str, dict[str, Any]]) -> str:
    name, options = anyio_backend
    if sys.version_info < (3, 11) and name == "asyncio":
        pytest.skip("langgraph finds its context in nodes on asyncio from Python 3.11 on")
    return "uvloop" if options.get("use_uvloop") else name


def test_an_agent_on_a_terminal(backend: str) -> None:
    """It has parallel tools, a subgraph and an interrupt."""
    arguments = ("--agent", "agents:agent", "--backend", backend, "What is wet?")
    with Terminal(*arguments, env=SUPPORT) as command:
        assert command.finish() == 3
        assert command.screen == [
            "research",
            "",
            '→ look_up {"topic": "ice"}',
            '→ look_up {"topic": "water"}',
            "← look_up: water is wet indeed",
            "← look_up: ice is wet indeed",
            "",
            "research",
            "",
            "Both are wet.",
            "",
            "Now for you.",
            "",
            "⏸ Shall I go on?",
            "langchain_anyio: the agent waits to be resumed: 'Shall I go on?'",
            "",
        ]


def test_an_agent_piped() -> None:
    assert run("--agent", "agents:agent", "--backend", "trio", "What is wet?", env=SUPPORT) == (
        3,
        "Both are wet. \nNow for you. \n",
        "langchain_anyio: the agent waits to be resumed: 'Shall I go on?'\n",
    )


def test_a_failing_tool() -> None:
    arguments = ("--agent", "agents:burning", "--backend", "trio", "What is wet?")
    with Terminal(*arguments, env=SUPPORT) as command:
        assert command.finish() == 1
        assert command.screen == [
            '→ look_up {"topic": "fire"}',
            "✗ look_up: fire is not wet",
            "langchain_anyio: ValueError: fire is not wet",
            "",
        ]


def test_its_events() -> None:
    arguments = ("--agent", "agents:make_later", "--events", "What is wet?")
    status, output, errors = run(*arguments, env=SUPPORT)
    assert (status, errors) == (0, "")
    events = [json.loads(line) for line in output.splitlines()]
    assert {event["method"] for event in events} == {"values", "messages", "tools"}
    tools = [e["params"]["data"]["event"] for e in events if e["method"] == "tools"]
    assert tools == ["tool-started", "tool-started", "tool-finished", "tool-finished"]
    last = events[-1]["params"]["data"]["messages"][-1]
    assert last["content"][0]["text"] == "Both are wet. "


def test_errors_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken_agents.py").write_text("import not_there\n")
    variables = {"PYTHONPATH": os.pathsep.join([SUPPORT["PYTHONPATH"], str(tmp_path)])}
    for path, status, error in (
        ("no_agents:x", 2, "there is no module 'no_agents' in this directory or among the "),
        ("broken_agents:x", 1, "ModuleNotFoundError: No module named 'not_there'"),
    ):
        found, output, errors = run("--agent", path, "What is wet?", env=variables)
        assert (found, output) == (status, "")
        assert errors.startswith(f"langchain_anyio: --agent {path}: {error}")
        assert errors.count("\n") == 1
    assert run("--agent", "agents:wet", "--model", "a:b", "x") == (
        2,
        "",
        "langchain_anyio: --agent has models of its own and takes no --model\n",
    )


# What it is given


@pytest.mark.anyio
@pytest.mark.parametrize("name", ("wet", "make", "make_later"))
async def test_a_graph_or_a_function_that_makes_one(name: str) -> None:
    graph = await make_graph(find_agent(f"agents:{name}"))
    assert graph.name == agents.wet.name
    check_input(graph)
    check_input(RemoteGraph("agent", url="http://127.0.0.1:9"))


@pytest.mark.parametrize(
    ("path", "error"),
    (
        ("agents", "it takes MODULE:NAME, such as my_package.agents:agent"),
        (":agent", "it takes MODULE:NAME, such as my_package.agents:agent"),
        ("no_agents:x", "there is no module 'no_agents' in this directory or among the"),
        ("agents.more:x", "there is no module 'agents.more'"),
        ("agents:nobody", "the module 'agents' has no attribute 'nobody'"),
        ("agents:wet.nobody", "an object of type 'CompiledStateGraph' has no attribute 'nobody'"),
        (
            "agents:_looked_up",
            "an object of type 'list' is no compiled graph, and no function without arguments",
        ),
        (
            "agents:make_of",
            "an object of type 'function' is no compiled graph, and no function without arguments",
        ),
        (
            "agents:not_compiled",
            "an object of type 'StateGraph' is not compiled; use what its compile() returns",
        ),
    ),
)
def test_what_is_no_agent(path: str, error: str) -> None:
    with pytest.raises(BadPathError) as caught:
        find_agent(path)
    assert str(caught.value).startswith(error)


@pytest.mark.anyio
async def test_graphs_that_take_no_prompt() -> None:
    with pytest.raises(
        BadPathError, match="what it returns is no agent: an object of type 'int' is no compiled"
    ):
        await make_graph(find_agent("agents:make_nothing"))
    with pytest.raises(BadPathError, match=r"no 'messages' to put the prompt in, but \['question'"):
        check_input(agents.of_questions)


def test_an_error_of_the_module_is_raised_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wrong_agents.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        find_agent("wrong_agents:x")
