"""Install the namespace in the modules of a library, and remove it again.

The implementation of `enable_trio` and `disable_trio`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import importlib.util
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, distribution
from types import ModuleType
from typing import Any, Final, NamedTuple, cast

from langchain_anyio._backends.asyncio_notes import libraries
from langchain_anyio._providers.table import EMBEDDINGS
from langchain_anyio._providers.within_runs import BoundWithinRuns

from . import namespace as _namespace
from .asyncio_api.awaited_at_once import TRANSPARENT
from .asyncio_api.threadsafe import standing_for
from .langgraph import NAMESPACES_OF_LANGGRAPH
from .namespace import NAMESPACE, NAMESPACE_OF_HANDLERS, ON_TRIO, PORTABLE, Namespace
from .originals import Replaced, all_originals, keep_original, original_of
from .running_backend import on_trio
from .wrappers import wrapped_in_class, wrapped_in_module

LANGCHAIN_CORE: Final = "langchain_core"
# Covered wherever they are installed. langgraph's checkpointers, stores and prebuilt agents are
# part of its namespace package, and its SDK runs remote graphs; langchain has langsmith trace the
# middleware of its agents. A retriever's embeddings have a client of their own that belongs to one
# event loop. Models of Cohere and OpenRouter use asyncio in the SDKs of these alone.
COVERED: Final = (
    LANGCHAIN_CORE,
    "langsmith",
    "langgraph",
    "langgraph_sdk",
    "langchain",
    "langchain_classic",
    "deepagents",
    "langchain_mcp_adapters",
    "fastmcp",
    "langchain_openai",
    "langchain_mistralai",
    "langchain_aws",
    "cohere",
    "openrouter",
    *sorted({path.rpartition(".")[0] for path in EMBEDDINGS}),
)

# Modules of langchain-core that call callback handlers.
_OF_HANDLERS: Final = frozenset({"langchain_core.callbacks.manager", "langchain_core.tracers.base"})


class _Change(NamedTuple):
    place: Any  # a module or a class
    name: str
    original: Any
    replacement: Any


_lock = threading.RLock()
_enabled: set[str] = set()
# By the place's identity and the name. When a module is executed again, its changes are made again.
_changes: dict[tuple[int, str], _Change] = {}


def enable(packages: Sequence[str]) -> None:
    """Enable `COVERED` and `packages`; packages that are enabled already stay so."""
    for package in packages:
        _check(package)
    with _lock:
        new = {*COVERED, *packages} - _enabled
        before = len(_changes)
        try:
            # First, so that other threads' imports go through the finder from now on.
            _enabled.update(new)
            libraries.update(new)
            if _FINDER not in sys.meta_path:
                sys.meta_path.insert(0, _FINDER)
            for module in _loaded(new):
                _watch(module)
                _change(module)
        except BaseException:
            _enabled.difference_update(new)
            libraries.difference_update(new)
            if not _enabled:
                sys.meta_path.remove(_FINDER)
            _undo(list(_changes)[before:])
            raise


def disable() -> None:
    """Undo `enable`."""
    with _lock:
        if _FINDER in sys.meta_path:
            sys.meta_path.remove(_FINDER)
        _enabled.clear()
        libraries.clear()
        _undo(list(_changes))
        # Other modules may have imported replacements from those that were changed.
        ours = all_originals()
        for name, module in sys.modules.copy().items():
            if not _within(name, _OURSELVES):
                _restore(module, ours)


_OURSELVES: Final = __name__.partition(".")[0]


def _check(package: object) -> None:
    """Raise an error unless `package` is the import name of a package or module."""
    if not isinstance(package, str):
        raise TypeError(
            "enable_trio() takes import names, each a str of its own, not "
            f"{type(package).__name__}: {package!r}"
        )
    if not all(part.isidentifier() for part in package.split(".")):
        raise ValueError(f"enable_trio({package!r}): not an import name{_hint(package)}")
    if isinstance(sys.modules.get(package), ModuleType):
        return  # `__main__` and modules made by hand have no spec
    try:
        found = importlib.util.find_spec(package) is not None
    except ModuleNotFoundError as exc:
        # A module that one of its parents imports may be missing too, which is another error.
        if exc.name is None or not _within(package, exc.name):
            raise
        found = False
    except ValueError:  # an entry of `sys.modules` that is not a module
        found = False
    if not found:
        raise ModuleNotFoundError(
            f"enable_trio({package!r}): no package named {package!r} is installed{_hint(package)}",
            name=package,
        )


def _import_names(name: str) -> set[str]:
    """Return the top-level import names in the distribution of that name, however it is spelled."""
    try:
        files = (distribution(name).files if name else None) or ()
    except (PackageNotFoundError, ValueError):
        return set()
    # `packages_distributions()` finds those of few distributions on Python 3.10.
    tops = {path.parts[0].removesuffix(".py") for path in files if path.suffix == ".py"}
    return {top for top in tops if top.isidentifier()}


def _hint(package: str) -> str:
    """Return the import names of a distribution, phrased as the end of a sentence.

    They often differ by a hyphen or by capital letters, and sometimes altogether.
    """
    names = sorted(_import_names(package) - {package})
    if names:
        are = "name is" if len(names) == 1 else "names are"
        return f"; {package} is a distribution; its import {are} {', '.join(names)}"
    name = re.sub("[-.]+", "_", package)
    if name != package and name.isidentifier() and "-" in package:
        return f"; if it is a distribution, its import name may be {name}"
    return ""


def _loaded(packages: AbstractSet[str]) -> Iterator[ModuleType]:
    """Yield the loaded modules of packages, including those that other threads add meanwhile.

    The latter may have been found before the finder was installed.
    """
    seen: set[str] = set()
    while True:
        # A copy in one step: other threads may be importing.
        new = {
            name: module
            for name, module in sys.modules.copy().items()
            if name not in seen and _within_any(name, packages)
        }
        if not new:
            return
        seen.update(new)
        for module in new.values():
            if isinstance(module, ModuleType):  # it may be `None`, which forbids an import
                yield module


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _within_any(name: str, packages: AbstractSet[str]) -> bool:
    # Asked of each loaded module, and of each one that is imported: by the name's parents, of which
    # there are few, and not by the packages.
    while name not in packages:
        name = name.rpartition(".")[0]
        if not name:
            return False
    return True


def _is_enabled(name: str) -> bool:
    return _within_any(name, _enabled)


def _change(module: ModuleType) -> None:
    """Put the namespace and the wrappers into a module.

    The replacement is chosen by the original value. Where the module imported a value from a module
    that was changed already, that value is a replacement itself, and its original is used.
    """
    for place, name, standing in _values(module):
        change = _changes.get((id(place), name))
        if change is not None and standing is change.replacement:
            continue
        original = _original(name, standing)
        replacement = _replacement(place, name, original)
        if replacement is not original:
            if name != "__bases__":
                keep_original(replacement, original)
            _changes[id(place), name] = _Change(place, name, original, replacement)
        if replacement is not standing:
            setattr(place, name, replacement)


def _values(module: ModuleType) -> Iterator[tuple[Any, str, Any]]:
    """Yield the place, the name and the value of all attributes of a module and its classes."""
    for name, value in list(vars(module).items()):
        yield module, name, value
        if _is_class_of(value, module.__name__):
            # Before its methods, as wrapping them may depend on the base classes.
            yield value, "__bases__", value.__bases__
            for attribute, of_class in list(vars(value).items()):
                # Read from the dictionary, where a class method is a `classmethod`.
                yield value, attribute, of_class


def _is_class_of(value: Any, module: object) -> bool:
    # Not `isinstance`, which a proxy may answer by asking the object behind it.
    return issubclass(type(value), type) and value.__module__ == module


def _original(name: str, value: Any) -> Any:
    if isinstance(value, BoundWithinRuns):
        value = value.method
    if name != "__bases__":
        return original_of(value)
    bases = tuple(map(original_of, value))
    return value if bases == value else bases


def _replacement(place: Any, name: str, original: Any) -> Any:
    if isinstance(place, type):
        if name != "__bases__":
            return wrapped_in_class(place, name, original)
        bases = tuple(_PORTABLE_CLASSES.get(base, base) for base in original)
        return original if bases == original else bases
    namespace = _namespace_of(place.__name__)
    if original is asyncio:
        return namespace
    if (asyncio_name := _imported(original)) is not None:
        return _portable(asyncio_name, namespace)
    return wrapped_in_module(place, name, original)


def _undo(keys: list[tuple[int, str]]) -> None:
    for key in reversed(keys):
        place, name, original, replacement = _changes[key]
        # A value that other code has put there since is left alone.
        if (place.__bases__ if name == "__bases__" else vars(place).get(name)) is replacement:
            setattr(place, name, original)
        del _changes[key]


def _restore(module: ModuleType, ours: dict[int, Replaced]) -> None:
    """Replace all replacements in a module and its classes by their originals."""
    try:
        # This neither loads a lazy module nor asks a proxy for one.
        names = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return
    values = list(names.values())
    if not ours.keys().isdisjoint(map(id, values)):
        for name, value in list(names.items()):
            # A module with a namespace under the name that it has in this package has imported it
            # from there.
            if id(value) in ours and vars(_namespace).get(name) is not value:
                names[name] = ours[id(value)].original
    for cls in values:
        if _is_class_of(cls, names.get("__name__")):
            bases = cls.__bases__
            if not ours.keys().isdisjoint(map(id, bases)):
                cls.__bases__ = tuple(map(original_of, bases))
            for name, value in list(vars(cls).items()):
                if id(value) in ours or type(value) in _METHODS:
                    original = original_of(value)
                    if original is not value:
                        type.__setattr__(cls, name, original)
            if dataclasses.is_dataclass(cls):
                _restore_factories(cls, ours)


def _restore_factories(cls: Any, ours: dict[int, Replaced]) -> None:
    """Restore the default factories of a dataclass, which its `__init__` refers to itself."""
    for field in dataclasses.fields(cls):
        if id(field.default_factory) in ours:
            field.default_factory = ours[id(field.default_factory)].original
    for cell in getattr(vars(cls).get("__init__"), "__closure__", None) or ():
        try:
            value = cell.cell_contents
        except ValueError:  # empty
            continue
        if id(value) in ours:
            cell.cell_contents = ours[id(value)].original


_METHODS: Final = (classmethod, staticmethod)


def _namespace_of(module: str) -> Namespace:
    if module in _OF_HANDLERS:
        return NAMESPACE_OF_HANDLERS
    return NAMESPACES_OF_LANGGRAPH.get(module, NAMESPACE)


# For `from asyncio import ...` and for base classes: asyncio's classes, and the portable subclasses
# that replace them.
_PORTABLE_CLASSES: Final[dict[Any, Any]] = {
    getattr(asyncio, name): ON_TRIO[name] for name in PORTABLE
}
for _original_class, _portable_class in _PORTABLE_CLASSES.items():
    keep_original(_portable_class, _original_class)
_NAMES: Final[dict[int, str]] = {
    id(getattr(asyncio, name)): name for name in ON_TRIO if hasattr(asyncio, name)
}


def _imported(value: object) -> str | None:
    """Return asyncio's name for a value if it means something else on trio, else `None`."""
    return _NAMES.get(id(value))


