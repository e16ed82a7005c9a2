"""langchain-core on trio: what the namespace is, and that nothing outlives the call that started it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import importlib
import importlib.util
import inspect
import itertools
import os
import subprocess
import sys
import threading
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
import trio.testing
from langchain_core.callbacks import adispatch_custom_event
from langchain_core.callbacks.manager import atrace_as_chain_group
from langchain_core.language_models import (
    FakeListChatModel,
    GenericFakeChatModel,
    chat_model_stream,
)
from langchain_core.language_models.llms import create_base_retry_decorator
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)
from langchain_core.tools import tool
from langchain_core.tracers import LogStreamCallbackHandler

import langchain_anyio
from langchain_anyio import disable_trio, enable_trio
from langchain_anyio._backends.event_loops import Loop
from langchain_anyio._runs.threads import model_limiter
from langchain_anyio._trio_runtime.asyncio_api import combinators as _combinators
from langchain_anyio._trio_runtime.asyncio_api import futures as _futures
from langchain_anyio._trio_runtime.asyncio_api import loop as _loop
from langchain_anyio._trio_runtime.asyncio_api.contexts import InContext
from langchain_anyio._trio_runtime.asyncio_api.futures import Task
from langchain_anyio._trio_runtime.asyncio_api.loop import TrioLoop
from langchain_anyio._trio_runtime.asyncio_usage import out_of_reach, uses
from langchain_anyio._trio_runtime.core_stream import StreamOfCore
from langchain_anyio._trio_runtime.namespace import (
    NAMES,
    NAMESPACE,
    NAMESPACE_OF_HANDLERS,
    ON_TRIO,
    Namespace,
)
from langchain_anyio._trio_runtime.patching import COVERED
from limits import HANGS
from models import AsyncRecorder, Recorder
from tally import tried
from trio_tasks import background_tasks

pytestmark = pytest.mark.usefixtures("enabled")

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

# Asked of loops that asyncio has made itself.
OF_ASYNCIOS_LOOPS = {("memory_stream.py", "loop.close")}


# The namespace


@pytest.mark.parametrize("namespace", (NAMESPACE, NAMESPACE_OF_HANDLERS))
def test_on_asyncio_each_name_is_asyncios_own_object(namespace: Namespace) -> None:
    async def main() -> None:
        for name in NAMES:
            if hasattr(asyncio, name):
                assert getattr(namespace, name) is getattr(asyncio, name), name
        # A name that is not ported is nobody's business there.
        assert namespace.open_connection is asyncio.open_connection

    asyncio.run(main())


@pytest.mark.unhurried
@pytest.mark.parametrize("package", ("langchain_core", "langchain_openai", "langchain_classic"))
def test_the_namespace_has_each_name_that_is_used(package: str) -> None:
    missing = [
        f"{use.file}:{use.line}: {use.name}"
        for use in uses(package)
        if not has(use.name) and (use.file.name, use.name) not in OF_ASYNCIOS_LOOPS
    ]
    assert not missing, "\n".join(missing)
    assert sum(1 for _ in uses(package)) >= 9  # it has read the package


@pytest.mark.unhurried
@pytest.mark.parametrize("package", COVERED)
def test_nothing_that_is_used_is_out_of_reach(package: str) -> None:
    if importlib.util.find_spec(package.partition(".")[0]) is None:
        pytest.skip(f"{package} is not installed")
    found = [
        f"{use.file}:{use.line}: {use.name}"
        for use in out_of_reach(package)
        # Clients of remote machines, which a chain has no use for.
        if "langsmith/sandbox" not in use.file.as_posix()
    ]
    assert not found, "\n".join(found)


def test_what_is_out_of_reach_is_found(module: Callable[[str], ModuleType]) -> None:
    loaded = module("""
        import asyncio, asyncio.locks
        from asyncio import CancelledError as Gone, sleep
        from asyncio.queues import Queue
        from json import loads as other

        def f(pause=sleep, *, lock=asyncio.Lock):
            import asyncio as aio
            from asyncio import gather
            import json
    """)
    assert [(use.line, use.name) for use in out_of_reach(loaded.__name__)] == [
        (2, "import asyncio, asyncio.locks"),
        (3, "from asyncio import CancelledError as Gone, sleep"),
        (4, "from asyncio.queues import Queue"),
        (8, "import asyncio as aio in a function"),
        (9, "from asyncio import gather in a function"),
        (7, "sleep as a default"),
        (7, "asyncio.Lock as a default"),
    ]


def has(name: str) -> bool:
    kind, _, attribute = name.rpartition(".")
    if kind == "loop":
        return hasattr(TrioLoop, attribute)
    if kind == "task":
        return hasattr(Task, attribute)
    return attribute in NAMES


def test_the_survey_finds_what_is_missing(module: Callable[[str], ModuleType]) -> None:
    loaded = module("""
        import asyncio
        from asyncio import open_connection as connect

        async def f(future: asyncio.Future[int] | None):
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(1, print)
            asyncio.create_task(f(None)).uncancel()
            future.get_loop()
            return asyncio.staggered_race
    """)
    found = {(use.line, use.name) for use in uses(loaded.__name__)}
    assert found >= {
        (3, "open_connection"),
        (7, "loop.add_signal_handler"),
        (8, "task.uncancel"),
        (9, "task.get_loop"),
        (10, "staggered_race"),
    }
    assert not has("loop.add_signal_handler")
    assert not has("staggered_race")


numbers = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Write a module that `enable_trio()` has never seen, and import it."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(source: str, *, enable: str = "") -> ModuleType:
        name = f"library_{next(numbers)}"
        lines = source.splitlines()
        indent = next(len(line) - len(line.lstrip()) for line in lines if line.strip())
        (tmp_path / f"{name}.py").write_text("\n".join(line[indent:] for line in lines))
        importlib.invalidate_caches()
        if enable == "before":
            enable_trio(name)
        loaded = importlib.import_module(name)
        if enable == "after":
            enable_trio(name)
        return loaded

    return make


@pytest.mark.trio
async def test_a_missing_name_is_named_with_its_place(module: Callable[..., ModuleType]) -> None:
    library = module(
        "import asyncio\nasync def f():\n    return asyncio.open_connection", enable="after"
    )
    with pytest.raises(
        AttributeError, match=r"asyncio\.open_connection .*library_\d+\.py:3 .*library_\d+"
    ):
        await library.f()
    assert not hasattr(library.asyncio, "never_heard_of")


# Enabling


def modules_of_core() -> dict[str, dict[str, Any]]:
    return {
        name: {
            key: (value, dict(vars(value)), value.__bases__) if isinstance(value, type) else value
            for key, value in vars(module).items()
        }
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "langchain_core"
    }


def test_it_is_idempotent_and_undone() -> None:
    disable_trio()
    before = modules_of_core()
    enable_trio()
    during = modules_of_core()
    enable_trio()
    again = modules_of_core()
    assert same(again, during)
    assert not same(during, before)
    disable_trio()
    assert same(modules_of_core(), before)
    disable_trio()


def same(left: Any, right: Any) -> bool:
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left is right or type(left).__name__ in {"getset_descriptor", "_abc_data"}


LIBRARY = """
    import asyncio
    from asyncio import CancelledError, Queue, gather, sleep as pause

    class Mailbox(asyncio.Queue):
        pass

    LOCK = asyncio.Lock()

    async def f(make=None):
        queue = (make or Queue)()
        async def get():
            return await queue.get()
        async def put():
            await pause(0)
            async with LOCK:
                queue.put_nowait("letter")
        return (await gather(get(), put()))[0]
