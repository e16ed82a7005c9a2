"""Runs the whole of langchain-core's own unit tests, on asyncio and on trio, and compares the two.

`python run.py DIRECTORY [pytest's arguments]`. The tests come from the source distribution of the installed release,
with their own configuration. On asyncio they run as their authors run them, and nothing of this project is loaded. On
trio, `enable_trio()` stands in front of the same tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

from left_out import left_out

HERE = Path(__file__).parent


def fetch(directory: Path) -> Path:
    """Unpack the tests of the installed langchain-core below a directory and give the place."""
    release = version("langchain-core")
    archive = directory / f"langchain_core-{release}.tar.gz"
    if not archive.exists():
        download = ["download", "--quiet", "--no-deps", "--no-binary", "langchain-core"]
        to = ["--dest", str(directory), f"langchain-core=={release}"]
        subprocess.run([sys.executable, "-m", "pip", *download, *to], check=True)
    root = archive.name.removesuffix(".tar.gz")
    with tarfile.open(archive) as sdist:
        # The library beside the tests stays behind: the installed one is what is tested.
        for member in sdist.getmembers():
            path = member.name.removeprefix(f"{root}/")
            if path == "pyproject.toml" or path.startswith("tests/"):
                sdist.extract(member, directory, filter="data")
    return directory / root


def outcomes(
    backend: str, place: Path, arguments: list[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Run the tests on a backend; return what became of each asynchronous test, and of each synchronous one."""
    results = place / f"{backend}.json"
    results.unlink(missing_ok=True)
    tests = [argument for argument in arguments if argument.startswith("tests/")]
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "plugin", "-p", "no:cacheprovider", "-q"),
            *(["-p", "no:asyncio"] if backend == "trio" else []),
            *("--results", str(results), "--results-backend", backend, "--tb=short"),
            *arguments,
            *([] if tests else ["tests/unit_tests"]),
        ],
        cwd=place,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
        },
    )
    both = json.loads(results.read_text())
    return both["asynchronous"], both["synchronous"]


def main() -> int:
    directory, *arguments = sys.argv[1:]
    place = fetch(Path(directory).resolve())
    release = version("langchain-core")
    on_asyncio, without = outcomes("asyncio", place, arguments)
    on_trio, enabled = outcomes("trio", place, arguments)
    passed = {name for name, outcome in on_asyncio.items() if outcome == "passed"}
    also = {name for name in passed if on_trio.get(name) == "passed"}
    broken = sorted(n for n, o in without.items() if o == "passed" and enabled.get(n) != "passed")
    reasons = left_out(release)
    listed = {name for name in passed - also if name in reasons}
    failed = sorted(passed - also - listed)
    # What is listed and passes, or is no longer there, must leave the list.
    stale = sorted(name for name in reasons if name in also or name not in on_asyncio)
    if any(argument.startswith(("tests/", "-k")) for argument in arguments):
        stale = [name for name in stale if name in also]
    print(f"\nlangchain-core {release}'s own asynchronous tests")
    print(f"  pass on asyncio:         {len(passed)}")
    print(f"  of these, pass on trio:  {len(also)} ({len(also) / max(len(passed), 1):.1%})")
    print(f"  listed with a reason:    {len(listed)} ({len(listed) / max(len(passed), 1):.1%})")
    for name in sorted(listed):
        print(f"    {name}\n      {reasons[name]}")
    for name in failed:
        print(f"  FAILED on trio alone: {name}: {on_trio.get(name, 'not run')}")
    for name in broken:
        print(
            f"  FAILED, a synchronous test, with enable_trio(): {name}: {enabled.get(name, 'not run')}"
        )
    for name in stale:
        print(f"  LISTED without need: {name}")
    return 1 if failed or broken or stale or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
