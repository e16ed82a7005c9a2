"""What of CPython's tests of asyncio is not run, or does not pass, on trio, each with its reason.

A test of `LEFT_OUT` that passes on trio fails the session. Names are those of all Pythons; `*` stands for any.
"""

from __future__ import annotations

import sys
from fnmatch import fnmatchcase

# In this order. What is not among them tests loops, transports, processes and the like, which are not ported, or
# `asyncio.run` and its runners, which are asyncio's own on trio too.
MODULES = (
    "test_futures",
    "test_futures2",
    "test_locks",
    "test_pep492",
    "test_queues",
    "test_taskgroups",
    "test_tasks",
    "test_threads",
    "test_timeouts",
    "test_waitfor",
)

OTHERS = "the same tests again, of asyncio's other implementations and of subclasses of them"
INTERPRETER = "starts interpreters, and asks them nothing about what is ported"
INTERNALS = "tests functions by which asyncio's loop and its tasks know each other"
STREAMS = "tests streams, which are not ported"
HANGS = "counts on the order in which tasks run that are ready at the same time, and hangs in another one"
CHANCE = "depends on which of two deadlines, or of a deadline and a task's beginning, comes first by chance"
MOCKED = "runs on a loop of which all but one method is a mock"

# Not run on trio at all.
NOT_RUN = {
    "test_futures.CSubFuture*": OTHERS,
    "test_futures.PyFuture*": OTHERS,
    "test_futures2.PyFutureTests.*": OTHERS,
    "test_locks.ConditionTests.test_notify": HANGS,
    "test_locks.ConditionTests.test_wait": HANGS,
    "test_pep492.CoroutineTests.*": MOCKED,
    "test_pep492.LockTests.*": MOCKED,
    "test_pep492.StreamReaderTests.*": STREAMS,
    "test_tasks.CIntrospectionTests.*": INTERNALS,
    "test_tasks.CTaskSubclass_PyFuture_Tests.*": OTHERS,
    "test_tasks.CTask_CFuture_SubclassTests.*": OTHERS,
    "test_tasks.CTask_PyFuture_Tests.*": OTHERS,
    "test_tasks.PyCurrentLoopTests.*": OTHERS,
    "test_tasks.PyIntrospectionTests.*": INTERNALS,
    "test_tasks.PyTask_*": OTHERS,
    "test_tasks.CTask_CFuture_Tests.test_wait_concurrent_complete": CHANCE,
    "test_waitfor.AsyncioWaitForTest.test_wait_for_reraises_exception_during_cancellation": CHANCE,
    "test_tasks.*GatherTests.test_env_var_debug": INTERPRETER,
}

ORDER = "counts on the order in which tasks run that are ready at the same time, which on trio is either one"
LEVEL = "counts on being cancelled once; on trio every checkpoint of what is cancelled raises"
TRIOS = "expects `asyncio.CancelledError` where trio's own cancellation is, in a class or a context"
TAKEN = "cancels a task as it is woken; here it takes what it was woken for, and its next checkpoint raises"
AT_ONCE = "counts on callbacks being called soon; here they are called at once"
NOT_LEFT = "expects that the others run on when one fails; here they are cancelled and waited for"
JOINED = "expects that what is shielded is left alone; here it is waited for before the cancellation goes on"
PRIVATE = "looks at private attributes"
DEBUG = "tests the debug mode or the exception handler of a loop; errors are logged here"
NO_LOOP = (
    "asks what happens where no loop runs, or in no task; here every test is in a task of a run"
)
ONE_LOOP = "needs several loops, or one that is not running; a run has one"
GENERATOR = "awaits a future in a plain generator, which trio's tasks cannot"
FORGOTTEN = "asks a task that has ended for its coroutine, which is not kept, or for its stack"
NAMED = "expects asyncio's names of tasks; here a task has the name of its function"
LEAVES = "expects `SystemExit` to leave the loop at once; here whoever awaits the task gets it"
NO_AWAIT = "makes a task of an object whose `__await__` returns no iterator"
NEWER = "tests what asyncio has changed since; here it is on all Pythons as on the newest"
OLD_STYLE = "tests coroutines made of generators, which trio's tasks cannot await"
CLOCK = "reads the time of its own loop where another one is passing"
CONCURRENT = (
    "expects asyncio's error for the cancellation of a `concurrent.futures.Future` in a thread"
)

