"""The call of a chat model, in whichever way the model is written."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage

from langchain_anyio._langchain_core import ModelCall, answer_of, source_of
from langchain_anyio._protocol.accumulator import Accumulator
from langchain_anyio._protocol.chunk_converter import ChunkBridge
from langchain_anyio._protocol.converters import Converter, EventConverter, MessageConverter
from langchain_anyio._providers.table import for_current_loop

from .managers import AnyioLLMRunManager
from .threads import ThreadCalls, ThreadIterator, model_limiter


def answer_of_model(
    model: BaseChatModel,
    call: ModelCall,
    run: AnyioLLMRunManager,
    calls: ThreadCalls,
    accumulator: Accumulator,
    generation_info: dict[str, Any],
) -> tuple[AsyncIterator[Any], Converter]:
    """Return what the model gives, and the converter that makes events of it.

    The model itself is called in the first step of the iteration.

    Args:
        model: The model.
        call: Its arguments.
        run: The run manager that it gets.
        calls: Makes the calls of a blocking model.
        accumulator: Assembles the message; keeps its text for the converter.
        generation_info: Receives metadata that is meant for tracing only.
    """
    source = source_of(for_current_loop(model), call.kwargs)
    ask = partial(
        source.method,
        call.messages,
        stop=call.stop,
        run_manager=run.get_sync() if source.blocking else run,
        **call.kwargs,
    )
    label = f"{type(model).__name__}.{source.name}"
    message_id = accumulator.message_id
    if source.gives == "answer":

        async def answer() -> AsyncGenerator[AIMessage, None]:
            if source.blocking:
                result = await calls.run(ask, label=label, limiter=model_limiter())
            else:
                result = await ask()
            yield answer_of(result)

        return answer(), MessageConverter(message_id)
    items = ThreadIterator(ask, calls, label=label) if source.blocking else ask()
    if source.gives == "events":
        return items, EventConverter()
    return items, ChunkBridge(message_id, generation_info, accumulator.text_of)
