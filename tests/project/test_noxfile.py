"""Which Python the slow tests run on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nox", reason="needs nox, as in `nox -s docs`: pip install --group nox")

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
import noxfile

here = f"{sys.version_info.major}.{sys.version_info.minor}"
noxfile.PYTHONS[:] = ["3.9999", "3.9998"]
found = [noxfile.newest()]
noxfile.newest.cache_clear()
noxfile.PYTHONS[:] = ["3.9998", here, "3.9999"]
print(*found, noxfile.newest() == here)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="writes a program for a POSIX shell")
def test_the_newest_python_is_one_that_runs(tmp_path: Path) -> None:
    """Not a stand-in for one that is not chosen, or not installed, as pyenv puts on PATH."""
    for python in ("3.9998", "3.9999"):
        stand_in = tmp_path / f"python{python}"
        stand_in.write_text("#!/bin/sh\necho command not found >&2\nexit 127\n")
        stand_in.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "None True\n"), done.stderr
