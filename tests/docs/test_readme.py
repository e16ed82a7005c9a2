"""The examples and the command of the README, run as they stand there."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.language_models import FakeListChatModel

from loopback import Reply, Scenario, Text, ToolCall, provider_server

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from collections.abc import Awaitable

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PROGRAMS = [example for example in EXAMPLES if "anyio.run(" in example]
BEFORE, AFTER, *MORE = (example for example in EXAMPLES if example not in PROGRAMS)
CALL = ToolCall("look_up", '{"topic": "water"}', call_id="call_1")
ANSWER = "Bubbles rise and disappear."


def run(example: str) -> Awaitable[None]:
    """Run an example that awaits at its top level, with the names that it takes for granted."""
    names: dict[str, Any] = {"model": FakeListChatModel(responses=[ANSWER]), "config": {}}
    code = compile(example, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return eval(code, names)  # type: ignore[no-any-return]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_prints_what_the_provider_answers(
    program: str, anyio_backend: tuple[str, dict[str, Any]]
) -> None:
    name, options = anyio_backend
    on_this_backend = f"backend={name!r}, backend_options={options!r}"
    assert program.count('backend="trio"') == 1
    answer = Scenario(Reply(Text("Bubbles rise", " and disappear.")))
    is_agent = "create_agent" in program
    with provider_server() as server:
        endpoint = server.serve(
            Scenario(Reply(CALL), then=answer) if is_agent else answer,
        )
        done = subprocess.run(
            [sys.executable, "-c", program.replace('backend="trio"', on_this_backend)],
            env={**os.environ, "OPENAI_API_KEY": "unused", "OPENAI_BASE_URL": endpoint.openai_url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    before = "look_up: water is wet\n" if is_agent else ""
    assert done.stdout.startswith(before + ANSWER)
    assert ("water is wet" in str(endpoint.exchanges[-1].body)) == is_agent


@pytest.mark.anyio
async def test_what_was_ported_prints_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    await run(AFTER)
    assert capsys.readouterr().out == ANSWER


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
def test_what_is_ported_prints_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        await run(BEFORE)

    asyncio.run(main())
    assert capsys.readouterr().out == ANSWER


@pytest.mark.anyio
@pytest.mark.parametrize("example", MORE)
async def test_an_example_shows_the_answer(
    example: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await run(example)
    assert ANSWER in capsys.readouterr().out


COMMANDS = re.findall(r"\.venv/bin/python (-m langchain_anyio .*)$", README, re.MULTILINE)


def test_the_command_is_shown_on_both_backends() -> None:
    first, second = COMMANDS
    assert "--backend" not in first
    assert "--backend trio" in second


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_prints_an_answer(command: str) -> None:
    done = subprocess.run(
        [sys.executable, *shlex.split(command)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()
