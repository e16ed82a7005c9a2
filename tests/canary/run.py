"""Compares the installed releases with those that were known to work, and runs the suites on them.

`python run.py PART DIRECTORY [--record] [--survey]`. The part `core` is langchain-core, langgraph and
langchain; `providers` is the packages of the models. `known.json` has what the survey found with the
releases of the last `--record`. With `--survey` no suite is run.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from langchain_anyio._trio_runtime import patching, wrappers
from langchain_anyio._trio_runtime.asyncio_api.futures import Task
from langchain_anyio._trio_runtime.asyncio_api.loop import TrioLoop
from langchain_anyio._trio_runtime.asyncio_usage import out_of_reach, uses
from langchain_anyio._trio_runtime.namespace import NAMES

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "langchain_anyio"
KNOWN = Path(__file__).with_name("known.json")
# Plugins that some of the suites need are there for all; the first warns if it isn't configured.
WITHOUT_PLUGINS = [f"-pno:{name}" for name in ("asyncio", "codspeed", "socket", "syrupy")]
SUITES = {
    "core": {
        "the tests of this project": [
            *("-m", "pytest", "--backend=asyncio,trio", "-m", "not slow", "-q", "tests"),
            *WITHOUT_PLUGINS,
        ],
        "langchain-core's tests of the ported classes": [
            "tests/upstream/run.py",
            "{}",
            *WITHOUT_PLUGINS,
        ],
        "langchain-core's whole suite": ["tests/upstream_core/run.py", "{}"],
        "langgraph's and langchain's suites": ["tests/upstream_langgraph/run.py", "{}"],
    },
    "providers": {
        "each provider's package on loopback": [
            *("-m", "pytest", "--providers", "--backend=asyncio,trio", "-q"),
            *WITHOUT_PLUGINS,
            *("tests/providers/test_every_provider.py",),
            "tests/providers/test_every_standard_test_trio.py",
        ],
    },
}
_ONES_OF_INTEREST = r"lang(chain|graph|smith)|(anyio|trio|httpx|openai|anthropic|pydantic)$"
WITH_TESTS = ("langchain-core", "langgraph", "langgraph-checkpoint", "langchain")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=list(SUITES))
    parser.add_argument("directory", type=Path)
    parser.add_argument("--record", action="store_true", help="these releases are known to work")
    parser.add_argument("--survey", action="store_true", help="run no suite")
    options = parser.parse_args()
    directory = options.directory.resolve()
    everything = json.loads(KNOWN.read_text(encoding="utf-8")) if KNOWN.exists() else {}
    known, found = everything.get(options.part, {}), survey()
    if options.record:
        everything[options.part] = found
        KNOWN.write_text(json.dumps(everything, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    faults = [*report(known, found)]
    if options.part == "core":
        report_tests(known, found, directory)
    if not options.survey:
        faults += run_suites(SUITES[options.part], directory)
    heading("Result")
    print(*(faults or ["Nothing is missing, and nothing fails."]), sep="\n")
    return 1 if faults else 0


def heading(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


# The survey


def survey() -> dict[str, Any]:
    """Return what this project depends on in the installed releases, by plain names."""
    packages = [name for name in patching.COVERED if find_spec(name.partition(".")[0]) is not None]
    return {
        "releases": dict(sorted(releases())),
        "uses": {
            package: sorted({use.name for use in uses(package)})
            for package in packages
            if any(True for _ in uses(package))
        },
        "out of reach": {
            package: places
            for package in packages
            if (places := sorted({f"{u.file.name}: {u.name}" for u in out_of_reach(package)}))
        },
        "private": {
            name: resolves(name) for name in sorted({*private_names(), *wrappers._BY_NAME})
        },
    }


def releases() -> Iterator[tuple[str, str]]:
    for distribution in distributions():
        name = distribution.metadata["Name"].lower().replace("_", "-")
        if re.match(_ONES_OF_INTEREST, name) and name != "langchain-anyio":
            yield name, distribution.version


def private_names() -> Iterator[str]:
    """Yield the private names of other packages that the source imports."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    if re.search(r"\._", name) and not name.startswith("langchain_anyio"):
                        yield name


