"""Runs the whole of langchain-core's own unit tests, on asyncio and on trio, and compares the two.

`python run.py DIRECTORY [pytest's arguments]`. The tests come from the source distribution of the installed release,
with their own configuration. On asyncio they run as their authors run them, and nothing of this project is loaded. On
trio, `enable_trio()` stands in front of the same tests.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from comparison import compare, fetch, outcomes
from left_out import left_out

PACKAGE = "langchain-core"


def main() -> int:
    directory, *arguments = sys.argv[1:]
    place = fetch(PACKAGE, Path(directory).resolve())
    if not any(argument.startswith("tests/") for argument in arguments):
        arguments.append("tests/unit_tests")
    on_asyncio = outcomes("asyncio", place, arguments, [])
    on_trio = outcomes("trio", place, arguments, [])
    whole = not any(argument.startswith(("tests/", "-k")) for argument in sys.argv[2:])
    reasons = left_out(version(PACKAGE))
    return 0 if compare(PACKAGE, on_asyncio, on_trio, reasons, whole=whole) else 1


if __name__ == "__main__":
    sys.exit(main())