_CLASSES = {
    "test_futures.CFutureTests": {
        "test_constructor_use_global_loop": PRIVATE,
        "test_constructor_use_running_loop": PRIVATE,
        "test_constructor_without_loop": NO_LOOP,
        "test_future_cancel_message_getter": PRIVATE,
        "test_future_exception_never_retrieved": DEBUG,
        "test_future_exception_never_retrieved_debug": DEBUG,
        "test_future_iter_get_referents_segfault": GENERATOR,
        "test_future_iter_throw": GENERATOR,
        "test_future_repr": DEBUG,
        "test_future_source_traceback": DEBUG,
        "test_future_stop_iteration_args": GENERATOR,
        "test_iter": GENERATOR,
        "test_log_traceback": PRIVATE,
        "test_tb_logger_exception_unretrieved": DEBUG,
        "test_uninitialized": PRIVATE,
        "test_wrap_future_cancel2": AT_ONCE,
        "test_wrap_future_without_loop": NO_LOOP,
        "test_yield_from_twice": GENERATOR,
    },
    "test_futures2.CFutureTests": {
        "test_handle_exc_handler_correct_context": DEBUG,
        "test_task_exc_handler_correct_context": DEBUG,
    },
    "test_locks.BarrierTests": {
        "test_filling_tasks_cancel_one": TAKEN,
        "test_repr": ORDER,
    },
    "test_locks.ConditionTests": {
        "test_ambiguous_loops": ONE_LOOP,
        "test_cancelled_error_re_aquire": TRIOS,
        "test_cancelled_error_wakeup": TRIOS,
        "test_notify_all": ORDER,
        "test_wait_cancel_after_notify": TAKEN,
    },
    "test_locks.EventTests": {
        "test_clear_with_waiters": ORDER,
        "test_wait": ORDER,
    },
    "test_locks.LockTests": {
        "test_acquire": ORDER,
        "test_cancel_race": TAKEN,
        "test_cancel_release_race": TAKEN,
        "test_finished_waiter_cancelled": TAKEN,
    },
    "test_locks.SemaphoreTests": {
        "test_acquire_cancel_before_awoken": TAKEN,
        "test_acquire_fifo_order_2": ORDER,
        "test_acquire_fifo_order_3": TAKEN,
        "test_acquire_fifo_order_4": ORDER,
        "test_acquire_hang": TAKEN,
        "test_acquire_no_hang": TAKEN,
    },
    **{
        f"test_queues.{kind}QueueShutdownTests": {
            "test_shutdown_empty": ORDER,
            "test_shutdown_immediate_with_unfinished": ORDER,
            "test_shutdown_nonempty": ORDER,
        }
        for kind in ("", "Lifo", "Priority")
    },
    "test_queues.QueueBasicTests": {"test_maxsize": ORDER},
    "test_queues.QueueGetTests": {"test_get_cancelled_race": ORDER},
    "test_queues.QueuePutTests": {
        "test_cancelled_put_silence_value_error_exception": TAKEN,
        "test_get_cancel_drop_many_pending_readers": TAKEN,
        "test_put_cancelled_race": ORDER,
    },
    "test_taskgroups.TestTaskGroup": {
        "test_coro_closed_when_tg_closed": ONE_LOOP,
        "test_taskgroup_15": LEVEL,
        "test_taskgroup_16": LEVEL,
        "test_taskgroup_without_parent_task": NO_LOOP,
    },
    "test_tasks.CCurrentLoopTests": {
        "test_current_task_no_running_loop": NO_LOOP,
        "test_current_task_no_running_loop_implicit": NO_LOOP,
        "test_current_task_with_implicit_loop": NO_LOOP,
    },
    "test_tasks.CTask_CFuture_Tests": {
        "test_as_completed_coroutine_without_loop": NO_LOOP,
        "test_baseexception_during_cancel": LEAVES,
        "test_cancel_at_end": PRIVATE,
        "test_cancel_current_task": PRIVATE,
        "test_cancel_gather_1": AT_ONCE,
        "test_cancel_task_catching": PRIVATE,
        "test_cancel_task_ignoring": PRIVATE,
        "test_cancel_traceback_for_future_exception": TRIOS,
        "test_cancel_traceback_for_future_result": TRIOS,
        "test_coroutine_non_gen_function_return_future": ORDER,
        "test_create_task_with_asynclike_function": NO_AWAIT,
        "test_current_task": NO_LOOP,
        "test_current_task_with_interleaving_tasks": NO_LOOP,
        "test_ensure_future_coroutine": NO_LOOP,
        "test_ensure_future_error_msg": ONE_LOOP,
        "test_ensure_future_future": ONE_LOOP,
        "test_ensure_future_task": ONE_LOOP,
        "test_ensure_future_task_awaitable": FORGOTTEN,
        "test_error_in_call_soon": DEBUG,
        "test_gather_shield": JOINED,
        "test_get_coro": FORGOTTEN,
        "test_get_stack": FORGOTTEN,
        "test_log_destroyed_pending_task": DEBUG,
        "test_log_traceback": PRIVATE,
        "test_other_loop_future": ONE_LOOP,
        "test_set_exception_causes_invalid_state": PRIVATE,
        "test_set_result_causes_invalid_state": PRIVATE,
        "test_shield_cancel_outer": JOINED,
        "test_shield_coroutine_use_global_loop": PRIVATE,
        "test_shield_coroutine_use_running_loop": PRIVATE,
        "test_shield_coroutine_without_loop": NO_LOOP,
        "test_shield_effect": JOINED,
        "test_shield_gather": JOINED,
        "test_sleep_cancel": PRIVATE,
        "test_step_result_future": PRIVATE,
        "test_stop_while_run_in_complete": ONE_LOOP,
        "test_task_cancel_message_getter": PRIVATE,
        "test_task_cancel_message_setter": PRIVATE,
        "test_task_cancel_waiter_future": PRIVATE,
        "test_task_repr": DEBUG,
        "test_task_repr_autogenerated": NAMED,
        "test_task_repr_wait_for": DEBUG,
        "test_task_source_traceback": DEBUG,
        "test_uncancel_basic": LEVEL,
        "test_uncancel_resets_must_cancel": PRIVATE,
        "test_uncancel_structured_blocks": LEVEL,
        "test_wait_really_done": ORDER,
    },
    "test_tasks.CoroutineGatherTests": {
        "test_constructor_use_global_loop": PRIVATE,
        "test_constructor_use_running_loop": PRIVATE,
        "test_constructor_without_loop": NO_LOOP,
        "test_exception_marking": NOT_LEFT,
        "test_issue46672": DEBUG,
        "test_one_exception": NOT_LEFT,
    },
    "test_tasks.FutureGatherTests": {
        "test_constructor_empty_sequence_use_global_loop": PRIVATE,
        "test_constructor_empty_sequence_use_running_loop": PRIVATE,
        "test_constructor_empty_sequence_without_loop": NO_LOOP,
        "test_constructor_heterogenous_futures": ONE_LOOP,
        "test_constructor_homogenous_futures": ONE_LOOP,
        "test_one_cancellation": NOT_LEFT,
        "test_one_exception": NOT_LEFT,
    },
    "test_tasks.RunCoroutineThreadsafeTests": {
        "test_run_coroutine_threadsafe_task_cancelled": CONCURRENT,
        "test_run_coroutine_threadsafe_task_factory_exception": DEBUG,
    },
    "test_tasks.SleepTests": {"test_sleep_zero": AT_ONCE},
    "test_timeouts.TimeoutTests": {
        "test_cancel_in_timeout_after_cancellation": LEVEL,
        "test_foreign_cancel_doesnt_timeout_if_not_expired": TRIOS,
        "test_foreign_exception_on_timeout": TRIOS,
        "test_foreign_exception_on_timeout_2": TRIOS,
        "test_nested_timeout_in_finally": LEVEL,
        "test_timeout_after_cancellation": LEVEL,
        "test_timeout_exception_context": TRIOS,
        "test_timeout_expiring": TRIOS,
        "test_timeout_taskgroup": TRIOS,
        "test_timeout_without_task": NO_LOOP,
    },
    "test_waitfor.AsyncioWaitForTest": {
        "test_cancel_blocking_wait_for": AT_ONCE,
        "test_cancel_wait_for": AT_ONCE,
        "test_wait_for_cancellation_race_condition": TRIOS,
        "test_wait_for_waits_for_task_cancellation": TRIOS,
        "test_wait_for_waits_for_task_cancellation_w_timeout_0": TRIOS,
    },
    "test_waitfor.WaitForShieldTests": {"test_shielded_timeout": JOINED},
}