@functools.cache
def _portable(name: str, namespace: Namespace) -> Any:
    """Return a permanent stand-in for a name, which picks the object whenever it is used."""
    original = getattr(asyncio, name)
    if original in _PORTABLE_CLASSES:
        return _PORTABLE_CLASSES[original]

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(namespace, name)(*args, **kwargs)

    if isinstance(original, type):
        return original if name in {"Future", "Task"} else standing_for(original, ON_TRIO[name])
    TRANSPARENT.add(call.__code__)
    call.__name__ = call.__qualname__ = name
    call.__doc__ = original.__doc__
    return call


class _Finder(MetaPathFinder):
    """Finder that changes the modules of the enabled packages as they are imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not _is_enabled(fullname):
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = cast("Any", _ChangingLoader(spec.loader))
                return spec
        return None


_FINDER: Final = _Finder()


class _ChangingLoader:
    """Loader that changes a module once it has been executed, and else delegates to the original.

    The original loader is not modified, as many modules may share it. The module has that loader
    from its execution on.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_loader"), name)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        if spec is not None and spec.loader is cast("Any", self):
            spec.loader = self._loader
        if module.__loader__ is cast("Any", self):
            module.__loader__ = self._loader
        # Executing a module again rebinds its names, up to where it fails.
        again = "__builtins__" in vars(module)
        try:
            self._loader.exec_module(module)
        except BaseException:
            if again:
                _finish(module)
            raise
        _finish(module)


