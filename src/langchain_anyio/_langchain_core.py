"""The private names of langchain-core that this package uses, each with its reason.

No other module imports one, so this file lists all that a new release of langchain-core can break.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import cached_property
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, final
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackManager
from langchain_core.callbacks import manager as _callbacks_manager
from langchain_core.language_models import BaseChatModel, SimpleChatModel, _compat_bridge

# The chunk converter and the accumulator must agree with langchain-core on which arguments of a
# tool call parse, and a message that a model returned whole is replayed as events.
from langchain_core.language_models._compat_bridge import (
    finalize_tool_call_chunk as finalize_tool_call_chunk,
)
from langchain_core.language_models._compat_bridge import message_to_events as message_to_events

# The processing of arguments in a chat model's public methods, before its own method receives them.
from langchain_core.language_models._utils import (
    _filter_invocation_params_for_tracing,
    _normalize_messages,
)
from langchain_core.language_models.chat_models import (
    _format_for_tracing,
    _format_ls_structured_output,
    _gen_info_and_msg_metadata,
    _generate_response_from_error,
)
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult, LLMResult
from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.runnables.base import RunnableBindingBase

# The steps of a sequence, and the traces of their calls, find their parent run in the context.
from langchain_core.runnables.config import _set_config_context

# Fields that arrive in pieces over several chunks (`function_call`) are merged as in
# `AIMessageChunk`.
from langchain_core.utils._merge import merge_dicts as merge_dicts

try:
    # Metadata for tracing under this key must not reach the message.
    from langchain_core.utils._gateway import (
        GATEWAY_METADATA_RESPONSE_KEY as GATEWAY_METADATA_RESPONSE_KEY,
    )
except ImportError:
    # Releases before 1.6 have no gateway, and their models do not set the key.
    GATEWAY_METADATA_RESPONSE_KEY = "lc_gateway_metadata"

if TYPE_CHECKING:
    from langchain_core.runnables.retry import RunnableRetry
    from tenacity import AsyncRetrying

set_config_context = _set_config_context

# The method by which a chat model called in a graph's run makes events, for itself and for handlers.
EVENTS_FOR_HANDLERS = "_aiter_v2_events"

# Earlier releases made deltas of tool calls in another form, and their streams know no other one.
HAS_TOOL_CALL_DELTAS = not hasattr(_compat_bridge, "_should_emit_delta")


def has_native_events(model: BaseChatModel) -> bool:
    """Return whether the model makes protocol events itself, instead of chunks."""
    return getattr(model, "_astream_chat_model_events", None) is not None


def chunks_of(model: BaseChatModel, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
    """Return the chunks of a model, in whatever way it makes them."""
    return model._astream(*args, **kwargs)


def can_be_read_meanwhile(stream: Any) -> bool:
    """Return whether a consumer may wait for a stream of langchain-core, while a model feeds it.

    The stream by which `ainvoke` assembles a message is not handed out, and has no callback that
    starts a model.
    """
    return getattr(stream.text, "_ensure_started", True) is not None


def generation_info_of(stream: object) -> dict[str, Any] | None:
    """Return the dict in which a stream of langchain-core keeps metadata meant for tracing only."""
    return getattr(stream, "_generation_info", None)


# Frames between a handler and the callback manager that calls it: langchain-core's two, and those
# of subclasses.
_FRAMES_TO_MANAGER = 16


class Caller(NamedTuple):
    """The call of langchain-core's, or another library's, that tells a handler of its start.

    Attributes:
        token: An object that lives as long as the call, and goes when the call is cut off.
        frame: Identifies the frame of the coroutine that makes the call, while `token` lives;
            `None` where the call may go on in another task or after that coroutine.
    """

    token: object
    frame: int | None


def current_caller(run_id: UUID) -> Caller | None:
    """Return the call that tells a handler, in this very task, of the start of the run `run_id`.

    A call that is cut off by a cancellation tells no handler of its end, if it is that of a model,
    a tool or a retriever, or before the first handler was notified. But the callback manager that
    it makes for itself is a local variable of its coroutine, or of a function within it. Elsewhere
    than in langchain-core, a function may make a manager and return what notifies of the run; then
    only that is known to live as long as the run.
    """
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_FRAMES_TO_MANAGER):
        if frame is None:
            return None
        if frame.f_globals is vars(_callbacks_manager) and frame.f_code.co_name in _STARTS:
            break
        frame = frame.f_back
    else:
        return None
    told = frame.f_locals
    manager, caller = told.get("self"), frame.f_back
    if not isinstance(manager, AsyncCallbackManager):
        return None
    if caller is not None and caller.f_globals.get("__name__", "").startswith("langchain_core."):
        code, variables = caller.f_code, caller.f_locals
        own = code.co_flags & inspect.CO_COROUTINE and any(
            variables.get(name) is manager for name in (*code.co_varnames, *code.co_cellvars)
        )
        return Caller(manager, id(caller) if own else None)
    for run_manager in told.get("managers", ()):
        if run_manager.run_id == run_id:
            return Caller(run_manager, None)
    return None


def frames_of_current_task() -> set[int]:
    """Identify the frames on the stack, as `Caller.frame` does."""
    frames: set[int] = set()
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        frames.add(id(frame))
        frame = frame.f_back
    return frames


_STARTS = frozenset(
    (
        "on_chat_model_start",
        "on_llm_start",
        "on_chain_start",
        "on_tool_start",
        "on_retriever_start",
    )
)


@final
class ModelCall:
    """One call of a chat model, with its arguments resolved as in langchain-core.

    Attributes:
        messages: The input for the model's own methods.
        stop: The stop sequences for the model's own methods.
        kwargs: The keyword arguments for the model's own methods.
        callbacks: The handlers, tags and metadata of the call.
        run_id: The id of the run, if the caller gave one.
        serialized: The model, for handlers; like the next two, empty if there is no handler.
        traced: The input, for handlers.
        start: The keyword arguments of the handlers' start methods.
    """

    __slots__ = (
        "callbacks",
        "kwargs",
        "messages",
        "run_id",
        "serialized",
        "start",
        "stop",
        "traced",
    )

    def __init__(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        kwargs: dict[str, Any],
        callbacks: AsyncCallbackManager,
        run_id: UUID | None,
    ) -> None:
        self.messages: list[BaseMessage] = messages
        self.stop: list[str] | None = stop
        self.kwargs: dict[str, Any] = kwargs
        self.callbacks: AsyncCallbackManager = callbacks
        self.run_id: UUID | None = run_id
        self.serialized: dict[str, Any] = {}
        self.traced: list[BaseMessage] = []
        self.start: dict[str, Any] = {}


def prepare_call(
    model: BaseChatModel,
    input: Any,
    config: RunnableConfig | None,
    stop: list[str] | None,
    kwargs: dict[str, Any],
) -> ModelCall:
    """Resolve the arguments of a call as `BaseChatModel.astream_events(version="v3")` does."""
    config = ensure_config(config)
    messages = model._convert_input(input).to_messages()
    kwargs = dict(kwargs)
    # Only for tracing: providers refuse unknown arguments.
    structured = kwargs.pop("ls_structured_output_format", None)
    structured = structured or kwargs.pop("structured_output_format", None)
    params = _Params(lambda: model._get_invocation_params(stop=stop, **kwargs))
    callbacks = AsyncCallbackManager.configure(
        config.get("callbacks"),
        model.callbacks,
        model.verbose,
        config.get("tags"),
        model.tags,
        {
            **(config.get("metadata") or {}),
            **model._get_ls_params_with_defaults(stop=stop, **kwargs),
        },
        model.metadata,
        langsmith_inheritable_metadata=params,
    )
    call = ModelCall(
        messages=_normalize_messages(messages),
        stop=stop,
        kwargs=kwargs,
        callbacks=callbacks,
        run_id=config.get("run_id"),
    )
    if callbacks.handlers:
        made = params.made
        call.serialized = model._serialized
        call.traced = _format_for_tracing(messages)
        call.start = {
            "invocation_params": made,
            "options": {
                "stop": stop,
                **{key: made[key] for key in kwargs if key in made},
                **_format_ls_structured_output(structured),
            },
            "name": config.get("run_name"),
            "batch_size": 1,
        }
    return call


class _Params(Mapping[str, Any]):
    """The parameters of a call, without the large ones, for tracers; computed when first read."""

    def __init__(self, make: Callable[[], dict[str, Any]]) -> None:
        self._make = make

    @cached_property
    def made(self) -> dict[str, Any]:
        """All the parameters."""
        return self._make()

    @cached_property
    def _filtered(self) -> dict[str, Any]:
        return _filter_invocation_params_for_tracing(self.made)

    def __bool__(self) -> bool:
        return True  # a truth test must not compute them

    def __getitem__(self, key: str) -> Any:
        return self._filtered[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._filtered)

    def __len__(self) -> int:
        return len(self._filtered)


class Source(NamedTuple):
    """The method of a model that produces its answer.

    Attributes:
        gives: The results of the method: protocol events, chunks, or the whole answer.
        blocking: Whether the method is sync and has to run in a worker thread.
        name: The method's name.
        method: The method.
    """

    gives: Literal["events", "chunks", "answer"]
    blocking: bool
    name: str
    method: Callable[..., Any]


def source_of(model: BaseChatModel, kwargs: dict[str, Any]) -> Source:
    """Choose the method that produces the answer: streaming before others, and async before sync.

    The methods of `BaseChatModel` itself are left out: they need asyncio and only call the others.
    """
    cls = type(model)
    gives: Literal["events", "chunks", "answer"] = "answer"
    blocking = False
    streams = model.disable_streaming is not True and not (
        model.disable_streaming == "tool_calling" and kwargs.get("tools")
    )
    if streams and hasattr(model, "_astream_chat_model_events"):
        gives, name = "events", "_astream_chat_model_events"
    elif streams and cls._astream is not BaseChatModel._astream:
        gives, name = "chunks", "_astream"
    elif streams and cls._stream is not BaseChatModel._stream:
        gives, blocking, name = "chunks", True, "_stream"
    elif streams and hasattr(model, "_stream_chat_model_events"):
        gives, blocking, name = "events", True, "_stream_chat_model_events"
    elif cls._agenerate not in (BaseChatModel._agenerate, SimpleChatModel._agenerate):
        name = "_agenerate"
    else:
        blocking, name = True, "_generate"
    method = getattr(model, name)
    if gives == "answer" and not _takes(method, "run_manager"):
        return Source(gives, blocking, name, _without_run_manager(method))
    return Source(gives, blocking, name, method)


def _takes(method: Callable[..., Any], parameter: str) -> bool:
    return parameter in inspect.signature(method).parameters


def _without_run_manager(method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, run_manager: object, **kwargs: Any) -> Any:
        del run_manager
        return method(*args, **kwargs)

    return call


def answer_of(result: ChatResult) -> AIMessage:
    """Return the message of a model that does not stream, with metadata as from `ainvoke`."""
    generation = result.generations[0]
    message = generation.message
    if not isinstance(message, AIMessage):
        raise TypeError(
            f"the model's _generate must return an AIMessage, not {type(message).__name__}"
        )
    metadata = _gen_info_and_msg_metadata(generation)
    if len(result.generations) == 1 and result.llm_output is not None:
        metadata = {**result.llm_output, **metadata}
    return message.model_copy(update={"response_metadata": metadata})


def end_response(message: AIMessage, generation_info: dict[str, Any]) -> LLMResult:
    """Return the response for `on_llm_end`."""
    return LLMResult(
        generations=[[ChatGeneration(message=message, generation_info=generation_info or None)]]
    )


def error_response(error: BaseException, generation_info: dict[str, Any]) -> LLMResult:
    """Return the response for `on_llm_error`, from the provider's response if the error has one."""
    generations = _generate_response_from_error(error)
    if generation_info:
        if not generations:
            generations = [ChatGeneration(message=AIMessage(content=""))]
        generations[0].generation_info = {
            **generation_info,
            **(generations[0].generation_info or {}),
        }
    return LLMResult(generations=[list(generations)] if generations else [])


def bound_config(
    binding: RunnableBindingBase[Any, Any], config: RunnableConfig | None
) -> RunnableConfig:
    """Return the config that a binding passes on when it is called with `config`."""
    return binding._merge_configs(config)


def retrying_of(
    retry: RunnableRetry[Any, Any],
    has_begun: Callable[[], bool],
    sleep: Callable[[float], Awaitable[None]],
) -> AsyncRetrying:
    """Return tenacity's iterator over the attempts that `with_retry()` asks for.

    There is no other attempt once `has_begun()`.
    """
    retrying = retry._async_retrying(reraise=True, sleep=sleep)
    wanted = retrying.retry
    retrying.retry = lambda state: not has_begun() and wanted(state)
    return retrying


def needs_asyncio() -> bool:
    """Return whether langchain-core's async functions, as installed, run on asyncio only."""
    return vars(_callbacks_manager).get("asyncio") is sys.modules.get("asyncio")
