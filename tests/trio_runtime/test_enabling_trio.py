"""`enable_trio()` and `disable_trio()` in every order with imports.

The same comes of it, and nothing is left.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.util
import itertools
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import trio

import enabling
from langchain_anyio import disable_trio, enable_trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ORDERS = {
    "enabled first": ("enable", "packages", "import"),
    "imported first": ("import", "packages"),
    "between": ("enable", "langchain_core", "disable", "enable", "langgraph", "import", "packages"),
}


def run_in_order(steps: tuple[str, ...]) -> Any:
    done = subprocess.run(
        [sys.executable, enabling.__file__, *steps],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, (steps, done.stderr)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_every_order_gives_the_same_of_the_real_packages() -> None:
    with ThreadPoolExecutor(2) as threads:
        reports = dict(zip(ORDERS, threads.map(run_in_order, ORDERS.values()), strict=True))
    first = reports["imported first"]
    assert len(first["changed"]) > 100
    for order, report in reports.items():
        assert report["left"] == [], order
        assert report["changed"] == first["changed"], order
        assert report["asyncio"]["two"] == ["a", "b"]
        assert report["asyncio"] == report["trio"] == report["disabled"] == first["asyncio"], order


# Two packages that are covered, one of which imports from the other, and a module of a user, which
# is not. What one takes from the other is what it would have taken from asyncio, a method, and a
# class.
FIRST = """
    import asyncio
    import asyncio as aio
    from asyncio import Lock, gather, sleep as pause

    class Model:
        async def ainvoke(self, value):
            await asyncio.sleep(0)
            return value + 1

        async def astream(self, value):
            for number in await aio.gather(self.ainvoke(value), self.ainvoke(value + 1)):
                yield number

        @classmethod
        async def agenerate(cls, value):
            return await cls().ainvoke(value)

    class Box(Lock):
        pass
"""
SECOND = """
    import functools
    import {first} as first
    from {first} import Box, Lock, Model, aio, asyncio, gather, pause

    class Other(Model):
        ainvoke = Model.ainvoke
        stream = Model.astream
        halt = staticmethod(pause)

    class Case(Box):
        pass

    class Cell(Lock):
        pass

    @functools.lru_cache
    def number():
        return 1

    async def use():
        async with Cell(), Case(), Lock(), asyncio.Lock():
            await pause(0)
            numbers = [item async for item in Other().astream(1)]
            numbers += [item async for item in Other().stream(1)]
            return numbers + await gather(Other().ainvoke(1), aio.gather(Model().ainvoke(2)))
"""
USED = [2, 3, 2, 3, 2, [3]]
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


def kinds(*modules: ModuleType) -> dict[str, bool]:
    """Which of the values of modules and their classes are this package's own."""
    names = {module.__name__ for module in modules}
    return {
        path.partition(".")[2]: enabling.is_ours(value)
        for path, value in enabling.values_of_modules("of_these")
        if path.partition(".")[0] in names and "__spec__" not in path and "__loader__" not in path
    }


STEPS = ("first", "second", "enable first", "enable second")
ORDERS_OF_STEPS = tuple(
    pytest.param(steps, id="-".join(steps), marks=[pytest.mark.unhurried] if number % 4 else [])
    for number, steps in enumerate(itertools.permutations(STEPS))
)