def _finish(module: ModuleType) -> None:
    """Change a module that has been executed.

    If its package was disabled meanwhile, the module gets the originals of what it imported from
    other modules instead.
    """
    with _lock:
        if _is_enabled(module.__name__):
            _change(module)
        else:
            _restore(module, all_originals())


class _SpecInExecution(ModuleSpec):
    """Spec of a module that was being imported when its package was enabled.

    It notices the end of the import, and then changes the module again.
    """

    @property
    def _initializing(self) -> bool:
        return bool(vars(self)["_initializing"])

    @_initializing.setter
    def _initializing(self, value: bool) -> None:
        module = sys.modules.get(self.name)
        if not value and module is not None and module.__spec__ is self:
            _finish(module)
        vars(self)["_initializing"] = value
        if not value:
            cast("Any", self).__class__ = ModuleSpec


def _watch(module: ModuleType) -> None:
    """Change a module again when its import ends, if it is being imported by any thread."""
    spec = module.__spec__
    if type(spec) is ModuleSpec and getattr(spec, "_initializing", False):
        spec.__class__ = _SpecInExecution
        if not cast("Any", spec)._initializing:  # it has ended meanwhile
            spec.__class__ = ModuleSpec


def is_enabled_here() -> bool:
    """Return whether the caller runs on trio and langchain-core is enabled."""
    return LANGCHAIN_CORE in _enabled and on_trio()
