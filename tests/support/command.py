"""The command line as a user runs it: in processes of its own, piped and on a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

COMMAND = [sys.executable, "-m", "langchain_anyio"]
SECONDS = 60.0
KEY = "sk-loopback-0123456789"

# What a user's environment may hold of its own, which would decide what the tests see.
_OWN = re.compile(
    "PYTHONUNBUFFERED|OPENAI|ANTHROPIC|LANGSMITH|LANGCHAIN|COLOR|TTY_|PROXY|^(COLUMNS|LINES|TERM)$",
    re.IGNORECASE,
)


def environment(**variables: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not _OWN.search(name)} | variables


def without(directory: Path, *packages: str) -> dict[str, str]:
    """Variables with which the packages can't be imported, as if they were not installed."""
    for package in packages:
        (directory / f"{package}.py").write_text(
            "raise ModuleNotFoundError(f'No module named {__name__!r}', name=__name__)\n"
        )
    path = [str(directory), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(path)}


def run(
    *arguments: str | bytes, env: Mapping[str, str] | None = None, stdin: str | bytes = b""
) -> tuple[int, str, str]:
    """Run the command with pipes; return its status, its output and its errors."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        env=environment(**(env or {})),
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


class _Running:
    """A process that runs; what it writes is read from `source`."""

    def __init__(self, process: subprocess.Popen[bytes], source: int) -> None:
        self.process = process
        self._source = source
        self._bytes = b""

    @property
    def output(self) -> str:
        return self._bytes.decode(errors="replace")

    def _read(self, deadline: float) -> bool:
        if not select.select([self._source], [], [], max(deadline - time.monotonic(), 0))[0]:
            raise TimeoutError(f"only this came: {self.output!r}")
        try:
            data = os.read(self._source, 4096)
        except OSError:  # how Linux says that nobody holds the terminal's other end
            data = b""
        self._bytes += data
        return bool(data)

    def read_until(self, text: str) -> None:
        deadline = time.monotonic() + SECONDS
        while text not in self.output:
            if not self._read(deadline):
                raise EOFError(f"{text!r} did not come, but {self.output!r}")

    def finish(self) -> int:
        """Read everything and return the exit status."""
        deadline = time.monotonic() + SECONDS
        while self._read(deadline):
            pass
        return self.process.wait(SECONDS)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._source)


class Pipe(_Running):
    """The command with pipes, while it runs."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        source, sink = os.pipe()
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=environment(**(env or {})),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.PIPE,
        )
        os.close(sink)
        super().__init__(process, source)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """Close the end that the output is read from, as `head` does."""
        os.close(self._source)
        self._source = os.open(os.devnull, os.O_RDONLY)

    @property
    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        assert self.process.stderr is not None
        self.process.stderr.close()


_ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Terminal(_Running):
    """The command on a pseudo-terminal that it is in control of, while it runs."""

    def __init__(
        self,
        *arguments: str,
        columns: int = 80,
        env: Mapping[str, str] | None = None,
    ) -> None:
        source, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = subprocess.Popen(
            [sys.executable, "-c", _ON_TERMINAL, *COMMAND[1:], *arguments],
            env=environment(**({"TERM": "xterm-256color"} | dict(env or {}))),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)
        super().__init__(process, source)
        self._columns = columns

    def type(self, text: str) -> None:
        os.write(self._source, text.encode())

    @property
    def screen(self) -> list[str]:
        return screen(self.output, self._columns)


def screen(output: str, columns: int) -> list[str]:
    """The lines that a terminal shows, long ones broken where its right edge is."""
    lines: list[list[str]] = [[]]
    column = 0
    for piece in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|.", output, re.DOTALL):
        line = lines[-1]
        if piece == "\r":
            column = 0
        elif piece == "\n":
            lines.append([])
        elif piece.endswith("K"):
            del line[column:]
        elif not piece.startswith("\x1b["):
            if column + cell_len(piece) > columns:
                line, column = [], 0
                lines.append(line)
            line += " " * (column - len(line))
            # The second half of a wide character holds nothing.
            line[column : column + cell_len(piece)] = [piece, *[""] * (cell_len(piece) - 1)]
            column += cell_len(piece)
        else:
            assert piece.endswith("m"), piece
    return ["".join(line).rstrip() for line in lines]