def resolves(name: str) -> bool:
    """Return whether there is such a name in what is installed."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        try:
            for part in parts[count:]:
                found = getattr(found, part)
        except AttributeError:
            return False
        return True
    return False


def report(known: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    """Print what is different from the known releases, and yield what is missing here."""
    heading("Releases")
    for name, release in found["releases"].items():
        was = known.get("releases", {}).get(name, "not known")
        print(f"{name} {release}" + ("" if was == release else f" (was {was})"))
    heading("Names of asyncio")
    for package, names in found["uses"].items():
        before = set(known.get("uses", {}).get(package, []))
        new, gone = sorted(set(names) - before), sorted(before - set(names))
        lacking = [name for name in new if not has(name)]
        lines = [*(f"  new: {name}" for name in new), *(f"  no longer used: {x}" for x in gone)]
        print(f"{package}: {len(names)} used", *lines, sep="\n")
        yield from (f"{package} uses asyncio's {name}, which is not ported" for name in lacking)
    for package, places in found["out of reach"].items():
        for place in sorted(set(places) - set(known.get("out of reach", {}).get(package, []))):
            yield f"{package} uses asyncio where the namespace does not reach it: {place}"
    heading("Private names")
    private = found["private"]
    print(
        f"{sum(map(bool, private.values()))} of {len(private)} are there; "
        "the others belong to packages, or to releases, that are not installed"
    )
    for name, state in private.items():
        if not state and known.get("private", {}).get(name):
            yield f"the private name {name} is gone"


def has(name: str) -> bool:
    """Return whether trio's namespace has a name of asyncio, or its loops and tasks one of theirs."""
    kind, _, attribute = name.rpartition(".")
    if kind == "loop":
        return hasattr(TrioLoop, attribute)
    if kind == "task":
        return hasattr(Task, attribute)
    return attribute in NAMES


# The suites


def report_tests(known: dict[str, Any], found: dict[str, Any], directory: Path) -> None:
    """Print which tests the source distributions have that those of the known releases have not."""
    heading("Their tests")
    directory.mkdir(parents=True, exist_ok=True)
    for package in WITH_TESTS:
        release, was = found["releases"].get(package), known.get("releases", {}).get(package)
        if release is None or was in (None, release):
            print(f"{package} {release}: as known")
            continue
        now, before = (tests_of(package, r, directory) for r in (release, was))
        lines = [f"{package} {release}: {len(now)} tests, {len(before)} in {was}"]
        lines += (f"  new: {name}" for name in sorted(now - before))
        lines += (f"  gone: {name}" for name in sorted(before - now))
        print(*lines, sep="\n")


def tests_of(package: str, release: str, directory: Path) -> set[str]:
    download = ["download", "--quiet", "--no-deps", "--no-binary", package, "--dest"]
    pip = [sys.executable, "-m", "pip", *download, str(directory), f"{package}=={release}"]
    subprocess.run(pip, check=True)
    (archive,) = directory.glob(f"{package.replace('-', '[-_]')}-{release}.tar.gz")
    names = set()
    with tarfile.open(archive) as sdist:
        for member in sdist.getmembers():
            path = member.name.partition("/")[2]
            file = sdist.extractfile(member)
            if file is not None and path.startswith("tests/") and path.endswith(".py"):
                names |= {
                    f"{path}::{node.name}"
                    for node in ast.walk(ast.parse(file.read()))
                    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
                    and node.name.startswith("test_")
                }
    return names


def run_suites(suites: dict[str, list[str]], directory: Path) -> Iterator[str]:
    """Run each suite to its end, whatever the others do, and yield what failed."""
    for name, arguments in suites.items():
        heading(name[0].upper() + name[1:])
        command = [part.format(directory) for part in arguments]
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        failed = []
        for line in process.stdout:
            print(line, end="", flush=True)
            if re.match(r"(FAILED|ERROR)\b|  FAILED|  LISTED", line):
                failed.append(f"{name}: {line.strip()[:300]}")
        if process.wait():
            yield from failed or [f"{name}: ended with {process.returncode}"]


if __name__ == "__main__":
    sys.exit(main())
