"""Resolution of a runnable to the chat model, sequence or graph to run."""

from __future__ import annotations

from typing import Any, cast, final

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import (
    Runnable,
    RunnableBinding,
    RunnableConfig,
    RunnableSequence,
)
from langchain_core.runnables.configurable import DynamicRunnable

from langchain_anyio._langchain_core import bound_config

from .langgraph import is_graph


@final
class Target:
    """A chat model, a sequence that ends in one, or a graph, without the bindings around it.

    Attributes:
        runnable: The model, the sequence or the graph.
        config: The config to call it with.
        bound: The keyword arguments bound to it.
    """

    __slots__ = ("bound", "config", "runnable")

    def __init__(
        self,
        runnable: BaseChatModel | RunnableSequence[Any, Any] | Runnable[Any, Any],
        config: RunnableConfig | None,
        bound: dict[str, Any],
    ) -> None:
        self.runnable: BaseChatModel | RunnableSequence[Any, Any] | Runnable[Any, Any] = runnable
        self.config: RunnableConfig | None = config
        self.bound: dict[str, Any] = bound


def resolve(model: object, config: RunnableConfig | None) -> Target:
    """Follow bindings and configurable models down to the chat model, the sequence or the graph.

    Raises:
        TypeError: The innermost runnable is none of these, or the sequence does not end in a
            chat model.
    """
    runnable, bound = model, dict[str, Any]()
    while True:
        if isinstance(runnable, BaseChatModel):
            return Target(runnable, config, bound)
        if is_graph(runnable):
            return Target(cast("Runnable[Any, Any]", runnable), config, bound)
        if isinstance(runnable, RunnableSequence):
            try:
                if is_graph(resolve(runnable.last, config).runnable):
                    raise TypeError
            except TypeError:
                raise _unsupported(model, f" that ends in a {_name(runnable.last)}") from None
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
            raise _unsupported(model, "" if runnable is model else f" around a {_name(runnable)}")


def _unsupported(model: object, detail: str) -> TypeError:
    way_out = (
        "; stream the model inside it and go on from its message"
        if isinstance(model, Runnable)
        else ""
    )
    return TypeError(
        "model must be a chat model (a BaseChatModel), one with bind(), bind_tools(), "
        "with_config() or configurable fields, a sequence that ends in one (prompt | model), or a "
        "compiled graph of langgraph's, "
        f"not a {_name(model)}{detail}{way_out}"
    )


def _name(value: object) -> str:
    return type(value).__name__
