"""What becomes of a package's own tests on asyncio and on trio, and the difference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent


class Outcomes(NamedTuple):
    """What became of each asynchronous test, and of each synchronous one."""

    asynchronous: dict[str, str]
    synchronous: dict[str, str]


def fetch(package: str, directory: Path) -> Path:
    """Unpack the tests of the installed release of a package below a directory and give the place."""
    release = version(package)
    archive = directory / f"{package.replace('-', '_')}-{release}.tar.gz"
    if not archive.exists():
        download = ["download", "--quiet", "--no-deps", "--no-binary", package]
        to = ["--dest", str(directory), f"{package}=={release}"]
        subprocess.run([sys.executable, "-m", "pip", *download, *to], check=True)
    root = archive.name.removesuffix(".tar.gz")
    with tarfile.open(archive) as sdist:
        # The library beside the tests stays behind: the installed one is what is tested.
        for member in sdist.getmembers():
            path = member.name.removeprefix(f"{root}/")
            if path == "pyproject.toml" or path.startswith("tests/"):
                sdist.extract(member, directory, filter="data")
    return directory / root


def outcomes(backend: str, place: Path, arguments: list[str], plugins: list[Path]) -> Outcomes:
    """Run tests on a backend, with plugins beside the one that writes their outcomes down."""
    results = place / f"{backend}.json"
    results.unlink(missing_ok=True)
    names = [argument for plugin in plugins for argument in ("-p", plugin.stem)]
    paths = [str(HERE), *(str(plugin.parent) for plugin in plugins)]
    subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pytest",
                "-p",
                "plugin",
                *names,
                "-p",
                "no:cacheprovider",
                "-q",
            ),
            *(["-p", "no:asyncio"] if backend == "trio" else []),
            *("--results", str(results), "--results-backend", backend, "--tb=short"),
            *arguments,
        ],
        cwd=place,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
        },
    )
    return Outcomes(**json.loads(results.read_text()))


def compare(
    package: str,
    on_asyncio: Outcomes,
    on_trio: Outcomes,
    reasons: dict[str, str],
    *,
    whole: bool,
) -> bool:
    """Print the difference and tell whether all of it is listed with a reason.

    Where the `whole` of the tests was run, all that is listed must be among them.
    """
    passed = {name for name, outcome in on_asyncio.asynchronous.items() if outcome == "passed"}
    also = {name for name in passed if on_trio.asynchronous.get(name) == "passed"}
    broken = sorted(
        name
        for name, outcome in on_asyncio.synchronous.items()
        if outcome == "passed" and on_trio.synchronous.get(name) != "passed"
    )
    listed = {name for name in passed - also if name in reasons}
    failed = sorted(passed - also - listed)
    # What is listed and passes, or is no longer there, must leave the list.
    stale = sorted(
        name for name in reasons if name in also or (whole and name not in on_asyncio.asynchronous)
    )
    print(f"\n{package} {version(package)}'s own asynchronous tests")
    print(f"  pass on asyncio:         {len(passed)}")
    print(f"  of these, pass on trio:  {len(also)} ({len(also) / max(len(passed), 1):.1%})")
    print(f"  listed with a reason:    {len(listed)} ({len(listed) / max(len(passed), 1):.1%})")
    for name in sorted(listed):
        print(f"    {name}\n      {reasons[name]}")
    for name in failed:
        print(f"  FAILED on trio alone: {name}: {on_trio.asynchronous.get(name, 'not run')}")
    for name in broken:
        outcome = on_trio.synchronous.get(name, "not run")
        print(f"  FAILED, a synchronous test, with enable_trio(): {name}: {outcome}")
    for name in stale:
        print(f"  LISTED without need: {name}")
    return bool(passed) and not (failed or broken or stale)
