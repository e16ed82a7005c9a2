"""The agent that `--agent MODULE:NAME` names."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from langchain_anyio._runs.langgraph import is_graph, is_remote_graph

if TYPE_CHECKING:
    from collections.abc import Mapping


class BadPathError(Exception):
    """The path names no agent; the message says why."""


def find_agent(path: str) -> object:
    """Return what a path names: a graph, or a function that makes one.

    Raises:
        BadPathError: There is no such module or attribute, or it is something else.
        Exception: The error of the module, which could not be imported.
    """
    module_name, _, name = path.partition(":")
    if not (module_name and name):
        raise BadPathError("it takes MODULE:NAME, such as my_package.agents:agent")
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        missing = exc.name or ""
        if module_name != missing and not module_name.startswith(f"{missing}."):
            raise  # the module itself imports what is missing
        raise BadPathError(
            f"there is no module {missing!r} in this directory or among the installed packages"
        ) from exc
    for part in name.split("."):
        if not hasattr(found, part):
            raise BadPathError(f"{_name_of(found)} has no attribute {part!r}")
        found = getattr(found, part)
    if not (_is_any_graph(found) or _is_factory(found)):
        raise BadPathError(_refusal(found))
    return found


async def make_graph(found: object) -> Any:
    """Return the graph, or that which the function returns.

    Raises:
        BadPathError: It returns something else.
    """
    if _is_any_graph(found):
        return found
    graph = found()  # type: ignore[operator]
    if inspect.isawaitable(graph):
        graph = await graph
    if not _is_any_graph(graph):
        raise BadPathError(f"what it returns is no agent: {_refusal(graph)}")
    return graph


def check_input(graph: Any) -> None:
    """Check that the graph can be given a prompt.

    Raises:
        BadPathError: Its state has no messages.
    """
    if is_remote_graph(graph):
        return  # only the server knows
    fields: Mapping[str, Any] = graph.get_input_jsonschema().get("properties") or {}
    if fields and "messages" not in fields:
        raise BadPathError(f"its input has no 'messages' to put the prompt in, but {list(fields)}")


def value_of_interrupt(interrupt: Any) -> object:
    """Return what a node has passed to `interrupt()`, of a local or a remote graph."""
    return interrupt["value"] if isinstance(interrupt, dict) else interrupt.value


def _is_any_graph(value: object) -> bool:
    graph = getattr(value, "bound", value)  # of `with_config()` and the like
    return is_graph(graph) or is_remote_graph(graph)


def _is_factory(value: object) -> bool:
    if not callable(value):
        return False
    try:
        inspect.signature(value).bind()
    except (TypeError, ValueError):
        return False
    return True


def _refusal(value: object) -> str:
    if callable(getattr(value, "compile", None)):
        return f"{_name_of(value)} is not compiled; use what its compile() returns"
    return f"{_name_of(value)} is no compiled graph, and no function without arguments"


def _name_of(value: object) -> str:
    if inspect.ismodule(value):
        return f"the module {value.__name__!r}"
    return f"an object of type {type(value).__name__!r}"
