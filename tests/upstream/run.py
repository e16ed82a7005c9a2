"""Fetches langchain-core's own tests of the classes ported and runs them on the project's classes.

`python run.py DIRECTORY [pytest's arguments]`. The tests come from the source distribution of the installed release.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
UNIT = "tests/unit_tests"
TESTS = [
    f"{UNIT}/language_models/test_chat_model_stream.py",
    f"{UNIT}/language_models/test_chat_model_streamer.py",
    f"{UNIT}/language_models/test_chat_model_v3_stream.py",
]
# Their configuration of pytest stays behind: it asks for plugins that these tests do without.
IMPORTED = [
    "tests/__init__.py",
    f"{UNIT}/__init__.py",
    f"{UNIT}/language_models/__init__.py",
    f"{UNIT}/tracers/__init__.py",
    f"{UNIT}/tracers/test_base_tracer.py",
]


def fetch(directory: Path) -> Path:
    """Unpack the tests of the installed langchain-core below a directory and give the place."""
    release = version("langchain-core")
    archive = directory / f"langchain_core-{release}.tar.gz"
    if not archive.exists():
        download = ["download", "--quiet", "--no-deps", "--no-binary", "langchain-core"]
        to = ["--dest", str(directory), f"langchain-core=={release}"]
        subprocess.run([sys.executable, "-m", "pip", *download, *to], check=True)
    place = directory / archive.name.removesuffix(".tar.gz")
    with tarfile.open(archive) as sdist:
        for name in TESTS + IMPORTED:
            member = sdist.extractfile(f"{place.name}/{name}")
            assert member is not None, f"{name} is not a file"
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(member.read())
    return place


def main() -> int:
    directory, *arguments = sys.argv[1:]
    place = fetch(Path(directory).resolve())
    options = ["-c", str(HERE / "pytest.toml"), "--rootdir", str(place), "-p", "plugin"]
    # Run from the place, `tests` is langchain-core's package and not the project's directory.
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *TESTS, *arguments],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(HERE)},
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