@pytest.mark.parametrize("steps", ORDERS_OF_STEPS)
def test_every_order_of_importing_and_enabling_gives_the_same(
    write: Callable[..., str], steps: tuple[str, ...]
) -> None:
    names = {"first": write(FIRST)}
    names["second"] = write(SECOND.replace("{first}", names["first"]))
    for step in steps:
        kind, _, name = step.rpartition(" ")
        if kind:
            enable_trio(names[name])
        else:
            importlib.import_module(names[name])
    first, second = (sys.modules[name] for name in names.values())
    user = importlib.import_module(write(SECOND.replace("{first}", names["second"])))
    assert asyncio.run(second.use()) == trio.run(second.use) == USED
    ours = [path for path, value in kinds(second).items() if value]
    # As a list, because each order is a test of its own.
    assert sorted(ours) == [
        "Cell.__bases__[0]",
        "Lock",
        "Other.ainvoke",
        "aio",
        "asyncio",
        "gather",
        "pause",
    ]
    disable_trio()
    assert enabling.left_behind("of_these") == []
    for module in (first, second, user):
        assert module.asyncio is module.aio is asyncio
        assert (module.gather, module.pause, module.Lock) == (
            asyncio.gather,
            asyncio.sleep,
            asyncio.Lock,
        )
    for module in (second, user):
        assert module.Cell.__bases__ == (asyncio.Lock,)
        assert vars(module.Other)["ainvoke"] is vars(first.Model)["ainvoke"]
        assert vars(module.Other)["stream"] is vars(first.Model)["astream"]
        assert vars(module.Other)["halt"].__func__ is asyncio.sleep
        assert asyncio.run(module.use()) == USED
    # And once more, from where it was.
    enable_trio(*names.values())
    assert asyncio.run(second.use()) == trio.run(second.use) == USED
    assert sorted(path for path, value in kinds(second).items() if value) == sorted(ours)
    disable_trio()
    assert enabling.left_behind("of_these") == []


def test_a_package_and_a_part_of_it_are_enabled_once(write: Callable[..., str]) -> None:
    name = write(FIRST, package=True)
    Path(sys.path[0], name, "part.py").write_text(
        "from asyncio import sleep\nclass Model:\n    async def ainvoke(self): await sleep(0)\n"
    )
    enable_trio(f"{name}.part", name)
    part = importlib.import_module(f"{name}.part")
    original = part.Model.ainvoke.__wrapped__
    enable_trio(name, f"{name}.part")
    assert part.Model.ainvoke.__wrapped__ is original
    assert not enabling.is_ours(original)
    disable_trio()
    assert part.Model.ainvoke is original
    assert enabling.left_behind("of_these") == []


@pytest.mark.parametrize("twice", (False, True))
def test_a_module_is_executed_again(write: Callable[..., str], twice: bool) -> None:
    first = importlib.import_module(write(FIRST))
    enable_trio(first.__name__)
    for _ in range(1 + twice):
        first = importlib.reload(first)
    assert trio.run(first.Model().ainvoke, 1) == 2
    assert enabling.is_ours(first.pause)
    disable_trio()
    assert enabling.left_behind("of_these") == []
    assert importlib.reload(first).asyncio is asyncio
    assert not any(kinds(first).values())


def test_a_module_whose_execution_fails_the_second_time_is_enabled_still(
    write: Callable[..., str],
) -> None:
    name = write("import asyncio\nasync def f(): return await asyncio.sleep(0, 1)\nimport later")
    sys.modules["later"] = ModuleType("later")
    enable_trio(name)
    module = importlib.import_module(name)
    del sys.modules["later"]
    with pytest.raises(ModuleNotFoundError, match="later"):
        importlib.reload(module)
    assert trio.run(module.f) == asyncio.run(module.f()) == 1
    disable_trio()
    assert module.asyncio is asyncio


def test_a_module_that_fails_is_imported_later(write: Callable[..., str]) -> None:
    name = write("import asyncio\nasync def f(): return await asyncio.sleep(0, 1)\nimport later")
    enable_trio(name)
    with pytest.raises(ModuleNotFoundError, match="later"):
        importlib.import_module(name)
    assert name not in sys.modules
    sys.modules["later"] = ModuleType("later")
    try:
        module = importlib.import_module(name)
    finally:
        del sys.modules["later"]
    assert trio.run(module.f) == 1


SLOW = """
    from asyncio import gather
    import this_gate

    this_gate.begun.set()
    assert this_gate.go.wait(60)
    import asyncio

    async def f():
        return await asyncio.gather(asyncio.sleep(0, 1))
"""


@pytest.fixture
def gate() -> Iterator[Any]:
    gate: Any = ModuleType("this_gate")
    gate.begun, gate.go = threading.Event(), threading.Event()
    sys.modules["this_gate"] = gate
    yield gate
    gate.go.set()
    del sys.modules["this_gate"]


