"""Errors of packages that use asyncio on trio: their notes name the package and the way out."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Iterator
from contextlib import aclosing
from types import ModuleType
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableLambda

from langchain_anyio import disable_trio, enable_trio, open_stream
from langchain_anyio._backends.asyncio_notes import note_use_of_asyncio

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

SOURCE = """
import asyncio

async def connect():
    asyncio.get_running_loop()

async def wrapped():
    try:
        await connect()
    except RuntimeError as exc:
        raise ConnectionError("could not connect") from exc

async def called(other):
    await other()

async def unrelated():
    raise RuntimeError("no running water")
"""


@pytest.fixture(autouse=True)
def enabled() -> Iterator[None]:
    enable_trio()
    yield
    disable_trio()


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Any:
    return make("a_provider_sdk", monkeypatch)


def make(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = ModuleType(name)
    exec(compile(SOURCE, f"{name}.py", "exec"), vars(module))
    monkeypatch.setitem(sys.modules, name, module)
    return module


def notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", []))


def runnable(function: Any) -> RunnableLambda[Any, Any]:
    async def step(_: Any) -> Any:
        return await function()

    return RunnableLambda(step)


@pytest.mark.trio
@pytest.mark.parametrize("name", ("connect", "wrapped"))
async def test_the_note_names_the_package_and_the_call(package: Any, name: str) -> None:
    with pytest.raises((RuntimeError, ConnectionError)) as caught:
        await (runnable(getattr(package, name)) | RunnableLambda(str)).ainvoke(1)
    (note,) = notes(caught.value)
    assert note.startswith("a_provider_sdk")
    assert note.endswith(
        'uses asyncio: for trio, call langchain_anyio.enable_trio("a_provider_sdk")'
    )
    assert note in "".join(traceback.format_exception(caught.value))


@pytest.mark.trio
async def test_it_says_what_helps(package: Any) -> None:
    with pytest.raises(RuntimeError):
        await runnable(package.connect).ainvoke(1)
    enable_trio("a_provider_sdk")
    await runnable(package.connect).ainvoke(1)


class Model(BaseChatModel):
    """A model of a package that uses asyncio, in the middle of its answer."""

    connect: Any

    @property
    def _llm_type(self) -> str:
        return "model"

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def _astream(self, *args: Any, **kwargs: Any) -> Any:
        yield ChatGenerationChunk(message=AIMessageChunk("one"))
        await self.connect()


@pytest.mark.trio
async def test_a_stream_that_fails_in_its_midst_has_the_note(package: Any) -> None:
    seen = []
    with pytest.raises(RuntimeError, match="no running event loop") as caught:
        async with aclosing(Model(connect=package.connect).astream("hi")) as stream:
            async for chunk in stream:
                seen.append(chunk.content)
    assert seen[0] == "one"
    assert len(notes(caught.value)) == 1


@pytest.mark.trio
async def test_an_error_gets_the_note_once(package: Any) -> None:
    inner = runnable(package.connect)

    async def outer(value: Any) -> Any:
        return await inner.ainvoke(value)

    with pytest.raises(RuntimeError) as caught:
        await RunnableLambda(outer).ainvoke(1)
    assert len(notes(caught.value)) == 1


@pytest.mark.trio
async def test_a_package_built_on_asyncio_is_said_to_need_it(
    package: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    aiohttp = make("aiohttp", monkeypatch)

    async def call() -> None:
        await package.called(aiohttp.connect)

    with pytest.raises(RuntimeError) as caught:
        await runnable(call).ainvoke(1)
    (note,) = notes(caught.value)
    assert note.startswith(
        "aiohttp, which a_provider_sdk uses, needs asyncio's event loop and does not work on trio"
    )


@pytest.mark.trio
async def test_a_module_that_is_covered_needs_asyncio_where_it_fails_nevertheless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module: Any = ModuleType("within_a_function")
    source = "async def connect():\n    import asyncio\n    asyncio.get_running_loop()\n"
    exec(source, vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    enable_trio("within_a_function")
    with pytest.raises(RuntimeError) as caught:
        await runnable(module.connect).ainvoke(1)
    assert "needs asyncio's event loop" in notes(caught.value)[0]


@pytest.mark.trio
async def test_other_errors_are_left_as_they_are(package: Any) -> None:
    with pytest.raises(RuntimeError, match="water") as caught:
        await runnable(package.unrelated).ainvoke(1)
    assert notes(caught.value) == []
    plain = RuntimeError("no running event loop")
    note_use_of_asyncio(plain)  # it has no traceback that names anything
    assert notes(plain) == []


@pytest.mark.trio
async def test_each_error_of_a_group_has_a_note_of_its_own(package: Any) -> None:
    errors = []
    for name in ("connect", "wrapped", "unrelated"):
        try:
            await getattr(package, name)()
        except Exception as exc:
            errors.append(exc)
    group = ExceptionGroup("several", errors)
    for _ in range(2):
        note_use_of_asyncio(group)
    assert notes(group) == []
    assert [notes(error) for error in errors] == [[noted(errors[0])], [noted(errors[1])], []]


def noted(error: BaseException) -> str:
    (note,) = notes(error)
    assert note.startswith("a_provider_sdk")
    return note


def test_on_asyncio_no_error_has_a_note(package: Any) -> None:
    async def fail() -> None:
        raise RuntimeError("no running event loop")

    package.fail = fail
    with pytest.raises(RuntimeError) as caught:
        asyncio.run(runnable(fail).ainvoke(1))
    assert notes(caught.value) == []


def test_causes_that_go_round_in_a_circle_end() -> None:
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    note_use_of_asyncio(first)
    assert notes(first) == []


@pytest.mark.trio
async def test_what_a_stream_raises_has_the_note(package: Any) -> None:
    class Model(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "test"

        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError

        async def _astream(self, *args: Any, **kwargs: Any) -> Any:
            await package.connect()
            yield ChatGenerationChunk(message=AIMessageChunk(content="never"))

    for _ in range(2):
        with pytest.raises(RuntimeError, match="no running event loop") as caught:
            await open_stream(Model(), "hi")
        (note,) = notes(caught.value)
        assert note.startswith("a_provider_sdk")
        assert note.endswith(
            'uses asyncio: for trio, call langchain_anyio.enable_trio("a_provider_sdk")'
        )
