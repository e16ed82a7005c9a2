"""`enable_trio` and `disable_trio`: putting the namespace into the modules of a library, and taking it out."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import packages_distributions
from types import ModuleType
from typing import Any, Final

from ._langgraph import NAMESPACES_OF_LANGGRAPH
from ._namespace import NAMESPACE, NAMESPACE_OF_HANDLERS, ON_TRIO, Namespace
from ._running import on_trio
from ._wrapping import libraries, wrappers

LANGCHAIN_CORE: Final = "langchain_core"
# Covered wherever they are installed. langgraph's checkpointers, stores and prebuilt agents are part of its namespace;
# langchain has langsmith trace the middleware of its agents. A retriever's embeddings use no asyncio, but a client of
# their own that belongs to one event loop.
COVERED: Final = (
    LANGCHAIN_CORE,
    "langsmith",
    "langgraph",
    "langchain",
    "langchain_openai.embeddings",
)

# Modules of langchain-core that call callback handlers.
_OF_HANDLERS: Final = frozenset({"langchain_core.callbacks.manager", "langchain_core.tracers.base"})

_lock = threading.RLock()
# What was put where, in order, and what had been there.
_changes: dict[str, list[tuple[Any, str, Any]]] = {}


def enable(packages: Sequence[str]) -> None:
    """Enable the packages that are always covered and some more; those that are enabled already stay so."""
    for package in packages:
        _check(package)
    with _lock:
        if _FINDER not in sys.meta_path:
            sys.meta_path.insert(0, _FINDER)
        for package in (*COVERED, *packages):
            if package not in _changes:
                changes = _changes[package] = []
                try:
                    # A copy in one step: other threads may be importing.
                    for name, module in sys.modules.copy().items():
                        if _within(name, package):
                            _change(module, changes)
                except BaseException:
                    _undo(_changes.pop(package))
                    raise
                libraries.add(package)


def _check(package: object) -> None:
    """Refuse what is not the import name of a package or module."""
    if not isinstance(package, str):
        raise TypeError(
            f"enable_trio() takes import names, each a str of its own, not {type(package).__name__}: {package!r}"
        )
    if not all(part.isidentifier() for part in package.split(".")):
        raise ValueError(f"enable_trio({package!r}): not an import name{_hint(package)}")
    if isinstance(sys.modules.get(package), ModuleType):
        return  # `__main__` and modules made by hand have no spec
    try:
        found = importlib.util.find_spec(package) is not None
    except ModuleNotFoundError as exc:
        # What one of its parents imports may be missing too, which is another matter.
        if exc.name is None or not _within(package, exc.name):
            raise
        found = False
    except ValueError:  # of what `sys.modules` has without being a module
        found = False
    if not found:
        raise ModuleNotFoundError(
            f"enable_trio({package!r}): no package named {package!r} is installed{_hint(package)}",
            name=package,
        )


def _hint(package: str) -> str:
    """Return the import names of a distribution, as the end of a sentence."""
    names = [
        name
        for name, distributions in packages_distributions().items()
        if package.lower().replace("-", "_") in (d.lower().replace("-", "_") for d in distributions)
        and name != package
    ]
    if not names and (name := package.replace("-", "_")) != package and name.isidentifier():
        names = [name]
    return f"; import name: {', '.join(sorted(names))}" if names else ""


def disable() -> None:
    """Undo `enable`."""
    with _lock:
        if _FINDER in sys.meta_path:
            sys.meta_path.remove(_FINDER)
        libraries.clear()
        while _changes:
            _undo(_changes.popitem()[1])


def _undo(changes: list[tuple[Any, str, Any]]) -> None:
    for place, name, original in reversed(changes):
        setattr(place, name, original)


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _change(module: ModuleType, changes: list[tuple[Any, str, Any]]) -> None:
    """Put the namespace, and the wrappers, into a module."""
    for place, name, value in _replacements(module):
        # From the dictionary, where a class method is one; bases are not in it.
        changes.append((place, name, vars(place).get(name) or getattr(place, name)))
        setattr(place, name, value)


def _namespace_of(module: str) -> Namespace:
    if module in _OF_HANDLERS:
        return NAMESPACE_OF_HANDLERS
    return NAMESPACES_OF_LANGGRAPH.get(module, NAMESPACE)


def _replacements(module: ModuleType) -> Iterator[tuple[Any, str, Any]]:
    namespace = _namespace_of(module.__name__)
    for name, value in list(vars(module).items()):
        if value is asyncio:
            yield module, name, namespace
        elif (asyncio_name := _imported(value)) is not None:
            yield module, name, _portable(asyncio_name, namespace)
        elif isinstance(value, type) and value.__module__ == module.__name__:
            bases = tuple(_PORTABLE_CLASSES.get(base, base) for base in value.__bases__)
            if bases != value.__bases__:
                yield value, "__bases__", bases
    yield from wrappers(module)


# For `from asyncio import ...` and for base classes: asyncio's classes, which the portable ones are subclasses of.
_PORTABLE_CLASSES: Final[dict[Any, Any]] = {
    getattr(asyncio, name): ON_TRIO[name]
    for name in ("Condition", "Event", "Lock", "Queue", "Semaphore")
}
_NAMES: Final[dict[int, str]] = {
    id(getattr(asyncio, name)): name for name in ON_TRIO if hasattr(asyncio, name)
}


def _imported(value: object) -> str | None:
    """Return asyncio's name for something, where it is one that means something else on trio."""
    return _NAMES.get(id(value))


def _portable(name: str, namespace: Namespace) -> Any:
    """Return what can stand for a name for good, whatever runs when it is used."""
    original = getattr(asyncio, name)
    if original in _PORTABLE_CLASSES:
        return _PORTABLE_CLASSES[original]

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(namespace, name)(*args, **kwargs)

    if isinstance(original, type):
        return original if name in {"Future", "Task"} else call
    call.__name__ = call.__qualname__ = name
    call.__doc__ = original.__doc__
    return call


class _Finder(MetaPathFinder):
    """Has the modules of the enabled packages changed as they are imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package = next((p for p in _changes if _within(fullname, p)), None)
        if package is None:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    # The loader stays what it is, for all those who ask it for its source.
                    loader: Any = spec.loader
                    loader.exec_module = _changing(loader.exec_module, package)
                return spec
        return None


def _changing(
    exec_module: Callable[[ModuleType], None], package: str
) -> Callable[[ModuleType], None]:
    def exec_and_change(module: ModuleType) -> None:
        exec_module(module)
        with _lock:
            if package in _changes:
                _change(module, _changes[package])

    return exec_and_change


_FINDER: Final = _Finder()


def is_enabled_here() -> bool:
    """Tell whether langchain-core runs natively where the caller is."""
    return LANGCHAIN_CORE in _changes and on_trio()