LEFT_OUT = {f"{cls}.{name}": why for cls, names in _CLASSES.items() for name, why in names.items()}


_TASKS = "test_tasks.CTask_CFuture_Tests"
_WAIT_FOR = "test_waitfor.AsyncioWaitForTest"
_TIMEOUTS = "test_timeouts.TimeoutTests"
if sys.version_info < (3, 13):
    LEFT_OUT |= {
        "test_futures.CFutureTests.test_exception": NEWER,
        "test_taskgroups.TestTaskGroup.test_taskgroup_finished": NEWER,
        "test_taskgroups.TestTaskGroup.test_taskgroup_no_create_task_after_failure": NEWER,
        "test_taskgroups.TestTaskGroup.test_taskgroup_not_entered": NEWER,
        f"{_TASKS}.test_as_completed_invalid_args": NEWER,
        f"{_TIMEOUTS}.test_timeout_exception_cause": TRIOS,
    }
    del LEFT_OUT[f"{_TIMEOUTS}.test_foreign_exception_on_timeout"]
    del LEFT_OUT[f"{_TIMEOUTS}.test_nested_timeout_in_finally"]
if sys.version_info < (3, 12):
    LEFT_OUT |= {
        "test_futures2.FutureReprTests.test_recursive_repr_for_pending_tasks": NAMED,
        f"{_WAIT_FOR}.test_wait_for_self_cancellation": LEVEL,
    }
