"""Fixtures for modules that say `pytest_plugins = ["loopback.fixtures"]`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from . import ProviderServer, provider_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def no_certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every HTTP client reads all certificates, which takes a hundred times as long as a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SSL_CERT_FILE", raising=False)
        patch.setenv("SSL_CERT_DIR", str(tmp_path_factory.mktemp("certificates")))
        yield


@pytest.fixture(scope="module")
def server(no_certificates: None) -> Iterator[ProviderServer]:
    with provider_server() as server:
        yield server


@pytest.fixture
def run(anyio_backend: tuple[str, dict[str, Any]]) -> Callable[..., Any]:
    """Run an async function in an event loop of its own."""
    name, options = anyio_backend

    def run(function: Callable[[], Any]) -> Any:
        return anyio.run(function, backend=name, backend_options=options)

    return run
