"""Ctrl-C at random moments: programs in processes of their own, which go on only because they catch it."""

from __future__ import annotations

import random
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from command import SECONDS, Pipe, environment
from tally import backend_of, tried

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("interruptible")]

# As far apart as a stream of the programs takes, or two.
MOMENTS = 0.02


def sizes(short: int, long: int) -> Any:
    return pytest.mark.parametrize(
        "times",
        (pytest.param(short, id="some"), pytest.param(long, marks=pytest.mark.long, id="many")),
    )


@pytest.fixture
def backend(request: pytest.FixtureRequest, anyio_backend: Any) -> str:
    return backend_of(request.node)


def interrupt(process: subprocess.Popen[bytes], answer: bytes) -> float:
    """Interrupt until the answer comes; return how many seconds it took.

    Where an interrupt happens to be raised in a destructor, Python reports it, and goes on.
    """
    assert process.stdout is not None
    begun = time.monotonic()
    for _ in range(int(SECONDS)):
        process.send_signal(signal.SIGINT)
        if select.select([process.stdout], [], [], 1)[0]:
            assert process.stdout.readline() == answer
            return time.monotonic() - begun
    raise TimeoutError("the program goes on")


@pytest.mark.parametrize(
    "work", ("stream", "stream_in_threads", "stream_in_tasks", "call_back", "chain_that_waits")
)
@sizes(10, 300)
def test_a_program_is_interrupted(backend: str, work: str, times: int, tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(
            [
                sys.executable,
                Path(__file__).parents[1] / "support" / "interrupted.py",
                backend,
                work,
                str(times),
            ],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=stderr,
        ) as process,
    ):
        try:
            seconds = []
            for _ in range(times):
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n", errors.read_text()
                time.sleep(random.random() * MOMENTS)  # any moment will do
                seconds.append(interrupt(process, b"interrupted\n"))
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()
    print(f"{max(seconds):.2f} s at most")
    assert not re.search(r'File ".*langchain_anyio', errors.read_text())
    tried("Ctrl-C: a program that streams, at a random moment", times)


@sizes(2, 20)
def test_the_command_is_interrupted(backend: str, times: int) -> None:
    for _ in range(times):
        with Pipe("--backend", backend, "--events", "a song") as command:
            command.read_until("\n")
            time.sleep(random.random())
            command.interrupt()
            assert command.finish() == 130
            assert command.errors == ""
    tried("Ctrl-C: the command, while it answers", times)


@sizes(2, 20)
def test_the_command_is_interrupted_as_it_begins(times: int) -> None:
    """Most of its time it imports; until Python has come to the package's first line it is Python's."""
    for _ in range(times):
        with Pipe("--events", "a song") as command:
            time.sleep(0.2 + random.random())
            command.interrupt()
            status = command.finish()
            errors = command.errors
            assert status == 130 or "langchain_anyio" not in errors, errors
    tried("Ctrl-C: the command, as it begins", times)
