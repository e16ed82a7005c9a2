"""The examples of the page on graphs, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loopback import Reply, Scenario, Text, ToolCall, provider_server

DOCS = (Path(__file__).parents[2] / "docs" / "langgraph.md").read_text(encoding="utf-8")
AGENT, PROGRAM, CHECKPOINTER = re.findall(r"^```python\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)


@pytest.mark.unhurried
@pytest.mark.parametrize("backend", ("asyncio", "trio"))
def test_the_agent(backend: str) -> None:
    assert AGENT.count('backend="trio"') == 1
    call = ToolCall("look_up", '{"topic": "water"}', call_id="call_1")
    answer = Scenario(Reply(Text("Water is", " wet.")))
    with provider_server() as server:
        endpoint = server.serve(Scenario(Reply(call), then=answer))
        done = subprocess.run(
            [sys.executable, "-c", AGENT.replace('backend="trio"', f"backend={backend!r}")],
            env={**os.environ, "OPENAI_API_KEY": "unused", "OPENAI_BASE_URL": endpoint.openai_url},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    printed = "look_up {'topic': 'water'}\nlook_up: water is wet\nWater is wet."
    assert (done.returncode, done.stdout, done.stderr) == (0, printed, "")


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


@pytest.mark.trio
@pytest.mark.usefixtures("enabled")
async def test_the_checkpointer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "example"}
    exec(CHECKPOINTER, names)
    await names["main"](str(tmp_path / "runs.sqlite"))
    assert capsys.readouterr().out == "{'answer': 'this'}\n"