@pytest.mark.parametrize("what", ("enable", "disable", "enable, disable", "disable, enable"))
def test_another_thread_is_importing_meanwhile(
    write: Callable[..., str], gate: Any, what: str
) -> None:
    name = write(SLOW)
    if what.startswith("disable"):
        enable_trio(name)
    thread = threading.Thread(target=importlib.import_module, args=[name])
    thread.start()
    assert gate.begun.wait(60)
    for step in what.split(", "):
        if step == "enable":
            enable_trio(name)
        else:
            disable_trio()
    gate.go.set()
    thread.join(60)
    module = sys.modules[name]
    if what.endswith("enable"):
        assert trio.run(module.f) == [1]
        assert enabling.is_ours(module.gather)
        disable_trio()
    assert asyncio.run(module.f()) == [1]
    assert module.asyncio is asyncio
    assert module.gather is asyncio.gather
    assert enabling.left_behind("of_these") == []
    assert type(module.__spec__) is importlib.machinery.ModuleSpec


@pytest.mark.parametrize("fails", (False, True))
def test_a_package_enables_itself_while_it_is_imported(
    write: Callable[..., str], fails: bool
) -> None:
    source = """
        from langchain_anyio import enable_trio
        enable_trio(__name__)
        import asyncio

        async def f():
            return await asyncio.sleep(0, 1)
    """
    name = write(source + "\n        1 / 0" * fails, package=True)
    if fails:
        with pytest.raises(ZeroDivisionError):
            importlib.import_module(name)
        return
    module = importlib.import_module(name)
    assert trio.run(module.f) == 1
    disable_trio()
    assert module.asyncio is asyncio


@pytest.mark.unhurried
def test_threads_import_and_enable_at_once() -> None:
    """Neither waits for a lock that the other one has."""
    program = """if True:
        import importlib, sys, threading
        from langchain_anyio import disable_trio, enable_trio
        enable_trio()
        sys.setswitchinterval(1e-5)
        names = ("langchain_core.runnables", "langchain_core.language_models", "langgraph.graph")
        def load(name):
            importlib.import_module(name)
        threads = [threading.Thread(target=load, args=[name], daemon=True) for name in names]
        for thread in threads: thread.start()
        while any(thread.is_alive() for thread in threads):
            disable_trio()
            enable_trio()
        enable_trio("json")
        import asyncio, enabling
        ours = [n for n, m in sys.modules.items() if n.startswith(("langchain_core.", "langgraph."))
                and vars(m).get("asyncio") is asyncio]
        assert not ours, ours
        disable_trio()
        print(enabling.left_behind())
    """
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(enabling.__file__).parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_a_loader_stays_what_it_is(write: Callable[..., str]) -> None:
    names = [write(FIRST), write("assert __spec__.loader is __loader__\nvalue = 1")]

    class Shared:
        """Finder and loader of many modules at once, as pytest's own is."""

        executed: list[str] = []  # noqa: RUF012

        def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            if name not in names or spec is None:
                return None
            self.origin = spec.origin
            return importlib.util.spec_from_file_location(name, spec.origin, loader=self)

        def create_module(self, spec: Any) -> None:
            return None

        def exec_module(self, module: Any) -> None:
            self.executed.append(module.__name__)
            exec(compile(Path(module.__file__).read_bytes(), module.__file__, "exec"), vars(module))

        def get_data(self, path: str) -> bytes:
            return Path(path).read_bytes()

    shared: Any = Shared()
    sys.meta_path.insert(0, shared)
    try:
        enable_trio(*names)
        spec = importlib.util.find_spec(names[0])
        assert spec is not None
        assert spec.loader is not None
        assert spec.loader.get_data(shared.origin)  # type: ignore[attr-defined]
        modules = [importlib.import_module(name) for name in names]
        # As the documentation of importlib has it, without the import system.
        by_hand: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(by_hand)
    finally:
        sys.meta_path.remove(shared)
    for module in (*modules, by_hand):
        assert module.__loader__ is module.__spec__.loader is shared
    assert Shared.executed == [*names, names[0]]
    assert vars(shared).keys() <= {"origin"}
    assert trio.run(modules[0].Model().ainvoke, 1) == trio.run(by_hand.Model().ainvoke, 1) == 2
    disable_trio()
    assert enabling.left_behind("of_these") == []
    assert by_hand.asyncio is asyncio


