"""`open_stream`: a chat model, or a graph, runs into a stream, on asyncio or on trio."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast, overload
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    ensure_config,
)

from ._graph_stream import GraphStream
from ._runs.drop_guard import DropGuard
from ._runs.graph import Graph, GraphRun, is_graph
from ._runs.model import ModelRun, call_of
from ._runs.target import Target, resolve
from ._stream import AsyncChatModelStream
from ._stream_state import StreamState

DEFAULT_BUFFER_SIZE = 1024


@overload
def open_stream(
    model: Graph, input: Any, config: RunnableConfig | None = None, **kwargs: Any
) -> GraphStream: ...


@overload
def open_stream(
    model: Runnable[Any, Any],
    input: LanguageModelInput | Any,
    config: RunnableConfig | None = None,
    *,
    stop: list[str] | None = None,
    max_buffer_size: float = DEFAULT_BUFFER_SIZE,
    replay: bool = True,
    chunk_timeout: float | None = None,
    **kwargs: Any,
) -> AsyncChatModelStream: ...


def open_stream(
    model: Runnable[Any, Any] | Graph,
    input: LanguageModelInput | Any,
    config: RunnableConfig | None = None,
    *,
    stop: list[str] | None = None,
    max_buffer_size: float = DEFAULT_BUFFER_SIZE,
    replay: bool = True,
    chunk_timeout: float | None = None,
    **kwargs: Any,
) -> AsyncChatModelStream | GraphStream:
    """Stream one answer of a chat model, or one run of a graph, on asyncio or on trio.

    Nothing runs before the stream is first consumed. Then the model runs in one background task, which
    belongs to the stream: no task group and no cancel scope is open in the task that uses it, so it may be
    opened inside an async generator.

    Used with `async with`, leaving the block, in whichever way, stops the model, closes its connection
    and has reported the run's end to the callbacks before the block is left. `await open_stream(...)` alone
    does the same. Otherwise nobody waits for the end: a stream that is dropped half read is stopped when the
    last reference to it goes, with a `ResourceWarning`.

    Cancellation: that of a consumer is its own affair; the run goes on. That of the block stops the run,
    whose cleanup is shielded and takes 5 seconds at most; what has not returned by then is left behind and
    named in a `ResourceWarning`. Handlers see a cancelled run end with `on_llm_error` and a
    `StreamCancelledError`.

    For a compiled graph of langgraph's, an agent say, it is a `GraphStream`, whose guarantees are the same; on trio it
    needs `enable_trio()`.

    Ports `await model.astream_events(input, config, version="v3", ...)` of
    `langchain_core.language_models.BaseChatModel`, and of `langgraph.pregel.Pregel`.

    Args:
        model: A chat model, however it is written (`_astream`, `_stream`, `_agenerate`, `_generate`, a native
            event producer; what blocks runs in a worker thread); one with `bind()`, `bind_tools()`,
            `with_config()` or configurable fields; or a sequence that ends in one, whose other steps run
            as langchain-core runs them. Or a compiled graph, which takes none of the options below.
        input: What the model is asked: a string, messages, or a prompt value. For a sequence, the input of
            its first step.
        config: As for any runnable.
        stop: Strings at which the model is to stop.
        max_buffer_size: Number of events that the model may run ahead of the furthest consumer before it is
            held back; `math.inf` for any number. Who waits, for a delta or for a final value, holds nothing
            back.
        replay: Whether everything is kept for consumers yet to come. If not, what every open iterator has
            passed is dropped; a later one begins at the oldest delta kept. Final values are whole all the same.
        chunk_timeout: The longest wait for the model's next chunk in seconds; past it the connection is
            closed and consumers get a `StreamStalledError`. Time that the model is held back, or that callback
            handlers take, does not count.
        kwargs: Passed on to the model, or to the graph's `astream_events`.

    Returns:
        The stream.

    Raises:
        TypeError: An argument is of a type that cannot be meant; the message names it.
        ValueError: A number is out of its range.

    Example:
        ```python
        async with open_stream(model, "Write me a song about sparkling water.") as stream:
            async for delta in stream.text:
                print(delta, end="", flush=True)
            message = await stream
        ```
    """
    _check(config, stop, max_buffer_size, replay, chunk_timeout, kwargs)
    target = resolve(model, config)
    if is_graph(target.runnable):
        options = {
            "stop": (stop, None),
            "max_buffer_size": (max_buffer_size, DEFAULT_BUFFER_SIZE),
            "replay": (replay, True),
            "chunk_timeout": (chunk_timeout, None),
        }
        for name, (value, default) in options.items():
            if value != default:
                raise TypeError(f"{name} is for chat models; the run of a graph has no such option")
        return GraphStream(
            GraphRun(target.runnable, input, target.config, {**target.bound, **kwargs})
        )
    if stop is not None:
        kwargs["stop"] = stop
    call = None
    if isinstance(target.runnable, BaseChatModel):
        if not isinstance(input, (str, PromptValue, Sequence)) or isinstance(
            input, (bytes, bytearray)
        ):
            raise TypeError(
                f"input must be a str, a list of messages or a PromptValue, not a {type(input).__name__}"
            )
        call = call_of(target, input, kwargs)
    else:
        target = Target(target.runnable, ensure_config(target.config), target.bound)
    state = StreamState(replay=replay)
    run = ModelRun(
        state,
        target,
        input,
        call,
        kwargs,
        max_buffer_size=max_buffer_size,
        chunk_timeout=chunk_timeout,
    )
    stream = AsyncChatModelStream._of_run(state, run, DropGuard(run))
    stream.set_start(run.start)
    return stream


# What langchain-core would find out somewhere within a run, in words that do not name the argument.
_CONFIG: tuple[tuple[str, tuple[type, ...], str], ...] = (
    ("callbacks", (list, BaseCallbackManager), "a list of callback handlers, or a manager"),
    ("tags", (list,), "a list of str"),
    ("metadata", (Mapping,), "a dict"),
    ("configurable", (Mapping,), "a dict"),
    ("run_name", (str,), "a str"),
    ("run_id", (UUID, str), "a UUID"),
)
_ITEMS: dict[str, type] = {"callbacks": BaseCallbackHandler, "tags": str}


def _check(
    config: object,
    stop: object,
    max_buffer_size: object,
    replay: object,
    chunk_timeout: object,
    kwargs: Mapping[str, Any],
) -> None:
    if config is not None and not isinstance(config, Mapping):
        raise TypeError(f"config must be a RunnableConfig (a dict), not a {type(config).__name__}")
    for key, kind, wanted in _CONFIG:
        value = (config or {}).get(key)
        if value is not None and not isinstance(value, kind):
            raise TypeError(f'config["{key}"] must be {wanted}, not a {type(value).__name__}')
        if isinstance(value, list) and not all(isinstance(v, _ITEMS[key]) for v in value):
            raise TypeError(f'config["{key}"] must be {wanted}, not {value!r}')
    if stop is not None and (
        isinstance(stop, str)
        or not isinstance(stop, Sequence)
        or not all(isinstance(string, str) for string in stop)
    ):
        raise TypeError(f"stop must be a list of str, not {stop!r}")
    if not _is_number(max_buffer_size) or not (
        max_buffer_size == math.inf or isinstance(max_buffer_size, int)
    ):
        raise TypeError(f"max_buffer_size must be an int or math.inf, not {max_buffer_size!r}")
    if not cast("float", max_buffer_size) >= 1:
        raise ValueError(f"max_buffer_size must be 1 or more, not {max_buffer_size!r}")
    if not isinstance(replay, bool):
        raise TypeError(f"replay must be a bool, not {replay!r}")
    if chunk_timeout is not None:
        if not _is_number(chunk_timeout):
            raise TypeError(f"chunk_timeout must be a number of seconds, not {chunk_timeout!r}")
        if not cast("float", chunk_timeout) > 0:
            raise ValueError(f"chunk_timeout must be more than 0 seconds, not {chunk_timeout!r}")
    if "version" in kwargs:
        raise TypeError('open_stream has no version; what it streams is the "v3" of astream_events')


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


open_stream.__module__ = "langchain_anyio"
