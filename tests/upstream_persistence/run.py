"""Runs LangGraph's own tests of its asynchronous checkpointers and stores on those in worker threads, and compares.

`python run.py DIRECTORY [PACKAGE ...]`. The tests come from the source distributions of the installed releases. First
they run as they are, on asyncio. Then `ThreadedCheckpointSaver` and `ThreadedStore` of the synchronous classes stand in
the place of the asynchronous classes, on asyncio and on trio. PostgreSQL is started here.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

HERE = Path(__file__).parent
for folder in ("support", "upstream_core", "upstream_langgraph"):
    sys.path.append(str(HERE.parent / folder))

import postgres  # noqa: E402
from comparison import Outcomes, compare, fetch, outcomes  # noqa: E402
from not_in_threads import LISTED, NOT_ON_TRIO  # noqa: E402

PACKAGES = ("langgraph-checkpoint-sqlite", "langgraph-checkpoint-postgres")
THEIR_SERVER = "postgres://postgres:postgres@localhost:5441/"


def by_name(found: Outcomes) -> Outcomes:
    """Name tests without the backend, which those for anyio's plugin have in their names where they have two."""
    names = {
        name.removesuffix("[asyncio]"): outcome
        for name, outcome in found.asynchronous.items()
        if not name.endswith("[trio]")
    }
    return Outcomes(names, {})  # the synchronous ones do not use what is compared


def main() -> int:
    directory, *names = sys.argv[1:]
    os.environ["WITH_TESTS"] = ""
    plugins = [HERE.parent / "upstream_langgraph" / "through_anyio.py", HERE / "in_threads.py"]
    alike = []
    with ExitStack() as stack:
        for package in names or PACKAGES:
            place = fetch(package, Path(directory).resolve())
            if package.endswith("postgres"):
                if postgres.programs() is None:
                    print(f"{package}: {postgres.HOW_TO_HAVE_IT}")
                    continue
                uri = stack.enter_context(postgres.server())
                socket = quote(uri.partition("host=")[2], safe="")
                conftest = place / "tests" / "conftest.py"
                text = conftest.read_text()
                assert THEIR_SERVER in text
                conftest.write_text(text.replace(THEIR_SERVER, f"postgres://postgres@{socket}/"))
            # Those of `test_ttl` and `test_store_ttl` wait by the clock for items to expire; the large batches take
            # most of a minute.
            arguments = [
                "-o",
                "addopts=",
                "-k",
                "not test_ttl and not store_ttl and not large_batches",
                "tests",
            ]
            os.environ["IN_THREADS"] = ""
            as_they_are = by_name(outcomes("asyncio", place, arguments, plugins))
            os.environ["IN_THREADS"] = "yes"
            for backend, mode in (("asyncio", []), ("trio", ["-o", "anyio_mode=auto"])):
                in_threads = by_name(outcomes(backend, place, [*mode, *arguments], plugins))
                print(f"\n{package}, in worker threads on {backend} (`trio` below):")
                listed = LISTED[package] | (NOT_ON_TRIO[package] if backend == "trio" else {})
                alike.append(compare(package, as_they_are, in_threads, listed, whole=True))
    return 0 if all(alike) else 1


if __name__ == "__main__":
    sys.exit(main())
