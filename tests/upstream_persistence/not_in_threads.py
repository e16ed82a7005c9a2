"""LangGraph's tests of its asynchronous classes that do not pass on those in worker threads, each with its reason.

A test listed here that passes in threads, or is no longer there, fails the session.
"""

from __future__ import annotations

SYNC = "expects synchronous methods to be refused on the event loop; in threads they are called"
OPENED = "gives the class a connection of aiosqlite that the test has opened"
ASYNCIO = "opens a connection of aiosqlite, which needs asyncio"
PRIVATE = "replaces what is private in the asynchronous class, or uses its connection"

_ASYNC, _STORE, _PRUNE, _MIGRATION = (
    f"tests/test_{name}.py::test_"
    for name in ("async", "async_store", "prune", "writes_task_path_migration")
)

LISTED: dict[str, dict[str, str]] = {
    "langgraph-checkpoint-sqlite": {
        f"{_STORE}no_running_loop[file]": SYNC,
        f"{_STORE}no_running_loop[memory]": SYNC,
        f"{_MIGRATION}async_read_only_legacy_database_still_reads_delta_history": OPENED,
        f"{_MIGRATION}async_setup_does_not_wait_on_another_writer": OPENED,
    },
    "langgraph-checkpoint-postgres": {
        f"{_ASYNC}get_checkpoint_no_channel_values[base]": PRIVATE,
        f"{_ASYNC}get_checkpoint_no_channel_values[pipe]": PRIVATE,
        f"{_ASYNC}get_checkpoint_no_channel_values[pool]": PRIVATE,
        f"{_STORE}abatch_uses_single_pool_checkout": PRIVATE,
        f"{_STORE}no_running_loop[default]": SYNC,
        f"{_STORE}no_running_loop[pipe]": SYNC,
        f"{_STORE}no_running_loop[pool]": SYNC,
        f"{_PRUNE}async_saver_prune_runs_from_another_thread_only": SYNC,
        f"{_PRUNE}keep_latest_keeps_a_checkpoint_saved_meanwhile_whatever_its_id": PRIVATE,
        f"{_PRUNE}keep_latest_keeps_a_checkpoint_saved_while_it_runs[blobs]": PRIVATE,
        f"{_PRUNE}keep_latest_keeps_a_checkpoint_saved_while_it_runs[heads]": PRIVATE,
        f"{_PRUNE}keep_latest_keeps_the_history_of_a_delta_checkpoint_saved_after_the_thread_check": PRIVATE,
        f"{_PRUNE}keep_latest_refuses_a_thread_that_turns_delta_after_the_batch_check": PRIVATE,
    },
}

# Those that pass in threads on asyncio.
NOT_ON_TRIO: dict[str, dict[str, str]] = {
    "langgraph-checkpoint-sqlite": {
        f"{_MIGRATION}async_setup_migrates_legacy_writes_table_repeatably": ASYNCIO,
    },
    "langgraph-checkpoint-postgres": {},
}
