"""Error messages for the names of asyncio that have no meaning on trio."""

from __future__ import annotations

import asyncio
from typing import Final

_STREAMS: Final = "use anyio.connect_tcp() and anyio.create_tcp_listener(), or trio's own streams"
_PROCESSES: Final = "use anyio.open_process(), anyio.run_process() or trio.run_process()"
_SIGNALS: Final = "use anyio.open_signal_receiver() or trio.open_signal_receiver()"
_SOCKETS: Final = "use trio.socket, and trio.lowlevel.wait_readable()"
_RUN: Final = "the run begins with trio.run() and ends with the function that it was given"

# The alternatives, by the beginning of a name of the package or of loops.
_WAYS_OUT: Final = {
    "add_reader": _SOCKETS,
    "add_writer": _SOCKETS,
    "remove_reader": _SOCKETS,
    "remove_writer": _SOCKETS,
    "sock_": _SOCKETS,
    "add_signal_handler": _SIGNALS,
    "remove_signal_handler": _SIGNALS,
    "open_": _STREAMS,
    "start_": _STREAMS,
    "Server": _STREAMS,
    "Stream": _STREAMS,
    "create_connection": _STREAMS,
    "create_datagram_endpoint": _STREAMS,
    "create_server": _STREAMS,
    "create_unix_": _STREAMS,
    "connect_": _STREAMS,
    "getaddrinfo": "use trio.socket.getaddrinfo()",
    "getnameinfo": "use trio.socket.getnameinfo()",
    "sendfile": _STREAMS,
    "create_subprocess_": _PROCESSES,
    "subprocess": _PROCESSES,
    "Process": _PROCESSES,
    "get_child_watcher": _PROCESSES,
    "set_child_watcher": _PROCESSES,
    **{
        f"{kind}ChildWatcher": _PROCESSES
        for kind in ("Fast", "MultiLoop", "Pidfd", "Safe", "Threaded")
    },
    "run_forever": _RUN,
    "run_until_complete": f"await what is to be run; {_RUN}",
    "stop": _RUN,
    "close": _RUN,
    "shutdown_": _RUN,
    "uncancel": "what a scope has cancelled stays cancelled",
}


def way_out(name: str) -> str:
    """Return what to use instead of a name that has no meaning on trio, "" if nothing is known."""
    found = (way for beginning, way in _WAYS_OUT.items() if name.startswith(beginning))
    return next(found, "")


def missing_of_task(name: str) -> str:
    """Return the message for an attribute that a task on trio does not have."""
    if name.startswith("_") or not hasattr(asyncio.Task, name):
        return f"'Task' object has no attribute {name!r}"
    hint = way_out(name)
    return f"task.{name} has no meaning on trio{hint and ': ' + hint}"


def missing_of_loop(name: str) -> str:
    """Return the message for an attribute that the loop of a trio run does not have."""
    if not hasattr(asyncio.AbstractEventLoop, name):
        return f"the loop of a trio run has no attribute {name!r}"
    hint = way_out(name)
    return f"loop.{name} has no meaning on trio{hint and ': ' + hint}"
