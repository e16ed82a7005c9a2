"""Builds the distributions twice, looks into them, and installs them into bare environments.

`python run.py PYTHON ... [--keep DIRECTORY] [--tag TAG]`. Nothing of the project is imported here: what is
checked is what somebody gets who installs the wheel with each of the Pythons.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from email import message_from_bytes
from itertools import cycle
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "langchain_anyio"
# Added one after the other on each of the Pythons, as compiling the dependencies takes the time.
EXTRAS = (("", "trio", "trio,cli"), ("", "cli", "trio,cli"))
IN_SDIST = ("benchmarks", "docs", "src", "tests")
FILES_IN_SDIST = {
    ".gitignore",  # hatchling always adds it
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "PKG-INFO",
    "README.md",
    "SECURITY.md",
    "mkdocs.yml",
    "noxfile.py",
    "pyproject.toml",
}
# What a program may do with nothing but the wheel and its dependencies.
PROGRAM = """
import importlib.metadata
import importlib.resources
import sys

import anyio
import langchain_anyio
from langchain_core.language_models import FakeListChatModel

extras = set(sys.argv[1].split(",")) - {""}
assert "site-packages" in langchain_anyio.__file__, langchain_anyio.__file__
assert langchain_anyio.__version__ == importlib.metadata.version("langchain-anyio")
assert importlib.resources.files("langchain_anyio").joinpath("py.typed").is_file()
for name in langchain_anyio.__all__:
    assert getattr(langchain_anyio, name).__doc__, name


async def main():
    model = FakeListChatModel(responses=["Bubbles rise."])
    async with langchain_anyio.open_stream(model, "Write me a song.") as stream:
        return await stream.text


assert anyio.run(main) == "Bubbles rise."
if "trio" in extras:
    assert anyio.run(main, backend="trio") == "Bubbles rise."
    langchain_anyio.enable_trio()
else:
    try:
        langchain_anyio.enable_trio()
    except ImportError as exc:
        assert "langchain-anyio[trio]" in str(exc), exc
    else:
        raise AssertionError("trio is installed")
version = ".".join(map(str, sys.version_info[:3]))
print(f"{langchain_anyio.__version__} on Python {version}")
"""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="leave the files there")
    parser.add_argument("--tag", help="fail unless this is the version, after a v")
    parser.add_argument("pythons", nargs="+")
    # `nox -- -x` is for the sessions of pytest.
    options, _ = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as work:
        sdist, wheel = build_twice(Path(work))
        run("twine", "check", "--strict", str(sdist), str(wheel))
        show(sdist, check_sdist(sdist))
        show(wheel, check_wheel(wheel))
        version = check_metadata(wheel, sdist)
        assert options.tag in (None, f"v{version}"), f"{options.tag} is not v{version}"
        with ThreadPoolExecutor(2) as pool:
            cases = zip(options.pythons, cycle(EXTRAS), strict=False)
            for lines in pool.map(lambda case: install(wheel, *case, Path(work)), cases):
                print(*lines, sep="\n")
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            for path in (sdist, wheel):
                shutil.copy2(path, options.keep)
    return 0


def run(*command: str, env: dict[str, str] | None = None, cwd: Path = ROOT) -> str:
    """Run a command to its end and return its output; show it if the command fails."""
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        print(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}", file=sys.stderr)
        raise SystemExit(f"{command[0]} failed with {done.returncode}")
    return done.stdout


def build_twice(work: Path) -> tuple[Path, Path]:
    """Build in two places, as two people might; return what the first one made."""
    first, second, copy = work / "first", work / "second", work / "elsewhere"
    build = (sys.executable, "-m", "build", "--installer", "uv")
    # The wheel is made of the unpacked sdist here, and below of a tree like a checkout.
    run(*build, "--outdir", str(first), env={**os.environ, "TZ": "UTC"})
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".*_cache")
    copy.mkdir()
    for name in (*IN_SDIST, *sorted(FILES_IN_SDIST - {"PKG-INFO"})):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=ignored, copy_function=shutil.copy)
        else:
            shutil.copy(ROOT / name, copy / name)
    for path in copy.rglob("*"):
        if path.is_file():
            path.chmod(0o600)
    env = {**os.environ, "TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "1"}
    run(*build, "--sdist", "--wheel", "--outdir", str(second), env=env, cwd=copy)
    made = sorted(path.name for path in first.iterdir())
    assert made == sorted(path.name for path in second.iterdir()), made
    for name in made:
        digests = [
            hashlib.sha256((directory / name).read_bytes()).hexdigest()
            for directory in (first, second)
        ]
        assert digests[0] == digests[1], f"{name} has other bytes the second time"
        print(f"sha256 {digests[0]}  {name}")
    (sdist,) = first.glob("*.tar.gz")
    (wheel,) = first.glob("*.whl")
    return sdist, wheel


def files_below(directory: Path) -> set[str]:
    return {
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def check_sdist(sdist: Path) -> list[tuple[str, int]]:
    """Check that everything is there that testing and building needs, and nothing else."""
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    (top,) = {member.name.split("/")[0] for member in members}
    assert f"{top}.tar.gz" == sdist.name, top
    found = {member.name.partition("/")[2] for member in members}
    expected = FILES_IN_SDIST | {
        f"{folder}/{name}"
        for folder in IN_SDIST
        if (ROOT / folder).is_dir()
        for name in files_below(ROOT / folder)
    }
    assert found == expected, found ^ expected
    assert "tests/conftest.py" in found
    assert all(member.isfile() for member in members)
    return [(member.name, member.size) for member in members]


def check_wheel(wheel: Path) -> list[tuple[str, int]]:
    """Check that the package is there, each of its files, and its metadata, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        infos = archive.infolist()
    (metadata,) = {name for info in infos if (name := info.filename.split("/")[0]) != PACKAGE.name}
    assert re.fullmatch(r"langchain_anyio-\d[\w.]*\.dist-info", metadata), metadata
    found = {info.filename for info in infos}
    names = ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")
    expected = {f"{PACKAGE.name}/{name}" for name in files_below(PACKAGE)}
    assert found == expected | {f"{metadata}/{name}" for name in names}, found ^ expected
    assert "langchain_anyio/py.typed" in found
    return [(info.filename, info.file_size) for info in infos]


