"""The asynchronous tests of langgraph and langchain that pass on asyncio and not on trio, each with its reason.

A test listed here that passes on trio, or is no longer there, fails the session.
"""

from __future__ import annotations

CLASS = "asks, outside of a handler, whether the cancellation is an instance of asyncio's class"
ONCE = "is about a task that asyncio cancels once and lets wait again in its cleanup"
THREAD = "expects the thread of a cancelled node to be left running; on trio it is waited for"

LISTED: dict[str, dict[str, str]] = {
    "langgraph": {
        "tests/test_pregel_async.py::test_py_async_with_cancel_behavior": ONCE,
        "tests/test_retry.py::test_arun_with_retry_external_cancel_propagates_as_cancelled": CLASS,
        "tests/test_runtime.py::test_cancel_ainvoke_with_sync_node": THREAD,
    },
}
