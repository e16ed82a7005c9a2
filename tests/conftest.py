"""The backends that tests run on, the Hypothesis profiles, and what takes too long to run every time.

A test marked `long` runs with `--long` alone, as the nox session of that name says. What a test tries often it counts
by `tally.tried`, for the table of docs/reliability.md.

An asynchronous test is marked `anyio` and runs on every backend, or `trio` and runs under pytest-trio. Modules
named `*_trio.py` may import trio: they are not collected where trio is not among the backends.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import none

from provider_tables import ProviderTables
from tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["shared_fixtures"]

BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}

# Two busy cores say nothing about a test's speed, so neither deadlines nor slow data generation are
# failures.
settings.register_profile(
    "default",
    max_examples=300,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
# Under the tracer of coverage an example takes several times as long, and finds no other lines.
settings.register_profile("brief", settings.get_profile("default"), max_examples=50)
settings.register_profile("long", settings.get_profile("default"), max_examples=10_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        default=",".join(BACKENDS),
        help="the backends to run asynchronous tests on, separated by commas (default: %(default)s)",
    )
    parser.addoption(
        "--quick",
        action="store_true",
        help="leave out the tests marked slow or unhurried, and try few examples of Hypothesis",
    )
    parser.addoption("--long", action="store_true", help="also run the tests marked long")
    parser.addoption(
        "--providers",
        action="store_true",
        help="run the tests of every provider's package instead; all must be installed",
    )
    parser.addoption(
        "--models-page",
        metavar="FILE",
        type=Path,
        help="write what the tests of every provider's package have shown into the file",
    )
    parser.addoption(
        "--table",
        metavar="FILE",
        type=Path,
        help="run what counts what it tries, and write that into the file",
    )


def selected_backends(config: pytest.Config) -> list[str]:
    """The backends that this run was asked for.

    Without `trio`, nothing that needs trio is collected.
    """
    return str(config.getoption("--backend")).split(",")


def pytest_configure(config: pytest.Config) -> None:
    selected = selected_backends(config)
    if unknown := set(selected) - set(BACKENDS):
        raise pytest.UsageError(f"--backend: unknown {sorted(unknown)}, known are {list(BACKENDS)}")
    # Asked for and missing is an error: tests that silently do not run prove nothing.
    for name in selected:
        if importlib.util.find_spec(name) is None:
            raise pytest.UsageError(
                f"--backend: {name} is not installed; install it, or name the backends to run on"
            )
    if "trio" not in selected:
        # pytest-trio, which registers the mark, may be missing too.
        config.addinivalue_line("markers", "trio: run under pytest-trio")
    if config.getoption("--quick"):
        settings.load_profile("brief")
    # With pytest-xdist the tests run elsewhere, and their reports come here.
    elsewhere = hasattr(config, "workerinput")
    config.pluginmanager.register(Tally(None if elsewhere else config.getoption("--table")))
    if config.getoption("--providers"):
        config.pluginmanager.register(ProviderTables(config.getoption("--models-page")))
        # What packages warn of is their own affair. So are their clients on asyncio without `open_stream`: they stay open.
        for line in (
            "ignore:unclosed:ResourceWarning",
            "ignore::DeprecationWarning",
            "ignore::UserWarning",
        ):
            config.addinivalue_line("filterwarnings", line)


def pytest_ignore_collect(collection_path: Any, config: pytest.Config) -> bool | None:
    if collection_path.name.endswith("_trio.py") and "trio" not in selected_backends(config):
        return True
    # What imports every provider's package has a session of its own.
    if collection_path.name.startswith("test_every_") and not config.getoption("--providers"):
        return True
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "anyio_backend" in metafunc.fixturenames:
        metafunc.parametrize(
            "anyio_backend",
            [pytest.param(BACKENDS[name], id=name) for name in selected_backends(metafunc.config)],
            indirect=True,
            scope="module",
        )


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The backend that the test runs on, as anyio's plugin takes it."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Have interrupts raised: where the tests run in the background of a shell, they and their processes ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests of backends not asked for and the long ones, and refuse a test that has two runners."""
    selected = selected_backends(config)
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        on_trio = item.get_closest_marker("trio") is not None
        on_anyio = "anyio_backend" in getattr(item, "fixturenames", ())
        if on_trio and on_anyio:
            raise pytest.UsageError(f"{item.nodeid} is marked both anyio and trio")
        # A test that has no backend of its own is run once, beside asyncio's, or trio's where its
        # module needs trio.
        beside_trio = on_trio or item.path.name.endswith("_trio.py")
        wanted = on_anyio or ("trio" if beside_trio else "asyncio") in selected
        if item.get_closest_marker("long") is not None and not config.getoption("--long"):
            wanted = False
        if config.getoption("--quick") and any(
            item.get_closest_marker(name) for name in ("slow", "unhurried")
        ):
            wanted = False
        # What goes into the table, and what makes up its cases.
        counts = hasattr(getattr(item, "module", None), "tried")
        if config.getoption("--table") and not (
            counts or getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
        ):
            wanted = False
        (kept if wanted else left_out).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


def pytest_collection_finish() -> None:
    """Leave what the modules hold out of garbage collections, which many tests ask for."""
    # Hypothesis makes its random numbers' generator once, and warns if the collector knows of
    # nothing that refers to it, as it would not once Hypothesis itself is left out.
    settings(derandomize=True, max_examples=1, database=None)(given(none())(lambda _: None))()
    gc.collect()
    gc.freeze()
