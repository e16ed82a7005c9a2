"""Has tests that anyio's plugin runs run on trio, with `enable_trio()` for their libraries and for themselves."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from typing import Any

import anyio
import pytest

# Far above what any of them takes, so that a test that hangs is a failure and not the end of the run.
SECONDS = 60


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--results-backend") == "trio":
        import langchain_anyio

        langchain_anyio.enable_trio()
        # The tests use asyncio as any library may that is written against langgraph; those of one package do not.
        with contextlib.suppress(ValueError):
            langchain_anyio.enable_trio("tests")
        langchain_anyio.enable_trio(*os.environ["WITH_TESTS"].split())
        config.pluginmanager.register(OnTrio(), "on_trio_through_anyio")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asynchronous = []
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = _guarded(item.obj)
            asynchronous.append(item)
    config.hook.pytest_deselected(items=[item for item in items if item not in asynchronous])
    items[:] = asynchronous


def _guarded(function: Any) -> Any:
    @functools.wraps(function)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        with anyio.fail_after(SECONDS):
            return await function(*args, **kwargs)

    return guarded


class OnTrio:
    """Gives anyio's plugin its backend, where the tests say nothing of it and where they name asyncio."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "trio"

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> None:
        if fixturedef.argname == "anyio_backend":
            fixturedef.func = lambda **_: "trio"