"""


def test_it_is_enabled_in_two_threads_at_once_and_disabled_with_a_call_in_flight() -> None:
    disable_trio()
    before = modules_of_core()
    barrier = threading.Barrier(4)

    def switch() -> None:
        barrier.wait(10)
        for _ in range(3):
            enable_trio()

    threads = [threading.Thread(target=switch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    disable_trio()
    assert same(modules_of_core(), before)
    enable_trio()

    async def step(value: int) -> int:
        disable_trio()
        return value + 1

    chain = RunnableLambda(step) | RunnableParallel(a=RunnableLambda(_same))
    with pytest.raises(RuntimeError, match="no running event loop"):
        trio.run(chain.ainvoke, 1)
    enable_trio()
    assert asyncio.run(chain.ainvoke(1)) == {"a": 2}
    enable_trio()
    assert trio.run(RunnableLambda(_same).ainvoke, 1) == 1


@pytest.mark.parametrize("enable", ("before", "after"))
def test_another_library_runs_on_trio(module: Callable[..., ModuleType], enable: str) -> None:
    library = module(LIBRARY, enable=enable)
    assert asyncio.run(library.f()) == trio.run(library.f) == "letter"
    # A class that inherits from asyncio's, and a lock that was made where nothing ran.
    assert (
        asyncio.run(library.f(library.Mailbox)) == trio.run(library.f, library.Mailbox) == "letter"
    )
    assert issubclass(library.Mailbox, asyncio.Queue)
    disable_trio()
    assert library.asyncio is asyncio
    assert library.Mailbox.__bases__ == (asyncio.Queue,)
    assert library.gather is asyncio.gather


def test_without_enable_trio_nothing_of_it_is_loaded() -> None:
    program = (
        "import sys, langchain_anyio\n"
        "assert 'trio' not in sys.modules\n"
        "assert 'langchain_anyio._trio_runtime' not in sys.modules\n"
        "sys.modules['trio'] = None\n"
        "try: langchain_anyio.enable_trio()\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "langchain-anyio[trio]" in done.stdout, done.stderr


@pytest.mark.filterwarnings("ignore:There is no current event loop:DeprecationWarning")
def test_without_it_the_error_is_what_the_docs_say() -> None:
    disable_trio()
    with pytest.raises((RuntimeError, TypeError), match="event loop"):
        trio.run(RunnableLambda(lambda x: x).ainvoke, 1)


# Tasks


@pytest.mark.trio
async def test_a_cancelled_awaiter_cancels_the_task_and_waits_for_it() -> None:
    log: list[str] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
                log.append("over")

    with trio.CancelScope() as scope:
        task = _futures.create_task(work())
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await task
    assert scope.cancelled_caught
    assert log == ["over"]
    assert task.cancelled()


@pytest.mark.trio
async def test_an_error_while_being_cancelled_is_not_lost() -> None:
    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("in cleanup")

    with pytest.raises(KeyError, match="in cleanup"), trio.CancelScope() as scope:
        task = _futures.create_task(work())
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await task


@pytest.mark.trio
async def test_a_step_that_was_cancelled_before_it_began_leaves_its_generator_closable() -> None:
    log: list[str] = []

    async def generate() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            log.append("closed")

    generator: Any = generate()
    assert await generator.__anext__() == 1
    task = _futures.create_task(generator.__anext__())
    task.cancel()
    await task.settled()
    await generator.aclose()
    assert log == ["closed"]


FORGETFUL = """
    import asyncio

    log = []

    async def forget(value):
        async def forgotten():
            try:
                await asyncio.sleep(value)
                log.append("over")
            except asyncio.CancelledError:
                log.append("cancelled")
                raise
        asyncio.get_running_loop().create_task(forgotten())
        await asyncio.sleep(1)
        if value > 100:
            raise KeyError(value)
        return value

    async def generate(_):
        asyncio.create_task(forget(3))
        yield 1
        yield 2
