"""A LangGraph server on loopback: it runs local graphs, and speaks the protocol of `RemoteGraph`.

    with remote_server({"talk": graph}) as server:
        graph = RemoteGraph("talk", url=server.url)

The events are those of the graphs' own runs, in the order, with the ids and with the root's lifecycle as
`langgraph-api` 0.16 sends them; nothing ends the connection of a thread's events.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import uuid
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import anyio.to_thread
import uvicorn
from langchain_core.messages import BaseMessage
from langgraph.types import Command
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from starlette.requests import Request

Fault = Literal["refused", "start held", "cancel held", "cancel fails", "dropped", "ended", "frame"]


@dataclass
class _Thread:
    events: list[dict[str, Any]] = field(default_factory=list)
    values: Any = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, event_id: str, method: str, namespace: list[str], data: Any) -> None:
        self.events.append(
            {
                "type": "event",
                "event_id": event_id,
                "seq": len(self.events) + 1,
                "method": method,
                "params": {"namespace": namespace, "timestamp": 0, "data": data},
            }
        )
        self.changed.set()
        self.changed = asyncio.Event()


class RemoteServer:
    """The server; made by `remote_server`.

    Attributes:
        url: Its address.
        fault: What goes wrong: the start is refused; it is not answered before `release()`; the cancellation is not
            answered, or answered with an error; the connection of all events is dropped, or ended, or ended after
            the frame of an error, each time that `after` events have been sent.
        after: The number of these events.
        started: The ids of the runs that were started.
        cancelled: Those that clients have cancelled.
        requests: How many requests came, by their last word.
        streams: How many connections of events are open.
    """

    def __init__(self, url: str, graphs: Mapping[str, Any]) -> None:
        self.url = url
        self.fault: Fault | None = None
        self.after = 0
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.requests: Counter[str] = Counter()
        self.streams = 0
        self._graphs = graphs
        self._threads: dict[str, _Thread] = {}
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._changed = threading.Condition()
        self._released = threading.Event()

    def release(self) -> None:
        """Let a start that is held be answered."""
        self._released.set()

    async def until(self, condition: Callable[[], bool], timeout: float = 10) -> bool:
        """Wait until the condition holds of what the server has seen; return whether it does in time."""

        def wait() -> bool:
            with self._changed:
                return self._changed.wait_for(condition, timeout)

        return await anyio.to_thread.run_sync(wait, abandon_on_cancel=True)

    def _note(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # The requests

    async def _command(self, request: Request) -> Response:
        command = await request.json()
        self.requests[command["method"]] += 1
        self._note()
        if self.fault == "refused":
            return JSONResponse(
                {"type": "error", "id": command["id"], "error": "bad", "message": "not this one"}
            )
        if self.fault == "start held":
            await asyncio.to_thread(self._released.wait, 60)
        params, run_id = command["params"], str(uuid.uuid4())
        thread = self._threads.setdefault(request.path_params["thread"], _Thread())
        graph = self._graphs[params["assistant_id"]]
        run = self._run(graph, request.path_params["thread"], thread, params.get("input"), run_id)
        self._runs[run_id] = asyncio.create_task(run)
        self.started.append(run_id)
        self._note()
        return JSONResponse(
            {
                "type": "success",
                "id": command["id"],
                "result": {"run_id": run_id},
                "meta": {"applied_through_seq": 0},
            }
        )

    async def _events(self, request: Request) -> Response:
        body = await request.json()
        self.requests["events"] += 1
        thread = self._threads[request.path_params["thread"]]
        faulty = "values" in body["channels"]
        return StreamingResponse(
            self._frames(request, thread, body, faulty), media_type="text/event-stream"
        )

    async def _frames(
        self, request: Request, thread: _Thread, body: dict[str, Any], faulty: bool
    ) -> AsyncIterator[bytes]:
        async def leave() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        left = asyncio.ensure_future(leave())
        self.streams += 1
        self._note()
        sent = position = 0
        try:
            yield b": hello\n\n"
            while not left.done():
                for event in thread.events[position:]:
                    position += 1
                    method = event["method"]
                    channel = "input" if method == "input.requested" else method
                    if channel not in body["channels"] or event["seq"] <= body.get("since", 0):
                        continue
                    if faulty and self.after and sent == self.after:
                        if self.fault == "dropped":
                            raise ConnectionResetError
                        if self.fault == "frame":
                            error = {"type": "error", "id": None, "error": "gone", "message": "bye"}
                            yield b"event: error\ndata: " + json.dumps(error).encode() + b"\n\n"
                        if self.fault in ("frame", "ended"):
                            return
                    sent += 1
                    data = json.dumps(event, default=_plain).encode()
                    yield f"event: {method}\nid: {event['seq']}\ndata: ".encode() + data + b"\n\n"
                if position == len(thread.events):
                    more = asyncio.ensure_future(thread.changed.wait())
                    await asyncio.wait({more, left}, return_when=asyncio.FIRST_COMPLETED)
                    more.cancel()
        finally:
            left.cancel()
            self.streams -= 1
            self._note()

    async def _state(self, request: Request) -> Response:
        self.requests["state"] += 1
        values = self._threads[request.path_params["thread"]].values
        return JSONResponse({"values": values, "next": [], "tasks": []})

    async def _cancel(self, request: Request) -> Response:
        self.requests["cancel"] += 1
        run_id = request.path_params["run"]
        if self.fault == "cancel held":
            await asyncio.sleep(60)
        if self.fault == "cancel fails":
            return JSONResponse({"detail": "broken"}, status_code=500)
        if self._runs[run_id].done():
            return JSONResponse({"detail": "No runs found to cancel."}, status_code=404)
        self.cancelled.append(run_id)
        self._runs[run_id].cancel()
        self._note()
        return JSONResponse(None)

    # A run

    async def _run(
        self, graph: Any, thread_id: str, thread: _Thread, input: Any, run_id: str
    ) -> None:
        def lifecycle(event: str, namespace: tuple[str, ...] = (), **data: Any) -> None:
            event_id = f"synth:{run_id}:lc|{'|'.join(namespace)}|{event}"
            data = {"event": event, "graph_name": "graph", **data}
            thread.add(event_id, "lifecycle", list(namespace), data)

        lifecycle("running")
        if thread.events[:-1] and thread.events[-2]["params"]["data"].get("interrupted"):
            input = Command(resume=input)
        config = {"configurable": {"thread_id": thread_id}}
        interrupts: list[Any] = []
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run = await graph.astream_events(input, config, version="v3")
            async with run:
                async for event in run:
                    method, params = event["method"], event["params"]
                    namespace, data = params["namespace"], params["data"]
                    event_id = f"{run_id}-{event['seq']}"
                    if method == "lifecycle":
                        namespace = data["namespace"]
                    elif method == "messages":
                        data = data[0]
                    elif method == "values" and not namespace:
                        interrupts = list(params["interrupts"])
                        thread.values = data
                    thread.add(event_id, method, namespace, data)
        except Exception as exc:
            lifecycle("failed", error=str(exc))
            return
        for number, interrupt in enumerate(interrupts):
            data = {"interrupt_id": interrupt.id, "payload": interrupt.value}
            thread.add(f"synth:{run_id}:input||{number}", "input.requested", [], data)
        lifecycle("interrupted" if interrupts else "completed")
        if interrupts:  # as the server sends it: late
            thread.add(f"{run_id}-late", "custom", [], {"interrupted": True})


def _plain(value: Any) -> Any:
    """Return what the server's JSON has of a value: of a message its fields."""
    return value.model_dump() if isinstance(value, BaseMessage) else str(value)


