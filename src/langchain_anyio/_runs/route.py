"""The way from what the user gave to the chat model that answers: steps, retries and fallbacks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, final

import anyio
from langchain_core.runnables import (
    RunnableConfig,
    RunnableSequence,
    ensure_config,
)
from langchain_core.runnables.config import (
    get_async_callback_manager_for_config,
    patch_config,
)
from langchain_core.utils.uuid import uuid7

from langchain_anyio._backends.current import backend
from langchain_anyio._langchain_core import (
    bound_config,
    needs_asyncio,
    retrying_of,
    set_config_context,
)
from langchain_anyio._providers.within_runs import models_on_this_loop

from .callbacks import Dispatcher
from .managers import AnyioChainRunManager, OpenRuns
from .target import Target, is_fallbacks, is_retry, resolve

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableWithFallbacks
    from langchain_core.runnables.retry import RunnableRetry


@final
class Route:
    """Runs what is around a chat model, as langchain-core's runnables do.

    It sets the config of the current context, which must be the run's own.

    A model that fails is tried again, or another one is, only until the first event has come: what
    consumers have read cannot be taken back.

    Args:
        dispatcher: Calls the callback handlers.
        open_runs: Receives the runs of sequences, retries and fallbacks, which end with the
            model's.
        call_model: Runs a chat model, given by a target, with an input.
        has_begun: Returns whether an event has come.

    Attributes:
        may_go_on: Whether another attempt may follow if the current one fails now.
    """

    __slots__ = ("_attempts", "_call_model", "_dispatcher", "_has_begun", "_open_runs")

    def __init__(
        self,
        dispatcher: Dispatcher,
        open_runs: OpenRuns,
        call_model: Callable[[Target, Any], Awaitable[None]],
        has_begun: Callable[[], bool],
    ) -> None:
        self._dispatcher = dispatcher
        self._open_runs = open_runs
        self._call_model = call_model
        self._has_begun = has_begun
        self._attempts = 0

    @property
    def may_go_on(self) -> bool:
        return self._attempts > 0 and not self._has_begun()

    async def follow(self, target: Target, input: Any) -> None:
        """Run everything up to the model's answer.

        Raises:
            BaseException: The error of a step, or of the model; of several models that were tried,
                what langchain-core raises: of retries the last error, of fallbacks the first.
        """
        while isinstance(target.runnable, RunnableSequence):
            target, input = await self._run_steps(target.runnable, target, input)
        if is_retry(target.runnable):
            await self._retry(target.runnable, target, input)
        elif is_fallbacks(target.runnable):
            await self._fall_back(target.runnable, target, input)
        else:
            await self._call_model(target, input)

    async def _begin(
        self, target: Target, input: Any
    ) -> tuple[AnyioChainRunManager, RunnableConfig]:
        """Notify the handlers that a sequence, a retry or a fallback starts."""
        config = ensure_config(target.config)
        manager = get_async_callback_manager_for_config(config)
        run_id = config.pop("run_id", None) or uuid7()
        chain = AnyioChainRunManager(self._dispatcher, manager, run_id)
        self._open_runs.add(chain)
        name = config.get("run_name") or target.runnable.get_name()
        await chain.start(input, name=name)
        return chain, config

    async def _run_steps(
        self, sequence: RunnableSequence[Any, Any], target: Target, input: Any
    ) -> tuple[Target, Any]:
        if backend() == "trio" and needs_asyncio():
            raise RuntimeError(
                f"the step {sequence.first.get_name()} before the model is run by "
                "langchain-core, which on trio needs langchain_anyio.enable_trio()"
            )
        chain, config = await self._begin(target, input)
        kwargs = target.bound
        for number, step in enumerate(sequence.steps, 1):
            config = patch_config(config, callbacks=chain.get_child(f"seq:step:{number}"))
            set_config_context(config)
            if number == len(sequence.steps):
                return resolve(step, config), input
            with models_on_this_loop():
                input = await step.ainvoke(input, config, **kwargs)
            kwargs = {}
        raise AssertionError("a sequence has at least two steps")

    async def _retry(self, retry: RunnableRetry[Any, Any], target: Target, input: Any) -> None:
        chain, config = await self._begin(target, input)
        async for attempt in retrying_of(retry, self._has_begun, anyio.sleep):
            number = attempt.retry_state.attempt_number
            tag = f"retry:attempt:{number}" if number > 1 else None
            set_config_context(patch_config(config, callbacks=chain.get_child()))
            child = bound_config(retry, patch_config(config, callbacks=chain.get_child(tag)))
            with attempt:
                await self._attempt(
                    resolve(retry.bound, child), {**retry.kwargs, **target.bound}, input
                )

    async def _fall_back(
        self, fallbacks: RunnableWithFallbacks[Any, Any], target: Target, input: Any
    ) -> None:
        key = fallbacks.exception_key
        if key is not None and not isinstance(input, dict):
            raise ValueError(
                f"with_fallbacks(exception_key={key!r}) needs a dict as input, to put the "
                f"exception into, not a {type(input).__name__}"
            )
        chain, config = await self._begin(target, input)
        first: Exception | None = None
        try:
            for runnable in fallbacks.runnables:
                child = patch_config(config, callbacks=chain.get_child())
                set_config_context(child)
                try:
                    return await self._attempt(resolve(runnable, child), target.bound, input)
                except Exception as exc:
                    if self._has_begun() or not isinstance(
                        exc, tuple(fallbacks.exceptions_to_handle)
                    ):
                        raise
                    first = first or exc
                    if key is not None:
                        input = {**input, key: exc}
            assert first is not None
            raise first
        finally:
            del first  # its traceback refers to this frame

    async def _attempt(self, target: Target, bound: dict[str, Any], input: Any) -> None:
        """Run a model that another one may follow; notify its handlers of an error at once."""
        depth = len(self._open_runs)
        target = Target(target.runnable, target.config, {**target.bound, **bound})
        self._attempts += 1
        try:
            await self.follow(target, input)
        except Exception as exc:
            if not self._has_begun():
                await self._open_runs.fail_inner(depth, exc)
            raise
        finally:
            self._attempts -= 1
