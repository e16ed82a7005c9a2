"""Fixtures of several layers: `enable_trio()` around a test, and short cleanups."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, Protocol

import pytest

import langchain_anyio
from langchain_anyio._backends import limits

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENABLING = frozenset({"enabled", "enabled_on_trio"})
_is_enabled = False


def _enable() -> None:
    global _is_enabled
    _is_enabled = True
    langchain_anyio.enable_trio()


@pytest.fixture
def enabled() -> None:
    """`enable_trio()` for the test, where trio is installed.

    Enabling and disabling look at each loaded module, and take longer than most tests. So it holds
    on for the tests that follow and use such a fixture too; before any other test, and after the
    module, it is undone.
    """
    if importlib.util.find_spec("trio") is not None:
        _enable()


@pytest.fixture
def enabled_on_trio(anyio_backend: tuple[str, Any]) -> None:
    """`enabled`, if the backend of the test is trio."""
    if anyio_backend[0] == "trio":
        _enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    global _is_enabled
    try:
        yield
    finally:
        if _is_enabled and not _stays_enabled(item, nextitem):
            _is_enabled = False
            langchain_anyio.disable_trio()


def _stays_enabled(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    if nextitem is None or nextitem.path != item.path:
        return False
    wanted = _ENABLING.intersection(getattr(nextitem, "fixturenames", ()))
    if wanted == {"enabled_on_trio"}:
        backend: Any = nextitem.callspec.params["anyio_backend"]  # type: ignore[attr-defined]
        return bool(backend[0] == "trio")
    return bool(wanted)


class SetCleanup(Protocol):
    """Sets the bounds of a cleanup, in seconds; those not given stay as they are."""

    def __call__(
        self, whole: float | None = None, *, model: float | None = None, own: float | None = None
    ) -> None: ...


@pytest.fixture
def set_cleanup(monkeypatch: pytest.MonkeyPatch) -> SetCleanup:
    """Set after how many seconds a cleanup is given up."""

    def set_cleanup(
        whole: float | None = None, *, model: float | None = None, own: float | None = None
    ) -> None:
        if whole is not None:
            monkeypatch.setattr(limits, "CLEANUP_SECONDS", whole)
        if model is not None:
            monkeypatch.setattr(limits, "MODEL_SECONDS", model)
        if own is not None:
            monkeypatch.setattr(limits, "OWN_SECONDS", own)

    return set_cleanup


@pytest.fixture
def short_cleanup(request: pytest.FixtureRequest, set_cleanup: SetCleanup) -> None:
    """Give a cleanup up much earlier than after five seconds."""
    # Most of it is for the handlers: on a busy machine their threads take a while to begin.
    if request.config.getoption("--quick"):
        set_cleanup(0.3, model=0.05, own=0.25)
    else:
        set_cleanup(1.5, model=0.2, own=1.3)