"""


@pytest.mark.trio
async def test_a_task_that_is_forgotten_is_joined_when_the_call_returns(
    module: Callable[..., ModuleType], autojump_clock: Any
) -> None:
    library = module(FORGETFUL, enable="after")
    step = RunnableLambda(library.forget)
    assert await step.ainvoke(4) == 4
    assert library.log == ["over"]
    assert await step.abatch([3, 4]) == [3, 4]
    assert [chunk async for chunk in step.astream(3)] == [3]
    assert library.log == ["over"] * 4
    with pytest.warns(ResourceWarning, match="is waiting for tasks .*forgotten"):
        assert await step.ainvoke(50) == 50
    assert library.log == ["over"] * 5


@pytest.mark.trio
async def test_a_task_that_is_forgotten_is_cancelled_when_the_call_fails(
    module: Callable[..., ModuleType], autojump_clock: Any
) -> None:
    library = module(FORGETFUL, enable="after")
    step = RunnableLambda(library.forget)
    with pytest.raises(KeyError):
        await step.ainvoke(1000)
    assert library.log == ["cancelled"]
    with pytest.raises(KeyError):
        await step.astream(1000).__anext__()
    assert library.log == ["cancelled"] * 2
    for wait in (0.5, 2):  # in the call, and as it joins
        with trio.move_on_after(wait) as scope:
            await step.ainvoke(3)
        assert scope.cancelled_caught
    assert library.log == ["cancelled"] * 4
    async with aclosing(RunnableGenerator(library.generate).astream(3)) as stream:
        assert await stream.__anext__() == 1
        await trio.testing.wait_all_tasks_blocked()
    assert library.log == ["cancelled"] * 5


@pytest.mark.trio
async def test_a_handler_told_of_a_retry_is_joined(autojump_clock: Any) -> None:
    over: list[str] = []

    class Handler(AsyncRecorder):
        async def on_retry(self, *args: Any, **kwargs: Any) -> None:
            await trio.sleep(30)
            over.append("on_retry")

    class Retrying(FakeListChatModel):
        async def _agenerate(
            self, *args: Any, run_manager: Any = None, **kwargs: Any
        ) -> ChatResult:
            attempts: list[int] = []

            @create_base_retry_decorator([OSError], max_retries=2, run_manager=run_manager)
            async def attempt() -> ChatResult:
                attempts.append(1)
                if len(attempts) == 1:
                    raise OSError("unreachable")
                return ChatResult(generations=[ChatGeneration(message=AIMessage("answer"))])

            return await attempt()

    model = Retrying(responses=[])
    with pytest.warns(ResourceWarning, match="is waiting for tasks .*on_retry"):
        message = await model.ainvoke("x", {"callbacks": [Handler()]})
    assert (message.content, over) == ("answer", ["on_retry"])


@pytest.mark.trio
async def test_the_error_that_nobody_asked_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise KeyError("lost?")

    task = _futures.create_task(work())
    await trio.testing.wait_all_tasks_blocked()
    del task
    gc.collect()
    assert "never retrieved" in caplog.text


@pytest.mark.trio
async def test_gather_raises_bare_and_leaves_nobody_behind() -> None:
    log: list[str] = []

    async def fails() -> None:
        await trio.lowlevel.checkpoint()
        raise KeyError("bare")

    async def waits() -> None:
        try:
            await trio.sleep_forever()
        finally:
            log.append("cancelled")

    with pytest.raises(KeyError, match="bare"):
        await _combinators.gather(waits(), fails(), waits())
    assert log == ["cancelled", "cancelled"]
    results = await _combinators.gather(fails(), NAMESPACE.sleep(0, 1), return_exceptions=True)
    assert [type(result) for result in results] == [KeyError, int]


@pytest.mark.trio
async def test_a_group_that_the_user_raised_stays_one() -> None:
    async def user(_: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise KeyError("user's")

    chain = RunnableParallel(a=RunnableLambda(user), b=RunnableLambda(_forever))
    with pytest.raises(BaseExceptionGroup) as raised:
        await chain.ainvoke(1)
    assert [type(error) for error in raised.value.exceptions] == [KeyError]


async def _forever(_: Any) -> None:
    await trio.sleep_forever()


@pytest.mark.trio
async def test_a_handler_is_not_cut_short_by_anothers_error(autojump_clock: Any) -> None:
    class Failing(AsyncRecorder):
        raise_error = True

        async def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
            raise KeyError("handler")

    class Slow(AsyncRecorder):
        done = False

        async def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
            await trio.sleep(1)
            self.done = True

    slow = Slow()
    with pytest.raises(KeyError, match="handler"):
        await RunnableLambda(lambda x: x).ainvoke(1, {"callbacks": [Failing(), slow]})
    assert slow.done


@pytest.mark.trio
async def test_a_shield_is_bounded_when_its_surroundings_are_cancelled(autojump_clock: Any) -> None:
    async def quick() -> None:
        await trio.sleep(3)
        log.append("quick")

    log: list[str] = []
    start = trio.current_time()
    with trio.move_on_after(1):
        await _combinators.shield(quick())
    assert (log, trio.current_time() - start) == (["quick"], 3)
    with trio.move_on_after(1), pytest.warns(ResourceWarning, match="had not ended 5 seconds"):
        await _combinators.shield(trio.sleep_forever())
    assert trio.current_time() - start == 9


@pytest.mark.trio
async def test_a_lock_is_not_lost_with_a_waiter_that_is_cancelled_as_it_is_woken() -> None:
    lock = NAMESPACE.Lock()
    await lock.acquire()
    got: list[str] = []

    async def wait(name: str, scope: trio.CancelScope) -> None:
        with scope:
            async with lock:
                got.append(name)
                await trio.lowlevel.checkpoint()

    with trio.fail_after(HANGS):
        async with trio.open_nursery() as nursery:
            first = trio.CancelScope()
            nursery.start_soon(wait, "first", first)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(wait, "second", trio.CancelScope())
            await trio.testing.wait_all_tasks_blocked()
            first.cancel()
            lock.release()
    assert got[-1] == "second"
    assert not lock.locked()


# What `asyncio.CancelledError` is: the shapes that langchain-core and langgraph have, by the table
# of the docs.


async def own_cancelled() -> Task[None]:
    task = _futures.create_task(trio.sleep_forever())
    await trio.testing.wait_all_tasks_blocked()
    task.cancel()
    return task


@pytest.mark.trio
async def test_except_sees_trios_cancellation_and_cannot_swallow_it() -> None:
    seen: list[type] = []
    is_one: list[bool] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.sleep(0)
        except NAMESPACE.CancelledError as exc:
            seen.append(type(exc))
            is_one.append(isinstance(exc, NAMESPACE.CancelledError))
        try:
            await trio.sleep(0)
        except (NAMESPACE.CancelledError, KeyError) as exc:
            seen.append(type(exc))
            raise
    assert (seen, is_one) == ([trio.Cancelled, trio.Cancelled], [True])
    assert scope.cancelled_caught


@pytest.mark.trio
async def test_suppress_lets_trios_cancellation_go_on() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        with contextlib.suppress(NAMESPACE.CancelledError):
            await trio.sleep(0)
        raise AssertionError
    assert scope.cancelled_caught


@pytest.mark.trio
async def test_a_task_that_was_cancelled_on_its_own_raises_asyncios_error() -> None:
    with contextlib.suppress(NAMESPACE.CancelledError):
        await (await own_cancelled())
    seen: list[type] = []
    try:
        await (await own_cancelled())
    except NAMESPACE.CancelledError as exc:
        seen.append(type(exc))
    assert seen == [asyncio.CancelledError]
    task = await own_cancelled()
    await task.settled()
    with pytest.raises(asyncio.CancelledError):
        task.exception()


@pytest.mark.trio
async def test_a_task_that_was_cancelled_on_its_own_in_a_cleanup() -> None:
    """The shape of `astream_events`.

    Cancel a task and await it, in a `finally`, in a cancelled scope.
    """
    with trio.CancelScope() as scope:
        task = _futures.create_task(trio.sleep_forever())
        scope.cancel()
        try:
            await trio.sleep(0)
        finally:
            task.cancel()
            with contextlib.suppress(NAMESPACE.CancelledError):
                await task
            with trio.CancelScope(shield=True), contextlib.suppress(NAMESPACE.CancelledError):
                await task
    assert scope.cancelled_caught


@pytest.mark.trio
async def test_one_cannot_be_made_while_trios_is_handled() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.sleep(0)
        except NAMESPACE.CancelledError:
            with pytest.raises(TypeError):
                raise NAMESPACE.CancelledError("enough") from None
            raise
    assert scope.cancelled_caught


@pytest.mark.trio
async def test_one_can_be_raised_and_ends_its_task_as_cancelled() -> None:
    async def work() -> None:
        raise NAMESPACE.CancelledError("enough")

    task = _futures.create_task(work())
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert task.cancelled()


# The calls


def branches(log: list[str]) -> Runnable[Any, Any]:
    """A chain with parallel branches: async and sync steps, a model that streams, a generator."""

    async def generator(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
        try:
            async for _ in chunks:
                for number in range(3):
                    await trio.lowlevel.checkpoint()
                    yield number
        finally:
            log.append("generator closed")

    async def step(value: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return value

    model = FakeListChatModel(responses=["one two"])
    prompt = ChatPromptTemplate.from_template("{x}")
    return RunnablePassthrough.assign(y=RunnableLambda(step)) | RunnableParallel(
        answer=prompt | model | StrOutputParser(),
        numbers=RunnableGenerator(generator),
        sync=lambda value: value["x"],
        nested=RunnableParallel(a=RunnableLambda(step), b=RunnableLambda(step)),
    )


class CancelAfter(trio.abc.Instrument):
    """Cancels a scope when all tasks together have taken so many steps."""

    def __init__(self, steps: float) -> None:
        self.left = steps
        self.taken = 0
        self.scope: trio.CancelScope | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.scope is not None:
            self.taken += 1
            if self.taken == self.left:
                self.scope.cancel()


async def drained(chain: Runnable[Any, Any], config: Any) -> list[Any]:
    async with aclosing(chain.astream({"x": 1}, config)) as stream:
        return [chunk async for chunk in stream]


async def events(chain: Runnable[Any, Any], config: Any) -> list[Any]:
    async with aclosing(chain.astream_events({"x": 1}, config, version="v2")) as stream:
        return [event async for event in stream]


async def logged(chain: Runnable[Any, Any], config: Any) -> list[Any]:
    async with aclosing(chain.astream_log({"x": 1}, config)) as stream:
        return [patch async for patch in stream]


async def completed(chain: Runnable[Any, Any], config: Any) -> list[Any]:
    async with aclosing(chain.abatch_as_completed([{"x": 1}, {"x": 2}], config)) as stream:
        return [pair async for pair in stream]


async def invoked(chain: Runnable[Any, Any], config: Any) -> Any:
    return await chain.ainvoke({"x": 1}, config)


async def batched(chain: Runnable[Any, Any], config: Any) -> Any:
    return await chain.abatch([{"x": 1}, {"x": 2}], config)


def attempt(call: Callable[..., Any], steps: float) -> tuple[int, bool]:
    """Run a call that is cancelled after so many steps.

    Return those taken, and whether it was cancelled.
    """
    instrument, log, recorder = CancelAfter(steps), [], Recorder()

    async def main() -> bool:
        before = background_tasks()
        with trio.CancelScope() as scope:
            instrument.scope = scope
            await call(branches(log), {"callbacks": [recorder]})
        instrument.scope = None
        # What a call has started does not outlive it.
        left = Counter(background_tasks()) - Counter(before)
        assert not left, left
        return scope.cancelled_caught

    cancelled = trio.run(main, instruments=[instrument])
    names = recorder.names()
    started = Counter(name.removesuffix("_start") for name in names if name.endswith("_start"))
    ended = Counter(name.rpartition("_")[0] for name in names if name.endswith(("_end", "_error")))
    started["on_llm"] += started.pop("on_chat_model", 0)
    assert ended <= started
    if not cancelled:
        assert ended == started
    return instrument.taken, cancelled


# The number of points tried between the first and the last.
@pytest.mark.slow
@pytest.mark.parametrize("points", (60, pytest.param(100_000, marks=pytest.mark.long)))
@pytest.mark.parametrize("call", (invoked, batched, drained, completed, events, logged))
@pytest.mark.filterwarnings("ignore:astream_log is deprecated")
def test_a_call_is_cancelled_at_each_of_its_steps(
    call: Callable[..., Any], points: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole, cancelled = attempt(call, float("inf"))
    assert not cancelled
    assert whole > 20
    # Each step of the first and the last, and a sample of those between; threads make the number
    # vary.
    stride = max(1, whole // points)
    outcomes = [attempt(call, steps)[1] for steps in (*range(1, 15), *range(15, whole, stride))]
    assert outcomes[0]
    assert sum(outcomes) > len(outcomes) * 0.8
    what = "Cancellation: a chain under enable_trio(), at each of its steps"
    tried(what, len(outcomes), backend="trio")
    gc.collect()
    logged = [r for r in caplog.records if r.name.startswith(("langchain_anyio", "trio"))]
    assert not logged, [r.getMessage() for r in logged]


@pytest.mark.trio
async def test_the_outermost_generator_closes_the_inner_ones_before_it_has_closed() -> None:
    log: list[str] = []

    def endless(name: str) -> Runnable[Any, Any]:
        async def generate(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
            try:
                while True:
                    await trio.lowlevel.checkpoint()
                    yield name
            finally:
                with trio.CancelScope(shield=True):
                    await trio.lowlevel.checkpoint()
                log.append(name)

        return RunnableGenerator(generate)

    async def stuck(_: Any) -> None:
        try:
            await trio.sleep_forever()
        finally:
            log.append("stuck")

    chain = RunnableLambda(lambda x: x) | RunnableParallel(
        a=endless("a"), b=RunnableParallel(c=endless("c")), d=RunnableLambda(stuck)
    )
    before = background_tasks()
    async with aclosing(chain.astream(1)) as stream:
        async for _ in stream:
            break
        await trio.testing.wait_all_tasks_blocked()
    assert sorted(log) == ["a", "c", "stuck"]
    assert background_tasks() == before

    log.clear()
    with pytest.warns(ResourceWarning, match="astream"):
        async for _ in chain.astream(1):
            break
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(log) == ["a", "c", "stuck"]
    assert background_tasks() == before


@pytest.mark.trio
async def test_a_branch_that_ends_early_leaves_the_shared_input_to_the_others() -> None:
    async def source(_: AsyncIterator[Any]) -> AsyncIterator[int]:
        for number in range(5):
            await trio.lowlevel.checkpoint()
            yield number

    async def first(chunks: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in chunks:
            yield number
            return

    async def every(chunks: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in chunks:
            yield number

    chain = RunnableGenerator(source) | RunnableParallel(
        first=RunnableGenerator(first), every=RunnableGenerator(every)
    )
    chunks = [chunk async for chunk in chain.astream(None)]
    assert [chunk["every"] for chunk in chunks if "every" in chunk] == [0, 1, 2, 3, 4]
    assert [chunk["first"] for chunk in chunks if "first" in chunk] == [0]


@pytest.mark.trio
async def test_a_chain_streams_as_it_comes(autojump_clock: Any) -> None:
    model = GenericFakeChatModel(messages=iter(["one two three"]))

    async def slowly(chunks: AsyncIterator[str]) -> AsyncIterator[str]:
        async for chunk in chunks:
            await trio.sleep(1)
            yield chunk

    chain = ChatPromptTemplate.from_template("{x}") | model | StrOutputParser() | slowly
    start = trio.current_time()
    came = [(chunk, trio.current_time() - start) async for chunk in chain.astream({"x": 1})]
    assert came == [("one", 1), (" ", 2), ("two", 3), (" ", 4), ("three", 5)]


@pytest.mark.trio
async def test_time_passes_as_trios_clock_says(autojump_clock: Any) -> None:
    async def slow(value: float) -> float:
        await trio.sleep(value)
        return value

    step = RunnableLambda(slow)
    start = trio.current_time()
    assert await RunnableParallel(a=step, b=step).ainvoke(5) == {"a": 5, "b": 5}
    assert trio.current_time() - start == 5
    assert await step.abatch([4, 4, 4, 4], {"max_concurrency": 2}) == [4, 4, 4, 4]
    assert trio.current_time() - start == 13
    order = [pair async for pair in step.abatch_as_completed([3, 1, 2])]
    assert order == [(1, 1), (2, 2), (0, 3)]
    with trio.move_on_after(1) as scope:
        await step.ainvoke(100)
    assert scope.cancelled_caught
    assert trio.current_time() - start == 17


@pytest.mark.trio
async def test_retries_wait_and_fallbacks_take_over(autojump_clock: Any) -> None:
    attempts: list[float] = []

    async def fails(_: Any) -> None:
        attempts.append(trio.current_time())
        raise OSError("unreachable")

    retrying = RunnableLambda(fails).with_retry(
        stop_after_attempt=3, wait_exponential_jitter=True, retry_if_exception_type=(OSError,)
    )
    chain = retrying.with_fallbacks([RunnableLambda(lambda _: "instead")])
    assert await chain.ainvoke(1) == "instead"
    assert len(attempts) == 3
    assert attempts[1] - attempts[0] >= 1
    assert attempts[2] - attempts[1] >= 2


@pytest.mark.trio
async def test_return_exceptions_and_errors_arrive_bare() -> None:
    async def odd(number: int) -> int:
        if number % 2:
            raise KeyError(number)
        return number

    step = RunnableLambda(odd)
    results = await step.abatch([1, 2], return_exceptions=True)
    assert (type(results[0]), results[1]) == (KeyError, 2)
    with pytest.raises(KeyError):
        await RunnableParallel(a=step, b=RunnableLambda(_forever)).ainvoke(1)


@pytest.mark.trio
@pytest.mark.parametrize("endless", ("invoke", "step", "stream"))
async def test_what_never_waits_is_cancelled_all_the_same(endless: str) -> None:
    async def at_once(value: Any) -> Any:
        return value

    async def forever(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for chunk in chunks:
            for _ in many:
                yield chunk

    step = RunnableLambda(at_once)
    many, over = range(2000), []

    async def run() -> None:
        if endless == "stream":
            async with aclosing((step | RunnableGenerator(forever)).astream(1)) as stream:
                async for _ in stream:
                    pass
        elif endless == "step":

            async def nested(value: Any) -> Any:
                for _ in many:
                    await (step | step).ainvoke(value)

            await RunnableLambda(nested).ainvoke(1)
        else:
            for _ in many:
                await step.ainvoke(1)
        over.append(endless)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        for _ in range(50):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert not over


@pytest.mark.trio
async def test_what_is_awaited_in_a_context_is_closed_and_cancelled_as_a_task_is() -> None:
    log: list[Any] = []
    context = contextvars.copy_context()

    async def work() -> str:
        tenant.set("inside")
        try:
            await trio.sleep_forever()
        finally:
            log.append(tenant.get())
        return "never"

    with trio.CancelScope() as scope:
        scope.cancel()
        await InContext(work(), context)
    assert scope.cancelled_caught
    assert (log, tenant.get(), context[tenant]) == (["inside"], "nobody", "inside")
    # Cancelled before it began, it does not begin.
    with trio.CancelScope() as scope:
        scope.cancel()
        await InContext(work(), context, yielding=True)
    assert scope.cancelled_caught
    assert log == ["inside"]
    # Left by its generator, it is closed.
    steps = InContext(work(), context).__await__()
    steps.send(None)
    steps.close()
    assert log == ["inside", "inside"]


@pytest.mark.trio
async def test_a_rate_limiter_waits_on_trio() -> None:
    limiter = InMemoryRateLimiter(requests_per_second=200, check_every_n_seconds=0.001)
    model = FakeListChatModel(responses=["a", "b"], rate_limiter=limiter)
    assert [(await model.ainvoke("x")).content for _ in range(2)] == ["a", "b"]


# Contexts and threads

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


@pytest.mark.trio
async def test_context_variables_reach_steps_handlers_and_threads() -> None:
    seen: dict[str, str] = {}

    class Handler(Recorder):
        def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
            seen["sync handler"] = tenant.get()

    class AsyncHandler(AsyncRecorder):
        async def on_chain_end(self, *args: Any, **kwargs: Any) -> None:
            seen["async handler"] = tenant.get()

    async def step(value: Any) -> Any:
        seen["step"] = tenant.get()
        return value

    def in_thread(value: Any) -> Any:
        seen["thread"] = tenant.get()
        assert threading.current_thread() is not threading.main_thread()
        return value

    tenant.set("me")
    chain = RunnableLambda(step) | RunnableParallel(a=RunnableLambda(step), b=in_thread)
    await chain.ainvoke(1, {"callbacks": [Handler(), AsyncHandler()]})
    assert seen == dict.fromkeys(("sync handler", "async handler", "step", "thread"), "me")


def returns_a_coroutine(text: str) -> Any:
    """Answer later."""

    async def answer() -> str:
        return f"{text}!"

    return answer()


@pytest.mark.trio
@pytest.mark.parametrize(
    "made", (RunnableLambda(returns_a_coroutine), tool(returns_a_coroutine)), ids=("step", "tool")
)
async def test_a_plain_function_may_return_a_coroutine(made: Any) -> None:
    assert await (await made.ainvoke("hi")) == "hi!"


@pytest.mark.trio
async def test_worker_threads_are_not_those_of_the_application() -> None:
    limiter = anyio.to_thread.current_default_thread_limiter()
    tokens = [object() for _ in range(int(limiter.total_tokens))]
    for token in tokens:
        limiter.acquire_on_behalf_of_nowait(token)
    try:
        with trio.fail_after(HANGS):
            assert await RunnableLambda(lambda x: x + 1).ainvoke(1) == 2
    finally:
        for token in tokens:
            limiter.release_on_behalf_of(token)


@pytest.mark.trio
async def test_models_leave_threads_to_their_handlers() -> None:
    limiter = model_limiter()
    tokens = [object() for _ in range(int(limiter.total_tokens))]
    for token in tokens:
        limiter.acquire_on_behalf_of_nowait(token)
    recorder = Recorder()
    with trio.fail_after(HANGS):
        await RunnableLambda(_same).ainvoke(1, {"callbacks": [recorder]})
    assert recorder.names() == ["on_chain_start", "on_chain_end"]


async def _same(value: Any) -> Any:
    return value


@pytest.mark.trio
async def test_a_cancelled_thread_is_waited_for() -> None:
    began, go, over = threading.Event(), threading.Event(), threading.Event()

    def work(_: Any) -> None:
        began.set()
        go.wait(60)
        over.set()

    async with trio.open_nursery() as nursery:

        async def call() -> None:
            await RunnableLambda(work).ainvoke(1)

        nursery.start_soon(call)
        await trio.to_thread.run_sync(began.wait, 10)
        nursery.cancel_scope.cancel()
        go.set()
    assert over.is_set()


@pytest.mark.trio
async def test_what_the_loop_is_to_call_is_called_in_order(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = NAMESPACE.get_running_loop()
    called: list[str] = []

    async def in_asyncio() -> None:
        loop.call_soon_threadsafe(called.append, "asyncio, in trio's thread")
        loop.call_soon_threadsafe(called.remove, "never there")

    asyncio.run(in_asyncio())
    loop.call_soon(called.append, "a task, after it")
    assert called == []
    await trio.testing.wait_all_tasks_blocked()
    loop.call_soon(called.append, "a task, at once")
    assert called == ["asyncio, in trio's thread", "a task, after it", "a task, at once"]
    assert "a callback of the loop failed" in caplog.text


@pytest.mark.trio
async def test_a_synchronous_call_on_trios_thread_runs_its_async_handlers() -> None:
    """langchain-core starts an asyncio loop of its own for them, in which all is asyncio's."""
    seen: list[bool] = []

    class Handler(AsyncRecorder):
        async def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
            await asyncio.gather(asyncio.sleep(0))
            seen.append(NAMESPACE.sleep is asyncio.sleep)

    assert RunnableLambda(lambda x: x).invoke(1, {"callbacks": [Handler()]}) == 1
    assert seen == [True]
    assert NAMESPACE.sleep is ON_TRIO["sleep"]

    async def nested() -> int:
        return await RunnableLambda(lambda x: x + 1).ainvoke(1)

    # A nested loop on the very thread of trio's.
    assert asyncio.run(nested()) == 2


