"""A provider's key stays out of errors, tracebacks, logs, warnings, `repr`, and what handlers are told."""

from __future__ import annotations

import logging
import traceback
import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from pydantic import SecretStr

from langchain_anyio import open_stream
from loopback import ProviderServer, Scenario
from loopback.models import MAKERS
from tally import tried

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["loopback.fixtures"]
pytestmark = [pytest.mark.slow, pytest.mark.anyio]

KEY = "sk-loopback-0123456789"

# Port 1 of this machine: nobody listens there.
NOWHERE = SimpleNamespace(
    openai_url="http://127.0.0.1:1/v1",
    azure_url="http://127.0.0.1:1",
    anthropic_url="http://127.0.0.1:1",
)

SCENARIOS: dict[str, Scenario | None] = {
    "a wrong key": Scenario(status=401),
    "a host that is not reached": None,
    "an error of the server": Scenario(status=500),
    "a stream that is reset": Scenario(fault="reset", after=3),
    "a stream that is cut": Scenario(fault="end", after=3, halfway=True),
    "an error in the stream": Scenario(fault="error", after=3),
    "no JSON": Scenario(fault="malformed", after=3),
    "a stream that stalls": Scenario(fault="stall", after=3),
    "nothing wrong": Scenario(),
}


class Told(AsyncCallbackHandler):
    """Keeps what it is told, as text."""

    def __init__(self) -> None:
        self.text = ""

    async def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.text += repr((args, kwargs))

    async def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        self.text += repr((args, kwargs))

    async def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.text += repr((error, kwargs))


def told_by(error: BaseException) -> Iterator[str]:
    """All that an error tells, and, of what is ours, what a debugger shows besides."""
    yield str(error)
    yield repr(error)
    yield "".join(traceback.format_exception(error))
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if "langchain_anyio" in frame.f_code.co_filename:
            yield from map(repr, frame.f_locals.values())


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_the_key_is_nowhere(
    make: Any, scenario: str, server: ProviderServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told, text = Told(), []
    answer = SCENARIOS[scenario]
    endpoint: Any = NOWHERE if answer is None else server.serve(answer)
    model = make(endpoint, api_key=SecretStr(KEY))
    error: Exception | None = None
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        stream = open_stream(model, "Tell me.", {"callbacks": [told]}, chunk_timeout=2)
        async with stream:
            text.append(f"{stream!r} {stream} {stream.text!r} {stream.output!r}")
            try:
                text.append(repr(await stream))
            except Exception as exc:
                error = exc
    text += [repr(stream), repr(stream.snapshot()), told.text, *map(str, warned)]
    text += [record.getMessage() + repr(record.__dict__) for record in caplog.records]
    # What a clean cut comes to is the provider's affair.
    assert (error is None) == (scenario == "nothing wrong")
    if error is not None:
        text += told_by(error)
    if answer is not None:
        # It was sent, and whoever looks for it could find it.
        [exchange] = endpoint.exchanges
        assert any(KEY in value for value in exchange.headers.values())
    assert told.text
    assert caplog.records
    for piece in text:
        assert KEY not in piece
    tried("Secrets: a key looked for in errors, tracebacks, logs, warnings and repr")
