"""The examples of the page on graphs, run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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


@pytest.mark.trio
@pytest.mark.usefixtures("enabled")
async def test_the_checkpointer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "example"}
    exec(CHECKPOINTER, names)
    await names["main"](str(tmp_path / "runs.sqlite"))
    assert capsys.readouterr().out == "{'answer': 'this'}\n"
