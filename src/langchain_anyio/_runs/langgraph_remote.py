"""The run of a `RemoteGraph`, and what is private in langgraph's and its SDK's objects for it.

As in `langgraph.py`, neither package is imported before the user has done so: a `RemoteGraph`
exists only if both have been.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from copy import copy
from typing import Any, Literal, Protocol, cast, final

import anyio
from langchain_core.runnables import RunnableConfig

from langchain_anyio._providers.httpx_clients import is_plain, on_this_loop

from .langgraph import open_run

Event = Mapping[str, Any]


class Decoder(Protocol):
    """Makes items of a projection from events."""

    def feed(self, event: Event) -> Iterable[Any]: ...


# All that the server sends, of which the projections are made here.
_CHANNELS = (
    "values",
    "updates",
    "messages",
    "tools",
    "lifecycle",
    "input",
    "checkpoints",
    "tasks",
    "custom",
)

# How often a lost connection is opened again before an event has come, and the seconds before the
# first time, halved.
_ATTEMPTS = 5
_PAUSE = 0.05

RunEnd = Literal["completed", "failed", "interrupted"]


@final
class RemoteRunStream:
    """A new run of a `RemoteGraph` in langgraph's run stream, which has not started.

    Its tasks belong to the task that awaits `start()` and `read()`. A client with
    httpx's default transport is not used itself, as its connections may belong to another event
    loop: a copy has the connections of this one.
    """

    def __init__(
        self, graph: Any, input: Any, config: RunnableConfig | None, kwargs: Mapping[str, Any]
    ) -> None:
        self._client = _client_for_current_loop(graph.client)
        if self._client is not graph.client:
            graph = copy(graph)
            graph.client = self._client
        self._run = open_run(graph, input, config, kwargs)
        # langgraph's object delegates to one of the SDK, which it has no public name for.
        self._sdk = self._run._sdk
        self._seen: set[str] = set()
        self._last = 0

    @property
    def thread_id(self) -> str:
        return str(self._sdk.thread_id)

    @property
    def run_id(self) -> str | None:
        """The run's id, once the server has told it; before, nothing can be cancelled."""
        return cast("str | None", self._run._run_id)

    async def start(self) -> None:
        """Start the run on the server, and listen to its lifecycle."""
        await self._run.__aenter__()

    async def read(self, take: Callable[[Event], bool]) -> bool:
        """Pass the thread's events to `take`, in order, until it returns whether this is the last.

        A server sends those of earlier runs in the thread too (see `run_named_by()`), and nothing
        ends the connection after the last one. If it is lost, it is opened again.

        Returns:
            Whether the last event has come; `False` if the server has ended the connection before.

        Raises:
            Exception: The error that the server tells of, or that of the connection.
        """
        attempts = 0
        while True:
            before = len(self._seen)
            try:
                # The SDK's own subscriptions end with the first run in the thread, and with the
                # first interrupt that it notices on another connection, which loses events; if
                # more than 1024 wait, they end in silence or never.
                handle = self._sdk._transport.open_event_stream(
                    {"channels": list(_CHANNELS), "since": self._last or None}
                )
                # It is closed by `close()` alone: if this task were cancelled as it closes the
                # handle, it would interrupt the SDK's task that closes the connection.
                async with aclosing(handle.events) as events:
                    await handle.ready
                    async for event in events:
                        if self._is_new(event) and take(event):
                            return True
                error = await handle.done
                if error is None:
                    return False
                raise error
            except Exception as exc:
                httpx = sys.modules["httpx"]
                if not isinstance(exc, httpx.TransportError):
                    raise
                # A run may be silent for longer than the client reads.
                if len(self._seen) > before or isinstance(exc, httpx.ReadTimeout):
                    attempts = 0
                attempts += 1
                if attempts > _ATTEMPTS:
                    raise
            await anyio.sleep(_PAUSE * 2**attempts)

    def _is_new(self, event: Event) -> bool:
        """Return whether the event has not come on an earlier connection; note that it has."""
        if event.get("type") == "error":
            # The words are those of the SDK.
            raise RuntimeError(
                f"Protocol error [{event.get('error', 'unknown')}]: {event.get('message', '')}"
            )
        number, event_id = event.get("seq"), event.get("event_id")
        if isinstance(number, int):
            self._last = max(self._last, number)
        if not isinstance(event_id, str):
            return True
        if event_id in self._seen:
            return False
        self._seen.add(event_id)
        return True

    async def state(self) -> Any:
        """Return the values of the thread's state."""
        return (await self._client.threads.get_state(self.thread_id))["values"]

    async def cancel(self) -> None:
        """Cancel the run on the server.

        Raises:
            Exception: The server could not be reached, or has refused.
        """
        # `abort()` hides errors, and closes nothing if it is itself cancelled.
        await self._client.runs.cancel(self.thread_id, self._run._run_id, wait=False)

    async def close(self) -> None:
        """End the SDK's tasks and close its connections."""
        await self._sdk.close()


def _client_for_current_loop(client: Any) -> Any:
    if f"{type(client).__module__}.{type(client).__qualname__}" != (
        "langgraph_sdk._async.client.LangGraphClient"
    ):
        return client
    http = client.http.client
    ours = on_this_loop(http) if is_plain(http) else None
    return client if ours is None else type(client)(ours)


def run_named_by(event: Event) -> str | None:
    """Return the id of the run whose start or end the event tells, if it has one."""
    kind, _, rest = str(event.get("event_id")).partition(":")
    return rest.partition(":")[0] if kind == "synth" and _lifecycle_of(event) else None


def end_of(event: Event) -> RunEnd | None:
    """Return how the run has ended, if this is the event that says so."""
    kind = _lifecycle_of(event)
    return kind if kind in ("completed", "failed", "interrupted") else None


def _lifecycle_of(event: Event) -> object:
    """Return what has become of the graph itself, if the event tells."""
    params = event.get("params") or {}
    if event.get("method") != "lifecycle" or params.get("namespace"):
        return None
    return (params.get("data") or {}).get("event")


def error_of(event: Event) -> RuntimeError:
    """Return the error of a run that has failed, as the SDK makes it."""
    message = event["params"]["data"].get("error")
    return RuntimeError(f"Run errored: {message}" if message else "Run errored")


def interrupt_of(event: Event) -> dict[str, Any] | None:
    """Return the interrupt that an event tells of, as the SDK describes it, if it tells of one."""
    if event.get("method") != "input.requested":
        return None
    params = event["params"]
    data = params["data"]
    return {
        "interrupt_id": data["interrupt_id"],
        # Servers say "payload", where the SDK reads "value".
        "value": data.get("value", data.get("payload")),
        "namespace": params.get("namespace") or [],
    }


def decoder_of(name: str, scope: list[str], make: Mapping[str, Callable[..., Any]]) -> Decoder:
    """Return what makes the items of a projection from events.

    Args:
        name: A projection's name; any other than those that are known is that of an extension.
        scope: The namespace of its graph.
        make: The functions that make messages, tool calls and subgraphs, by the projection's name.
    """
    from langgraph_sdk.stream import decoders

    if name == "messages":
        return decoders.MessagesDecoder(namespace=scope, stream_factory=make[name])
    if name == "tool_calls":
        return decoders.ToolCallsDecoder(namespace=scope, handle_factory=make[name])
    if name == "subgraphs":
        return decoders.SubgraphsDecoder(scope=tuple(scope), handle_factory=make[name])
    if name in {"values", "updates", "checkpoints", "tasks", "custom"}:
        return decoders.DataDecoder(name, namespace=scope)
    return decoders.ExtensionsDecoder(name=name)