def test_a_lazy_module_is_enabled_where_it_is_loaded(write: Callable[..., str]) -> None:
    name = write(FIRST)
    enable_trio(name)
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    loader = spec.loader = importlib.util.LazyLoader(spec.loader)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    assert trio.run(module.Model().ainvoke, 1) == 2
    disable_trio()
    assert module.asyncio is asyncio
    assert enabling.left_behind("of_these") == []


def test_what_is_in_the_place_of_a_module_is_left_alone(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write(FIRST, package=True)

    class Stand:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("not here")

    monkeypatch.setitem(sys.modules, f"{name}.forbidden", None)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, f"{name}.stand", Stand())  # type: ignore[arg-type]
    module: Any = importlib.import_module(name)
    module.proxy = Stand()
    enable_trio(name)
    assert trio.run(module.Model().ainvoke, 1) == 2
    disable_trio()
    assert enabling.left_behind("of_these") == []


def test_what_others_have_patched_since_is_left_to_them(write: Callable[..., str]) -> None:
    module: Any = importlib.import_module(write(FIRST))
    enable_trio(module.__name__)

    def patched(*args: Any) -> None: ...

    traced = functools.wraps(module.Model.ainvoke)(patched)
    module.gather, module.Model.ainvoke = patched, traced
    disable_trio()
    assert (module.gather, module.Model.ainvoke) == (patched, traced)
    assert module.asyncio is asyncio


def test_a_name_that_was_taken_with_a_class_and_its_base_is_given_back(
    write: Callable[..., str],
) -> None:
    first = write(FIRST)
    enable_trio(first)
    user = write(f"from {first} import Lock, Model\nclass Mine(Lock): step = Model.astream")
    module = importlib.import_module(user)
    assert enabling.is_ours(module.Lock)
    disable_trio()
    assert enabling.left_behind("of_these") == []
    assert module.Mine.__bases__ == (asyncio.Lock,)


def test_what_was_imported_from_this_package_stays(write: Callable[..., str]) -> None:
    first = write(FIRST)
    enable_trio(first)
    module: Any = importlib.import_module(
        write(
            f"from langchain_anyio._trio_runtime.namespace import NAMESPACE\nfrom {first} import aio"
        )
    )
    namespace = module.NAMESPACE
    assert namespace is module.aio is not asyncio
    disable_trio()
    assert module.NAMESPACE is namespace
    assert module.aio is asyncio


# What is enabled


@pytest.mark.unhurried
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
        (
            "langchain-openai",
            ValueError,
            "; langchain-openai is a distribution; its import name is langchain_openai$",
        ),
        (
            "LangChain_OpenAI",
            ModuleNotFoundError,
            "; LangChain_OpenAI is a distribution; its import name is langchain_openai$",
        ),
        (
            "Typing.Extensions",
            ModuleNotFoundError,
            "; Typing.Extensions is a distribution; its import name is typing_extensions$",
        ),
        (
            "langgraph-checkpoint",
            ValueError,
            r"; langgraph-checkpoint is a distribution; its import name is langgraph$",
        ),
        (
            "no-such-library",
            ValueError,
            r"\('no-such-library'\): not an import name; "
            "if it is a distribution, its import name may be no_such_library$",
        ),
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


def test_a_failure_while_enabling_leaves_what_was(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(ModuleType):
        def __setattr__(self, name: str, value: object) -> None:
            raise KeyboardInterrupt

    broken: Any = Broken("broken_of_these")
    vars(broken)["asyncio"] = asyncio
    monkeypatch.setitem(sys.modules, "broken_of_these", broken)
    first: Any = importlib.import_module(write(FIRST))
    finders = list(sys.meta_path)
    with pytest.raises(KeyboardInterrupt):
        enable_trio(first.__name__, "broken_of_these")
    assert sys.meta_path == finders
    assert enabling.left_behind("of_these") == []
    enable_trio(first.__name__)
    with pytest.raises(KeyboardInterrupt):
        enable_trio("broken_of_these")
    assert trio.run(first.Model().ainvoke, 1) == 2
