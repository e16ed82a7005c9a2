"""Runs the interpreter's own tests of asyncio, on asyncio and on trio, and compares the two.

`python run.py DIRECTORY [MODULE ...]`. The tests are those of the package `test.test_asyncio` of the interpreter that
runs this; where it comes without, as Debian's does, this says so and ends. `enable_trio()` stands in front of the tests
on both backends.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from left_out import LEFT_OUT, MODULES, why_not_run

ON_TRIO = Path(__file__).with_name("on_trio.py")


def main() -> int:
    directory, *modules = sys.argv[1:]
    if not is_there("test.test_asyncio"):
        print(
            f"{sys.executable} comes without its own tests (test.test_asyncio), which this needs: on Debian they are "
            "in the package libpython3-testsuite, and in the Pythons of uv, pyenv and python.org"
        )
        return 0
    places = {b: Path(directory, f"{b}.json").resolve() for b in ("asyncio", "trio")}
    running = []
    for backend, place in places.items():
        place.unlink(missing_ok=True)
        command = [sys.executable, str(ON_TRIO), backend, str(place), *modules]
        log = place.with_suffix(".log").open("w")
        running.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
    for process in running:
        process.wait()
    outcomes = {}
    for backend, place in places.items():
        if not place.exists():
            print(place.with_suffix(".log").read_text())
            return 1
        outcomes[backend] = json.loads(place.read_text())
    return 0 if compare(outcomes["asyncio"], outcomes["trio"], modules or MODULES) else 1


def is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def compare(on_asyncio: dict[str, str], on_trio: dict[str, str], modules: list[str]) -> bool:
    """Print the difference and return whether all of it is listed with a reason."""
    broken = {
        name: outcome
        for name, outcome in on_asyncio.items()
        if outcome not in ("passed", "not run", "xfailed") and not outcome.startswith("skipped")
    }
    passed = [name for name, outcome in on_asyncio.items() if outcome == "passed"]
    also = [name for name in passed if on_trio.get(name) == "passed"]
    left_out: dict[str, list[str]] = defaultdict(list)
    failed = {}
    for name in passed:
        if on_trio.get(name) == "passed":
            continue
        if name in LEFT_OUT:
            left_out[LEFT_OUT[name]].append(name)
        else:
            failed[name] = on_trio.get(name, "not run")
    stale = [name for name in LEFT_OUT if on_trio.get(name) == "passed"]
    not_run: dict[str, list[str]] = defaultdict(list)
    for name, outcome in on_asyncio.items():
        if outcome == "not run":
            not_run[why_not_run(name) or ""].append(name)

    print(f"\nPython {platform.python_version()}'s own tests of asyncio: {', '.join(modules)}")
    print(f"  run, and pass on asyncio: {len(passed)}")
    print(f"  of these, pass on trio:   {len(also)} ({len(also) / max(len(passed), 1):.1%})")
    print(f"  left out with a reason:   {sum(map(len, left_out.values()))}")
    for why, names in left_out.items():
        print(f"    {why}")
        for name in names:
            print(f"      {name}")
    print(f"  not run on either:        {sum(map(len, not_run.values()))}")
    for why, names in not_run.items():
        print(f"    {why}")
        for name in names:
            print(f"      {name}")
    for name, outcome in broken.items():
        print(f"  FAILED on asyncio, with enable_trio(): {name}: {outcome}")
    for name, outcome in failed.items():
        print(f"  FAILED on trio alone: {name}: {outcome}")
    for name in stale:
        print(f"  LISTED without need: {name}")
    return bool(passed) and not (broken or failed or stale)


if __name__ == "__main__":
    sys.exit(main())
