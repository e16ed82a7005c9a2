"""`open_stream`: run a chat model or a graph into a stream, on asyncio or on trio."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast, overload
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import (
    RunnableConfig,
    ensure_config,
)

from ._graph_stream import GraphStream
from ._run_items import RunLog
from ._runs.drop_guard import DropGuard
from ._runs.graph import GraphRun
from ._runs.langgraph import Graph, GraphOnServer, is_graph, is_remote_graph
from ._runs.model import ModelRun, call_of
from ._runs.remote import RemoteRun
from ._runs.target import Target, models_in, resolve
from ._stream import AsyncChatModelStream
from ._stream_state import StreamState

DEFAULT_BUFFER_SIZE = 1024


class Chain(Protocol):
    """A runnable that is no graph, for type checkers only.

    A graph's `name` is always a `str`, and so none of these. If graphs were accepted in its place,
    an agent, whose type contains `Any`, would match both overloads, and the result be `Any`.
    """

    name: str | None

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> Any: ...


# The first, because the name of a `RemoteGraph` may be `None`, as that of a chain.
@overload
def open_stream(
    model: GraphOnServer,
    input: LanguageModelInput | Any,
    config: RunnableConfig | None = None,
    **kwargs: Any,
) -> GraphStream: ...


@overload
def open_stream(
    model: Chain,
    input: LanguageModelInput | Any,
    config: RunnableConfig | None = None,
    *,
    stop: list[str] | None = None,
    max_buffer_size: float = DEFAULT_BUFFER_SIZE,
    replay: bool = True,
    chunk_timeout: float | None = None,
    **kwargs: Any,
) -> AsyncChatModelStream: ...


@overload
def open_stream(
    model: Graph, input: Any, config: RunnableConfig | None = None, **kwargs: Any
) -> GraphStream: ...


def open_stream(
    model: Chain | Graph | GraphOnServer,
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

    Nothing runs until the stream is first consumed. Then the model runs in one background task that
    belongs to the stream: no task group and no cancel scope stays open in the task that uses the
    stream, so it may be opened inside an async generator.

    With `async with`, however you leave the block, the model is stopped, its connection closed and
    its callbacks notified of the run's end before the block is left. `await open_stream(...)` alone
    does the same: it runs the model to its end and gives the message, which is no stream to enter or
    to iterate over. Otherwise, the model runs up to `max_buffer_size` events ahead once you stop
    reading, and is stopped only when the stream is garbage-collected, with a `ResourceWarning`.

    Cancellation: cancelling a consumer affects only that consumer; the run continues. Cancelling
    the block stops the run, whose cleanup is shielded and takes at most 5 seconds. Whatever has not
    returned by then is abandoned and named in a `ResourceWarning`. Handlers are notified of the end
    of a cancelled run by `on_llm_error` with a `StreamCancelledError`.

    For a compiled graph of langgraph, such as an agent, or a `RemoteGraph`, the stream is a
    `GraphStream`, which gives the same guarantees; on trio it requires `enable_trio()`.

    Ports `await model.astream_events(input, config, version="v3", ...)` of
    `langchain_core.language_models.BaseChatModel`, of `langgraph.pregel.Pregel`, and of
    `langgraph.pregel.remote.RemoteGraph`.

    Args:
        model: A chat model; one with `bind()`, `bind_tools()`, `with_config()`, `with_retry()`,
            `with_fallbacks()` or configurable fields; a sequence that ends in one, whose other
            steps run as langchain-core runs them; or a compiled or remote graph, which takes none
            of the options from `stop` to `chunk_timeout`. Retries and fallbacks begin another
            attempt only until the first event has come. The chat model may implement any of
            `_astream`, `_stream`, `_agenerate`, `_generate` and a native event producer; blocking
            methods run in a worker thread.
        input: Input of the model: a string, messages, or a prompt value. For a sequence, the input
            of its first step; for a graph, its input.
        config: As for any runnable.
        stop: Strings at which the model stops.
        max_buffer_size: Number of events that the model may run ahead of the furthest consumer
            before it is held back, 1,024 by default; `math.inf` for no limit. The model is never held
            back while a consumer waits, for a delta or for a final value.
        replay: Whether to keep everything for later consumers. If `False`, deltas that every open
            iterator has passed are dropped, and a later iterator begins at the oldest delta kept.
            Final values are always complete.
        chunk_timeout: Longest wait for the model's next chunk, in seconds. After it, the connection
            is closed and consumers get a `StreamStalledError`. Time during which the model
            is held back, or callback handlers run, does not count.
        kwargs: Passed on to the model, or to the graph's `astream_events`. One whose name looks
            like an option is refused, unless the model declares it or it is bound by `bind()`.

    Returns:
        The stream.

    Raises:
        TypeError: An argument is of an unsupported type; the message names it.
        ValueError: A number is out of range.

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
    remote = is_remote_graph(target.runnable)
    if remote or is_graph(target.runnable):
        options = {
            "stop": (stop, None),
            "max_buffer_size": (max_buffer_size, DEFAULT_BUFFER_SIZE),
            "replay": (replay, True),
            "chunk_timeout": (chunk_timeout, None),
        }
        for name, (value, default) in options.items():
            if value != default:
                raise TypeError(
                    f"{name} is for chat models; the run of a graph has no such option"
                    + _FOR_GRAPHS.get(name, "")
                )
        keywords = {**target.bound, **kwargs}
        of_graph = RemoteRun if remote else GraphRun
        return GraphStream(of_graph(target.runnable, input, target.config, keywords, RunLog()))
    _check_keywords(target, kwargs)
    if stop is not None:
        kwargs["stop"] = stop
    call = None
    if isinstance(target.runnable, BaseChatModel):
        if not isinstance(input, (str, PromptValue, Sequence)) or isinstance(
            input, (bytes, bytearray)
        ):
            raise TypeError(
                "input must be a str, a list of messages or a PromptValue, "
                f"not a {type(input).__name__}"
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


# What to do instead of an option that graphs do not have.
_FOR_GRAPHS = {
    "chunk_timeout": ": set a timeout on the models in its nodes, such as stream_chunk_timeout of "
    "ChatOpenAI, or enter anyio.fail_after() around the run",
    "stop": ": set it on the models in its nodes, by model.bind(stop=...)",
}

# langchain-core checks these only during a run, with errors that do not name the argument.
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


# The options of `open_stream()` that a keyword of another name may be meant for.
_OPTIONS = ("config", "stop", "max_buffer_size", "replay", "chunk_timeout")


def _check_keywords(target: Target, kwargs: Mapping[str, Any]) -> None:
    """Refuse keywords that look like an option, unless a model declares them."""
    for name in kwargs:
        meant = difflib.get_close_matches(name, _OPTIONS, n=1, cutoff=0.7)
        if meant and not any(_declares(model, name) for model in models_in(target)):
            raise TypeError(
                f"open_stream() has no option {name!r}, and the model does not declare it; did you "
                f"mean {meant[0]!r}? To pass it to the model, use model.bind({name}=...)"
            )


def _declares(model: BaseChatModel, name: str) -> bool:
    """Return whether a model has a field, or one of its methods a parameter, of that name."""
    fields = type(model).model_fields
    if name in fields or any(field.alias == name for field in fields.values()):
        return True
    methods = ("_astream", "_stream", "_agenerate", "_generate")
    return any(name in inspect.signature(getattr(model, m)).parameters for m in methods)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


open_stream.__module__ = "langchain_anyio"
