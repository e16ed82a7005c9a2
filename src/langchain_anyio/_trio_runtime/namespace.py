"""The object that takes the place of `asyncio` in the modules of a library."""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, final

import trio

from .asyncio_api import combinators as _combinators
from .asyncio_api import current as _current
from .asyncio_api import futures as _futures
from .asyncio_api import loop as _loop
from .asyncio_api import synchronization as _primitives
from .asyncio_api import task_groups as _groups
from .asyncio_api import threadsafe as _crossing
from .asyncio_api import timeouts as _timeouts
from .asyncio_api import waiting as _waiting
from .asyncio_api.loop import Handle, TimerHandle, running_loop, running_loop_of_handlers
from .asyncio_api.missing_names import way_out
from .running_backend import nothing_runs, on_trio

# The object for each name on trio.
ON_TRIO: Final[dict[str, Any]] = {
    "BoundedSemaphore": _primitives.BoundedSemaphore,
    "Condition": _primitives.Condition,
    "Event": _primitives.Event,
    "LifoQueue": _primitives.LifoQueue,
    "Lock": _primitives.Lock,
    "PriorityQueue": _primitives.PriorityQueue,
    "Queue": _primitives.Queue,
    "Semaphore": _primitives.Semaphore,
    "Future": _futures.Future,
    "Handle": Handle,
    "Task": _futures.Task,
    "TaskGroup": _groups.TaskGroup,
    "Timeout": _timeouts.Timeout,
    "TimerHandle": TimerHandle,
    "_get_running_loop": running_loop,
    "all_tasks": _current.all_tasks,
    "as_completed": _waiting.as_completed,
    "create_eager_task_factory": _current.create_eager_task_factory,
    "create_task": _futures.create_task,
    "current_task": _current.current_task,
    "eager_task_factory": _current.eager_task_factory,
    "ensure_future": _futures.ensure_future,
    "gather": _combinators.gather,
    "get_event_loop": running_loop,
    "get_running_loop": running_loop,
    "isfuture": _futures.isfuture,
    "run_coroutine_threadsafe": _crossing.run_coroutine_threadsafe,
    "set_event_loop": _crossing.set_event_loop,
    "shield": _combinators.shield,
    "sleep": _waiting.sleep,
    "timeout": _timeouts.timeout,
    "timeout_at": _timeouts.timeout_at,
    "to_thread": _loop.to_thread,
    "wait": _waiting.wait,
    "wait_for": _waiting.wait_for,
    "wrap_future": _crossing.wrap_future,
}
if sys.version_info >= (3, 11):
    ON_TRIO["Barrier"] = _primitives.Barrier

# Names that are asyncio's own on trio too: constants, errors, predicates, interfaces that loops and
# libraries implement, and functions that run an asyncio loop inside synchronous code.
AS_ON_ASYNCIO: Final = frozenset(
    {
        "ALL_COMPLETED",
        "AbstractChildWatcher",
        "AbstractEventLoop",
        "AbstractEventLoopPolicy",
        "AbstractServer",
        "BaseEventLoop",
        "BaseProtocol",
        "BaseTransport",
        "BrokenBarrierError",
        "BufferedProtocol",
        "DatagramProtocol",
        "DatagramTransport",
        "DefaultEventLoopPolicy",
        "EventLoop",
        "FIRST_COMPLETED",
        "FIRST_EXCEPTION",
        "IncompleteReadError",
        "InvalidStateError",
        "LimitOverrunError",
        "ProactorEventLoop",
        "Protocol",
        "QueueEmpty",
        "QueueFull",
        "QueueShutDown",
        "ReadTransport",
        "Runner",
        "SelectorEventLoop",
        "SendfileNotAvailableError",
        "SubprocessProtocol",
        "SubprocessTransport",
        "TimeoutError",
        "Transport",
        "WindowsProactorEventLoopPolicy",
        "WindowsSelectorEventLoopPolicy",
        "WriteTransport",
        "coroutine",
        "get_event_loop_policy",
        "iscoroutine",
        "iscoroutinefunction",
        "new_event_loop",
        "run",
        "set_event_loop_policy",
    }
)

