"""`enable_trio()` and `disable_trio()` in every order with imports: the same comes of it, and nothing is left."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

import enabling
from langchain_anyio import disable_trio, enable_trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

numbers = itertools.count()


@pytest.fixture(autouse=True)
def disabled() -> Iterator[None]:
    yield
    disable_trio()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Write a module, and return its name."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def make(source: str, *, package: bool = False) -> str:
        name = f"of_these_{next(numbers)}"
        lines = source.strip("\n").splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip())
        path = tmp_path / name / "__init__.py" if package else tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(line[indent:] for line in lines) + "\n")
        importlib.invalidate_caches()
        made.append(name)
        return name

    yield make
    for name in list(sys.modules):
        if name.partition(".")[0] in made:
            del sys.modules[name]


# What is enabled


def test_the_program_itself_is_enabled(tmp_path: Path) -> None:
    program = """if True:
        import asyncio
        from asyncio import gather
        import trio
        from langchain_anyio import disable_trio, enable_trio

        class Box(asyncio.Lock): pass

        async def main():
            async with Box():
                return await asyncio.wait_for(gather(asyncio.sleep(0, 1)), 60)

        enable_trio("__main__")
        print(asyncio.run(main()), trio.run(main))
        disable_trio()
        import asyncio as real
        print(asyncio is real, gather is real.gather, Box.__bases__ == (real.Lock,))
    """
    path = tmp_path / "program_of_these.py"
    path.write_text(program)
    for arguments in (["-c", program], ["-m", path.stem]):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.stdout, done.stderr) == ("[1] [1]\nTrue True True\n", "")


def test_one_that_uses_no_asyncio_is_no_error(write: Callable[..., str]) -> None:
    package = write("value = 1", package=True)
    module = importlib.import_module(write("class Model:\n    def invoke(self): return 1"))
    before = dict(enabling.values_of_modules("of_these"))
    enable_trio(package, module.__name__, "json", "math")
    assert package not in sys.modules
    after = dict(enabling.values_of_modules("of_these"))
    assert before.keys() == after.keys()
    assert all(after[path] is before[path] for path in before)
    assert importlib.import_module(package).value == 1


def test_a_module_made_by_hand_is_enabled() -> None:
    module: Any = ModuleType("made_by_hand")
    sys.modules[module.__name__] = module
    try:
        module.asyncio = asyncio
        enable_trio("made_by_hand")
        assert module.asyncio is not asyncio
        disable_trio()
        assert module.asyncio is asyncio
    finally:
        del sys.modules["made_by_hand"]


@pytest.mark.parametrize(
    ("package", "error", "message"),
    (
        ("langchain-openai", ValueError, r"'langchain-openai'.*import name: langchain_openai$"),
        ("no-such-library", ValueError, r"'no-such-library'.*import name: no_such_library$"),
        ("no_such_library", ModuleNotFoundError, r"'no_such_library' is installed$"),
        ("no_such_library.part", ModuleNotFoundError, r"'no_such_library\.part' is installed$"),
        ("json.no_such_part", ModuleNotFoundError, r"'json\.no_such_part' is installed$"),
        ("json.decoder.part", ModuleNotFoundError, r"'json\.decoder\.part' is installed$"),
        ("", ValueError, r"\(''\): not an import name$"),
        (".json", ValueError, r"'\.json'.*not an import name"),
        ("json.", ValueError, r"'json\.'.*not an import name"),
        ("json decoder", ValueError, "not an import name"),
        (None, TypeError, "not NoneType: None"),
        (b"json", TypeError, "not bytes: b'json'"),
        (["json"], TypeError, r"each a str of its own, not list: \['json'\]"),
        (json, TypeError, r"not module: .*"),
    ),
)
def test_what_cannot_be_enabled_is_said_and_nothing_is_done(
    package: Any, error: type[Exception], message: str
) -> None:
    disable_trio()
    finders = list(sys.meta_path)
    with pytest.raises(error, match=message):
        enable_trio("json", package)
    assert sys.meta_path == finders
    assert enabling.left_behind("of_these") == []


def test_what_a_parent_fails_with_is_its_own_error(write: Callable[..., str]) -> None:
    name = write("import a_dependency_of_it", package=True)
    with pytest.raises(ModuleNotFoundError, match="'a_dependency_of_it'"):
        enable_trio(f"{name}.part")