@contextlib.contextmanager
def remote_server(graphs: Mapping[str, Any]) -> Iterator[RemoteServer]:
    """Run a server on a free port of 127.0.0.1, in a thread, until the block is left."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = RemoteServer(f"http://127.0.0.1:{listener.getsockname()[1]}", graphs)
    thread = "/threads/{thread}"
    routes = [
        Route(f"{thread}/commands", server._command, methods=["POST"]),
        Route(f"{thread}/stream/events", server._events, methods=["POST"]),
        Route(f"{thread}/state", server._state, methods=["GET"]),
        Route(f"{thread}/runs/{{run}}/cancel", server._cancel, methods=["POST"]),
    ]
    runner = uvicorn.Server(
        uvicorn.Config(
            Starlette(routes=routes),
            http="h11",
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            log_level="critical",
            timeout_keep_alive=3600,
            timeout_graceful_shutdown=0,
        )
    )

    async def serve() -> None:
        await runner.serve(sockets=[listener])
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    running = threading.Thread(target=lambda: asyncio.run(serve()), name="remote", daemon=True)
    running.start()
    try:
        yield server
    finally:
        server.release()
        runner.should_exit = runner.force_exit = True
        running.join(60)
        listener.close()
        if running.is_alive():
            raise RuntimeError("the remote server did not stop")