def check_metadata(wheel: Path, sdist: Path) -> str:
    """Check what a package index shows, and return the version."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    with tarfile.open(sdist) as archive:
        (member,) = (m for m in archive.getmembers() if m.name.endswith("/PKG-INFO"))
        file = archive.extractfile(member)
        assert file is not None
        in_sdist: Any = message_from_bytes(file.read())
    assert in_sdist.items() == metadata.items()
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (version,) = (
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and [ast.unparse(target) for target in node.targets] == ["__version__"]
    )
    assert metadata["Version"] == version
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changes, re.MULTILINE)
    assert metadata["License-Expression"] == "MIT"
    assert set(metadata.get_all("Provides-Extra", [])) == {"trio", "cli"}
    page: Any = metadata.get_payload()
    page = page.encode("ascii", "surrogateescape").decode()
    links = re.findall(r"\]\(([^)]*)\)", page)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []
    index, clone = page.index("pip install 'langchain-anyio"), page.index('pip install ".[')
    assert index < clone
    print(f"{wheel.name}: {len(metadata.items())} fields of metadata, {len(links)} links")
    return str(version)


def show(path: Path, listing: list[tuple[str, int]]) -> None:
    folders: dict[str, list[int]] = {}
    for name, size in listing:
        below = name.partition("/")[2] if path.name.endswith(".gz") else name
        parent = str(Path(*Path(below).parts[:2])) if "/" in below else below
        folders.setdefault(parent, []).append(size)
    total = sum(size for _, size in listing)
    print(f"{path.name}: {path.stat().st_size:,} bytes, {len(listing)} files of {total:,} bytes")
    for name, sizes in sorted(folders.items()):
        print(f"  {sum(sizes):>9,}  {name}{f' ({len(sizes)} files)' if len(sizes) > 1 else ''}")


def install(wheel: Path, python: str, steps: tuple[str, ...], work: Path) -> list[str]:
    """Install the wheel into an environment of its own, extra by extra, and use it there."""
    place = Path(tempfile.mkdtemp(dir=work))
    run("uv", "venv", "--quiet", "--python", python, str(place))
    here = str(place / ("Scripts" if os.name == "nt" else "bin") / "python")
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = (here, "-I", "-m", "langchain_anyio")
    lines = []
    for extras in steps:
        wanted = f"{wheel}[{extras}]" if extras else str(wheel)
        run("uv", "pip", "install", "--quiet", "--python", here, wanted)
        run("uv", "pip", "check", "--python", here)
        options = ("-I", "-X", "dev", "-W", "error")
        found = run(here, *options, "-c", PROGRAM, extras, env=env, cwd=place)
        backend = "trio" if "trio" in extras else "asyncio"
        answer = run(*command, "--backend", backend, "Write me a song.", env=env, cwd=place)
        assert "demo" in answer, answer
        lines.append(f"{found.strip()}, extras: {extras or 'none'}; command on {backend}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
