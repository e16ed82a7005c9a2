"""Resolution of a runnable to the chat model, sequence or graph to run."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import (
    Runnable,
    RunnableBinding,
    RunnableConfig,
    RunnableSequence,
)
from langchain_core.runnables.configurable import DynamicRunnable

from langchain_anyio._langchain_core import bound_config

from .langgraph import is_graph, is_remote_graph

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableWithFallbacks
    from langchain_core.runnables.retry import RunnableRetry


class Target(NamedTuple):
    """The runnable inside the bindings that the user gave: a model, a chain of one, or a graph.

    Attributes:
        runnable: The model, the sequence, the retries, the fallbacks or the graph.
        config: The config to call it with.
        bound: The keyword arguments bound to it.
    """

    runnable: Runnable[Any, Any]
    config: RunnableConfig | None
    bound: dict[str, Any]


def resolve(model: object, config: RunnableConfig | None) -> Target:
    """Follow bindings and configurable models down to what is inside.

    Raises:
        TypeError: This is no chat model, does not end in one, and is no graph.
    """
    runnable, bound = model, dict[str, Any]()
    while True:
        if isinstance(runnable, BaseChatModel):
            return Target(runnable, config, bound)
        if is_graph(runnable) or is_remote_graph(runnable):
            return Target(cast("Runnable[Any, Any]", runnable), config, bound)
        if isinstance(runnable, RunnableSequence):
            _check_inner(model, "ends in", (runnable.last,), config)
            return Target(runnable, config, bound)
        if is_fallbacks(runnable):
            _check_inner(model, "has among its fallbacks", tuple(runnable.runnables), config)
            return Target(runnable, config, bound)
        if is_retry(runnable):
            _check_inner(model, "retries", (runnable.bound,), config)
            return Target(runnable, config, bound)
        if isinstance(runnable, DynamicRunnable):
            runnable, config = runnable.prepare(config)
        elif isinstance(runnable, RunnableBinding):
            config = bound_config(runnable, config)
            bound = {**runnable.kwargs, **bound}
            runnable = runnable.bound
        elif type(runnable).__name__ == "_ConfigurableModel":
            # langchain's init_chat_model() returns this if the config is to name the model. There
            # is no public way to get the model from it, and langchain is not a dependency.
            runnable = cast("Any", runnable)._model(config)
        else:
            raise _unsupported(model, "" if runnable is model else "is around", runnable)


def models_in(target: Target) -> Iterator[BaseChatModel]:
    """Yield the chat models that may answer."""
    runnable: Any = target.runnable
    if isinstance(runnable, BaseChatModel):
        yield runnable
    elif isinstance(runnable, RunnableSequence):
        yield from models_in(resolve(runnable.last, target.config))
    elif is_retry(runnable):
        yield from models_in(resolve(runnable.bound, target.config))
    elif is_fallbacks(runnable):
        for each in runnable.runnables:
            yield from models_in(resolve(each, target.config))


def is_retry(runnable: object) -> TypeGuard[RunnableRetry[Any, Any]]:
    """Return whether `runnable` is what `with_retry()` returns."""
    return _is_instance(runnable, "langchain_core.runnables.retry", "RunnableRetry")


def is_fallbacks(runnable: object) -> TypeGuard[RunnableWithFallbacks[Any, Any]]:
    """Return whether `runnable` is what `with_fallbacks()` returns."""
    return _is_instance(runnable, "langchain_core.runnables.fallbacks", "RunnableWithFallbacks")


def _is_instance(value: object, module: str, name: str) -> bool:
    # langchain-core imports these modules when they are first used, because it takes long.
    cls = getattr(sys.modules.get(module), name, None)
    return cls is not None and isinstance(value, cls)


def _check_inner(
    model: object, relation: str, inner: Iterable[object], config: RunnableConfig | None
) -> None:
    """Raise `TypeError` if one of the runnables in `model` does not end in a chat model."""
    for runnable in inner:
        try:
            inside = resolve(runnable, config).runnable
            if not (is_graph(inside) or is_remote_graph(inside)):
                continue
        except TypeError:
            pass
        raise _unsupported(model, relation, runnable)


def _unsupported(model: object, relation: str = "", inner: object = None) -> TypeError:
    given = f", not a {_name(model)}"
    if relation:
        given = f"; this {_name(model)} {relation} a {_name(inner)}"
    way_out = (
        "; stream any other chain with its astream(), on trio after langchain_anyio.enable_trio(), "
        "or stream the model inside it and go on from its message"
        if isinstance(model, Runnable)
        else ""
    )
    return TypeError(
        "model must be a chat model (a BaseChatModel), one with bind(), bind_tools(), "
        "with_config(), with_retry(), with_fallbacks() or configurable fields, a sequence that "
        "ends in one (prompt | model), or a compiled graph or RemoteGraph of langgraph's"
        f"{given}{way_out}"
    )


def _name(value: object) -> str:
    return type(value).__name__
