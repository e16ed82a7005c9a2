"""The steps before the model in a sequence."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableSequence, ensure_config
from langchain_core.runnables.config import (
    get_async_callback_manager_for_config,
    patch_config,
)
from langchain_core.utils.uuid import uuid7

from langchain_anyio._backends.current import backend
from langchain_anyio._langchain_core import needs_asyncio, set_config_context

from .callbacks import Dispatcher
from .managers import AnyioChainRunManager, OpenRuns
from .target import Target, resolve


async def run_steps(
    target: Target, input: Any, dispatcher: Dispatcher, open_runs: OpenRuns
) -> tuple[Target, Any]:
    """Run the steps before the model, as `RunnableSequence.ainvoke` does.

    Args:
        target: A model, or a sequence that ends in one.
        input: The sequence's input.
        dispatcher: Calls the callback handlers.
        open_runs: Receives the run of each sequence, which ends with the model's.

    Returns:
        The model, with its config, and its input.
    """
    while isinstance(sequence := target.runnable, RunnableSequence):
        if backend() == "trio" and needs_asyncio():
            raise RuntimeError(
                f"the step {sequence.first.get_name()} before the model is run by "
                "langchain-core, which on trio needs langchain_anyio.enable_trio()"
            )
        config = ensure_config(target.config)
        manager = get_async_callback_manager_for_config(config)
        chain = AnyioChainRunManager(dispatcher, manager, config.pop("run_id", None) or uuid7())
        open_runs.add(chain)
        await chain.start(input, name=config.get("run_name") or sequence.get_name())
        kwargs = target.bound
        for number, step in enumerate(sequence.steps, 1):
            config = patch_config(config, callbacks=chain.get_child(f"seq:step:{number}"))
            set_config_context(config)  # the context of this task is the run's own
            if number == len(sequence.steps):
                target = resolve(step, config)
                break
            input = await step.ainvoke(input, config, **kwargs)
            kwargs = {}
    return target, input