@pytest.mark.trio
async def test_a_thread_calls_back_and_asks_whether_it_is_cancelled() -> None:
    def call_back(_: Any) -> tuple[Any, Any]:
        return (
            trio.from_thread.run(_same, 1),
            anyio.from_thread.run_sync(trio.lowlevel.current_root_task) is not None,
        )

    assert await RunnableLambda(call_back).ainvoke(0) == (1, True)
    began = threading.Event()

    def poll(_: Any) -> None:
        began.set()
        while True:
            trio.from_thread.check_cancelled()

    with trio.fail_after(HANGS):
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                await RunnableLambda(poll).ainvoke(1)

            nursery.start_soon(call)
            await trio.to_thread.run_sync(began.wait, 10)
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_call_that_is_abandoned_before_it_has_begun_does_not_begin() -> None:
    called: list[int] = []
    call = _loop._Call(called.append, (1,), Loop())
    assert await call.has_returned()
    call()
    assert not called


@pytest.mark.trio
async def test_a_cancellation_in_a_thread_is_not_taken_for_one_here() -> None:
    def cancelled(_: Any) -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="cancelled raised CancelledError"):
        await NAMESPACE.get_running_loop().run_in_executor(None, cancelled, 1)


def test_asyncio_and_trio_run_side_by_side() -> None:
    results: dict[str, Any] = {}
    barrier = threading.Barrier(2)

    async def main() -> Any:
        barrier.wait(60)
        return [await invoked(chain, {}) for _ in range(20)]

    def on_asyncio() -> None:
        results["asyncio"] = asyncio.run(main())

    def on_trio() -> None:
        results["trio"] = trio.run(main)

    async def generator(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for _ in chunks:
            await anyio.lowlevel.checkpoint()
            yield 1

    chain = RunnableParallel(a=RunnableGenerator(generator), b=lambda value: value["x"])
    threads = [threading.Thread(target=target) for target in (on_asyncio, on_trio)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results["asyncio"] == results["trio"] == [{"a": 1, "b": 1}] * 20


def test_what_is_made_where_nothing_runs_belongs_to_where_it_is_used() -> None:
    # What it asks asyncio for, and, made here, is not left behind.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    handler = LogStreamCallbackHandler(auto_close=False)
    asyncio.set_event_loop(None)
    loop.close()

    async def main() -> None:
        chain = RunnableLambda(lambda x: x)
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                async for patch in handler:
                    patches.append(patch)

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await chain.ainvoke(1, {"callbacks": [handler]})
            await trio.testing.wait_all_tasks_blocked()
            handler.send_stream.close()

    patches: list[Any] = []
    trio.run(main)
    assert patches


# Events


@pytest.mark.trio
async def test_custom_events_and_groups() -> None:
    seen: list[Any] = []

    class Handler(AsyncRecorder):
        async def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
            seen.append((name, data))

    async def step(value: Any, config: RunnableConfig) -> Any:
        # Named, because on Python 3.10 langchain-core does not find it by itself, on asyncio
        # neither.
        await adispatch_custom_event("progress", {"percent": 50}, config=config)
        return value

    async with atrace_as_chain_group("group", callback_manager=None) as manager:
        await RunnableLambda(step).ainvoke(1, {"callbacks": manager})
    await RunnableLambda(step).ainvoke(1, {"callbacks": [Handler()]})
    assert seen == [("progress", {"percent": 50})]


@pytest.mark.trio
@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
async def test_the_third_version_of_events_is_this_packages_stream() -> None:
    model = FakeListChatModel(responses=["hi"])
    for runnable in (model, model.bind(stop=["x"])):
        async with await runnable.astream_events("x", version="v3") as stream:
            assert isinstance(stream, langchain_anyio.AsyncChatModelStream)
            assert isinstance(stream, chat_model_stream.AsyncChatModelStream)
            assert (await stream).text == "hi"


def test_all_that_is_public_of_that_stream_is_this_packages() -> None:
    public = [name for name in dir(chat_model_stream.AsyncChatModelStream) if name[0] != "_"]
    assert len(public) > 10
    for name in public:
        ours = inspect.getattr_static(langchain_anyio.AsyncChatModelStream, name)
        assert inspect.getattr_static(StreamOfCore, name) is ours


@pytest.mark.trio
@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
async def test_the_task_of_a_run_can_be_waited_for() -> None:
    over: list[str] = []

    class Handler(AsyncRecorder):
        async def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
            await trio.testing.wait_all_tasks_blocked()
            over.append("end")

    model = FakeListChatModel(responses=["hi"], callbacks=[Handler()])
    stream = await model.astream_events("x", version="v3")
    assert stream._producer_task is None
    await stream.output
    task = stream._producer_task
    assert not task.done()
    await task
    assert over == ["end"]
    assert (task.done(), task.cancelled()) == (True, False)
    stream = await FakeListChatModel(responses=["hi"], sleep=1000).astream_events("x", version="v3")
    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(stream.text.__aiter__().__anext__)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert stream._producer_task.cancelled()


@pytest.mark.trio
async def test_a_stream_of_a_sequence_runs_its_other_steps_here() -> None:
    async def ask(topic: str) -> str:
        await trio.lowlevel.checkpoint()
        return f"Tell me about {topic}."

    sequence = RunnableLambda(ask) | FakeListChatModel(responses=["It is wet."])
    async with langchain_anyio.open_stream(sequence, "water") as stream:
        assert (await stream).text == "It is wet."


def test_a_wrapped_generator_method_still_passes_for_one() -> None:
    inner = RunnableLambda(lambda x: x + 1)

    async def main() -> list[Any]:
        return [chunk async for chunk in RunnableGenerator(inner.atransform).astream(1)]

    assert asyncio.run(main()) == trio.run(main) == [2]


@pytest.mark.unhurried
def test_trio_asyncio_has_both() -> None:
    program = Path(__file__).parents[1] / "support" / "on_trio_asyncio.py"
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_trio_as_a_guest_of_asyncio() -> None:
    """Both run in one thread, in turns; each has its own."""

    async def step(value: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        return value, NAMESPACE.sleep is asyncio.sleep

    chain = RunnableParallel(a=RunnableLambda(step), b=RunnableLambda(step))

    async def guest() -> Any:
        return [await chain.ainvoke(1) for _ in range(20)]

    async def host() -> tuple[Any, Any]:
        loop = asyncio.get_running_loop()
        over: asyncio.Future[Any] = loop.create_future()
        trio.lowlevel.start_guest_run(
            guest, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=over.set_result
        )
        here = [await chain.ainvoke(1) for _ in range(20)]
        return here, (await over).unwrap()

    here, there = asyncio.run(host())
    assert here == [{"a": (1, True), "b": (1, True)}] * 20
    assert there == [{"a": (1, False), "b": (1, False)}] * 20
