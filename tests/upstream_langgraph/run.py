"""Runs langgraph's and langchain's own asynchronous tests, on asyncio and on trio, and compares the two.

`python run.py DIRECTORY [PACKAGE ...]`. The tests come from the source distributions of the installed releases. On
asyncio they run with the plugin that their authors use, and nothing of this project is loaded. On trio, `enable_trio()`
stands in front of the same tests. What needs a database server is left out of both, by langgraph's own switch, and so
are the runs of a test with a checkpointer of aiosqlite's, which works on asyncio alone.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "upstream_core"))

from comparison import compare, fetch, outcomes  # noqa: E402
from not_on_trio import LISTED  # noqa: E402

# Where the tests of each are, and other packages of theirs that are to run on trio with them.
PACKAGES = {
    "langgraph-checkpoint": ("tests", ""),
    "langgraph-prebuilt": ("tests", ""),
    "langgraph": ("tests", ""),
    "langchain": ("tests/unit_tests", "fastmcp"),
}


def main() -> int:
    directory, *names = sys.argv[1:]
    os.environ["NO_DOCKER"] = "true"
    plugins = [HERE / "through_anyio.py"]
    results = {}
    for package in names or PACKAGES:
        place = fetch(package, Path(directory).resolve())
        tests, with_them = PACKAGES[package]
        os.environ["WITH_TESTS"] = with_them
        arguments = ["-o", "addopts=", "-k", "not sqlite_aio", tests]
        on_asyncio = outcomes("asyncio", place, arguments, plugins)
        on_trio = outcomes("trio", place, ["-o", "anyio_mode=auto", *arguments], plugins)
        results[package] = (on_asyncio, on_trio)
    alike = [
        compare(package, on_asyncio, on_trio, LISTED.get(package, {}), whole=True)
        for package, (on_asyncio, on_trio) in results.items()
    ]
    return 0 if all(alike) else 1


if __name__ == "__main__":
    sys.exit(main())