# The modules of asyncio whose public names are also names of the package.
_MODULES: Final = frozenset(
    {
        "coroutines",
        "events",
        "exceptions",
        "futures",
        "locks",
        "queues",
        "runners",
        "taskgroups",
        "tasks",
        "threads",
        "timeouts",
    }
)

NAMES: Final = AS_ON_ASYNCIO | ON_TRIO.keys() | {"CancelledError"}

# Classes that work on both backends, and do as asyncio's own on asyncio.
PORTABLE: Final = (
    "BoundedSemaphore",
    "Condition",
    "Event",
    "LifoQueue",
    "Lock",
    "PriorityQueue",
    "Queue",
    "Semaphore",
    *(["Barrier"] if sys.version_info >= (3, 11) else []),
)

# Where no event loop runs, before the first one starts and in worker threads, these work for both
# backends. What is made with the primitives belongs to the backend that first uses it; the others
# ask the loop that they are given.
_WHERE_NOTHING_RUNS: Final[dict[str, Any]] = {
    **{name: ON_TRIO[name] for name in PORTABLE},
    "Future": _crossing.FutureOfLoop,
    "run_coroutine_threadsafe": _crossing.run_coroutine_threadsafe,
}


@final
class Namespace:
    """Replacement for `asyncio`: asyncio's own objects on asyncio, ports of them on trio.

    On asyncio every name is asyncio's own object, whatever the name. On trio it is the object in
    `ON_TRIO`. Where no event loop runs it is asyncio's own too, except for a few classes and
    functions that work on both backends.

    Args:
        differing: Objects, by name, that differ from `ON_TRIO` in the modules that use this
            namespace.
    """

    def __init__(self, differing: dict[str, Any] | None = None) -> None:
        self._on_trio = {**ON_TRIO, **(differing or {})}

    def __getattr__(self, name: str) -> Any:
        if not on_trio():
            if name in _WHERE_NOTHING_RUNS and nothing_runs():
                return _WHERE_NOTHING_RUNS[name]
            return getattr(asyncio, name)
        if name == "CancelledError":
            return _cancelled_error()
        if name in self._on_trio:
            return self._on_trio[name]
        if name in AS_ON_ASYNCIO and hasattr(asyncio, name):
            return getattr(asyncio, name)
        if name in _MODULES and hasattr(asyncio, name):
            return self
        raise AttributeError(_missing(name, sys._getframe(1)), name=name, obj=self)

    def __dir__(self) -> list[str]:
        return sorted(NAMES)


def _cancelled_error() -> type[BaseException]:
    """Return the class of the cancellation that is being handled.

    An `except` clause looks up its class while the exception is being handled. So one that says
    `asyncio.CancelledError` catches trio's cancellation, and it catches asyncio's error where a
    task that was cancelled on its own is awaited. Everywhere else the name is asyncio's class,
    which can be raised; no cancel scope would know an instance of trio's.
    """
    if isinstance(sys.exc_info()[1], trio.Cancelled):
        return trio.Cancelled
    return asyncio.CancelledError


def _missing(name: str, frame: Any) -> str:
    if not hasattr(asyncio, name):
        return f"module 'asyncio' has no attribute {name!r}"
    package = frame.f_globals.get("__name__", "?").partition(".")[0]
    hint = way_out(name)
    return (
        f"asyncio.{name} has no meaning on trio: {frame.f_code.co_filename}:{frame.f_lineno} "
        f"uses it ({release(package)}){hint and '; ' + hint}"
    )


def release(package: str) -> str:
    """Return the name of a package with its release, for error messages."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


# The namespace of most modules, and that of the modules that call callback handlers.
NAMESPACE: Final = Namespace()
NAMESPACE_OF_HANDLERS: Final = Namespace(
    {
        "gather": _combinators.gather_to_the_end,
        "get_event_loop": running_loop_of_handlers,
        "get_running_loop": running_loop_of_handlers,
    }
)