if sys.version_info < (3, 11):
    LEFT_OUT |= {
        "test_locks.LockTests.test_lock_doesnt_accept_loop_parameter": NEWER,
        "test_queues.QueueGetTests.test_get_cancelled": CLOCK,
        "test_tasks.WaitTests.test_coro_is_deprecated_in_wait": NEWER,
        f"{_TASKS}.test_as_completed_concurrent": NEWER,
        f"{_TASKS}.test_cancel_gather_2": NEWER,
        f"{_TASKS}.test_wait_duplicate_coroutines": NEWER,
        f"{_TASKS}.test_ensure_future_coroutine_2": NO_LOOP,
        f"{_TASKS}.test_task_repr_coro_decorator": DEBUG,
        f"{_TASKS}.test_cancel_with_message_before_starting_task": NEWER,
        f"{_TASKS}.test_cancel_with_message_then_future_exception": NEWER,
        f"{_TASKS}.test_cancel_with_message_then_future_result": NEWER,
        **{
            f"{_TASKS}.{name}": OLD_STYLE
            for name in (
                "test_cancel_yield",
                "test_coroutine_never_yielded",
                "test_corowrapper_mocks_generator",
                "test_corowrapper_throw",
                "test_corowrapper_weakref",
                "test_return_coroutine_from_coroutine",
                "test_step_result",
                "test_task_repr_partial_corowrapper",
                "test_yield_from_corowrapper",
                "test_yield_from_corowrapper_send",
                "test_yield_vs_yield_from",
                "test_yield_vs_yield_from_generator",
            )
        },
    }
    for name in (
        "test_queues.QueueBasicTests.test_maxsize",
        "test_queues.QueueGetTests.test_get_cancelled_race",
        "test_queues.QueuePutTests.test_put_cancelled_race",
        f"{_TASKS}.test_coroutine_non_gen_function_return_future",
        f"{_TASKS}.test_task_cancel_message_setter",
    ):
        del LEFT_OUT[name]


def is_run(name: str) -> bool:
    return why_not_run(name) is None


def why_not_run(name: str) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if fnmatchcase(name, pattern)), None)
