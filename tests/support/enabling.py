"""Looks for what `enable_trio()` has put into modules; run as a program, in the order that it is given, into the real ones.

`python enabling.py STEP...`: each step enables, or imports a package. Then graphs run on asyncio and on trio, all is
disabled, and what was changed, and what is left, is written as JSON.
"""

from __future__ import annotations

import importlib
import json
import operator
import sys
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Annotated, Any

from typing_extensions import TypedDict

import langchain_anyio

if TYPE_CHECKING:
    from collections.abc import Iterator

OURSELVES = "langchain_anyio"
MODULES = (
    "langchain_core.runnables",
    "langchain_core.language_models",
    "langgraph.graph",
    "langgraph.func",
    "langgraph.prebuilt",
    "langgraph.store.memory",
    "langgraph.checkpoint.memory",
    "langchain.agents",
    "langsmith",
    "langchain_openai",
    "langchain_classic.agents",
)
PACKAGES = ("langchain_openai", "langchain_classic")


def values_of_modules(within: str = "") -> Iterator[tuple[str, Any]]:
    """Find what the modules of others have, and their classes: a path, and the value."""
    for name, module in sys.modules.copy().items():
        if name.partition(".")[0] in (OURSELVES, "enabling") or within not in name:
            continue
        try:
            names = object.__getattribute__(module, "__dict__")
        except AttributeError:
            continue
        spec = names.get("__spec__")
        if isinstance(module, ModuleType):
            yield f"{name}.__spec__", spec
            yield f"{name}.__loader__", names.get("__loader__")
            yield f"{name}.__spec__.loader", getattr(spec, "loader", None)
            for attribute, value in vars(getattr(spec, "loader", None) or object).items():
                yield f"{name}.__spec__.loader.{attribute}", value
        for key, value in list(names.items()):
            yield f"{name}.{key}", value
            if issubclass(type(value), type) and value.__module__ == name:
                for number, base in enumerate(value.__bases__):
                    yield f"{name}.{key}.__bases__[{number}]", base
                for attribute, of_class in list(vars(value).items()):
                    yield f"{name}.{key}.{attribute}", of_class


def is_ours(value: Any, depth: int = 3) -> bool:
    """Return whether a value is this package's own, or a function that was made with one that is."""
    if type(value) in (classmethod, staticmethod):
        value = value.__func__
    code = value.__code__ if type(value) is FunctionType else None
    if code and value.__module__ == OURSELVES:
        return False  # public
    if code and f"/{OURSELVES}/" in code.co_filename.replace("\\", "/"):
        return True
    module = value.__module__ if issubclass(type(value), type) else type(value).__module__
    if isinstance(module, str) and module.partition(".")[0] == OURSELVES:
        return True
    if not code or not depth:
        return False
    inner = [value.__dict__.get("__wrapped__"), *(value.__defaults__ or ())]
    inner += (value.__kwdefaults__ or {}).values()
    for cell in value.__closure__ or ():
        try:
            inner.append(cell.cell_contents)
        except ValueError:
            continue
    return any(is_ours(part, depth - 1) for part in inner)


def left_behind(within: str = "") -> list[str]:
    """Return the places where anything of this package is in a module of others."""
    return sorted({path for path, value in values_of_modules(within) if is_ours(value)})


class State(TypedDict):
    seen: Annotated[list[str], operator.add]


async def a(state: State) -> Any:
    return {"seen": ["a"]}


async def b(state: State) -> Any:
    return {"seen": ["b"]}


def graphs() -> dict[str, Any]:
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import START, StateGraph

    one = StateGraph(State).add_node("a", a).add_edge(START, "a")
    two = StateGraph(State).add_node("a", a).add_node("b", b)
    two = two.add_edge(START, "a").add_edge(START, "b")
    return {
        "one": one.compile(),
        "two": two.compile(),
        "saved": one.compile(checkpointer=InMemorySaver()),
    }


async def run_graphs() -> Any:
    config: Any = {"configurable": {"thread_id": "1"}}
    results = {}
    for name, graph in graphs().items():
        results[name] = (await graph.ainvoke({"seen": []}, config))["seen"]
        async with langchain_anyio.open_stream(graph, {"seen": []}, config) as stream:
            results[f"{name} streamed"] = (await stream.output())["seen"]
    return results


def main() -> None:
    import asyncio

    import trio

    for step in sys.argv[1:]:
        if step == "enable":
            langchain_anyio.enable_trio()
        elif step == "packages":
            langchain_anyio.enable_trio(*PACKAGES)
        elif step == "disable":
            langchain_anyio.disable_trio()
        else:
            for name in MODULES:
                if name.partition(".")[0] == step or step == "import":
                    importlib.import_module(name)
    report = {"asyncio": asyncio.run(run_graphs()), "trio": trio.run(run_graphs)}
    enabled = dict(values_of_modules())
    langchain_anyio.disable_trio()
    report["changed"] = sorted(
        path for path, value in values_of_modules() if enabled.get(path) is not value
    )
    report["left"] = left_behind()
    report["disabled"] = asyncio.run(run_graphs())
    print(json.dumps(report))


if __name__ == "__main__":
    main()
