"""Find the names of asyncio that a package uses, in its source and without importing it."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast


class Use(NamedTuple):
    """One use of asyncio.

    Attributes:
        file: The file of the module.
        line: The line number in the file.
        name: The name, such as `gather`; for an attribute, with the kind of its object:
            `loop.create_future`, `task.cancel`.
    """

    file: Path
    line: int
    name: str


def uses(package: str) -> Iterator[Use]:
    """Yield the uses of asyncio's names, and of the attributes of loops, tasks and futures."""
    for path, tree in _sources(package):
        modules = {alias for alias, name in _imports(tree) if name is None}
        for alias, name in _imports(tree):
            if name is not None:
                yield Use(path, _line_of(tree, alias), name)
        for scope in _scopes(tree):
            kinds = _kinds(scope, modules)
            for node in ast.walk(scope):
                if not isinstance(node, ast.Attribute):
                    continue
                if _is_asyncio(node.value, modules):
                    yield Use(path, node.lineno, node.attr)
                elif kind := _kind(node.value, modules, kinds):
                    yield Use(path, node.lineno, f"{kind}.{node.attr}")


def out_of_reach(package: str) -> Iterator[Use]:
    """Yield the uses of asyncio that another namespace in a package's modules does not reach.

    These are the names that are bound by an import within a function, or by an import of a module
    inside asyncio; the class `CancelledError` imported by its name, which cannot be another one on
    trio; and objects of asyncio in the default value of a parameter.
    """
    for path, tree in _sources(package):
        names = {alias for alias, _ in _imports(tree)}
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for statement in ast.walk(node):
                    if any(_OF_ASYNCIO(name) for name in _imported_by(statement)):
                        yield Use(
                            path,
                            cast("ast.stmt", statement).lineno,
                            f"{ast.unparse(statement)} in a function",
                        )
            for name in _imported_by(node):
                if name.startswith("asyncio.") or name == "asyncio CancelledError":
                    yield Use(path, cast("ast.stmt", node).lineno, ast.unparse(node))
            if isinstance(node, ast.arguments):
                for default in (*node.defaults, *filter(None, node.kw_defaults)):
                    if any(isinstance(n, ast.Name) and n.id in names for n in ast.walk(default)):
                        yield Use(path, default.lineno, f"{ast.unparse(default)} as a default")


_OF_ASYNCIO = re.compile(r"asyncio\b").match


def _imported_by(node: ast.AST) -> list[str]:
    """Return the modules that a statement imports; for names from a module, `"module name"`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [f"{node.module} {alias.name}" for alias in node.names]
    return []


def _sources(package: str) -> Iterator[tuple[Path, ast.Module]]:
    spec = importlib.util.find_spec(package)
    if spec is None:
        return
    places = spec.submodule_search_locations
    files = (
        (path for place in places for path in sorted(Path(place).rglob("*.py")))
        if places is not None
        else [Path(spec.origin)]
        if spec.origin
        else []
    )
    for path in files:
        source = path.read_bytes()
        if b"asyncio" in source:
            yield path, ast.parse(source, str(path))


def _imports(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """Yield the imports from asyncio: the alias, and the name or `None` for asyncio itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "asyncio":
                    yield alias.asname or "asyncio", None
        elif isinstance(node, ast.ImportFrom) and node.module == "asyncio" and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, alias.name


def _line_of(tree: ast.Module, alias: str) -> int:
    return next(
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.module == "asyncio"
        and any((name.asname or name.name) == alias for name in node.names)
    )


def _scopes(tree: ast.Module) -> Iterator[ast.AST]:
    """Split a module into its classes, its functions and the rest.

    A name is taken to mean one thing in each of them.
    """
    rest = ast.Module([], [])
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node
        else:
            rest.body.append(node)
    yield rest


def _is_asyncio(node: ast.AST, modules: set[str]) -> bool:
    return isinstance(node, ast.Name) and node.id in modules


_KINDS = {
    "create_task": "task",
    "ensure_future": "task",
    "shield": "task",
    "create_future": "task",
    "Task": "task",
    "Future": "task",
    "get_event_loop": "loop",
    "get_running_loop": "loop",
    "AbstractEventLoop": "loop",
}


def _kinds(scope: ast.AST, modules: set[str]) -> dict[str, str]:
    """Return the kind, loop or task (or future), of the variables and attributes in a scope."""
    kinds: dict[str, str] = {}
    for _ in range(3):  # a kind may come from a variable whose own is found further down
        for node in ast.walk(scope):
            if isinstance(node, ast.Assign):
                kind = _kind(node.value, modules, kinds)
                targets = node.targets
            elif isinstance(node, ast.AnnAssign):
                kind = _annotated(node.annotation, modules)
                targets = [node.target]
            elif isinstance(node, ast.arg):
                kind = _annotated(node.annotation, modules) if node.annotation else None
                targets = [ast.Name(node.arg)]
            else:
                continue
            for target in targets:
                if kind and (key := _key(target)):
                    kinds[key] = kind
    return kinds


def _key(node: ast.AST) -> str | None:
    if isinstance(node, (ast.Name, ast.Attribute)):
        return ast.unparse(node)
    return None


def _kind(node: ast.AST, modules: set[str], kinds: dict[str, str]) -> str | None:
    """Return the kind of an expression: `"loop"`, `"task"` for a task or future, or `None`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if (
            _is_asyncio(node.func.value, modules)
            or _kind(node.func.value, modules, kinds) == "loop"
        ):
            return _KINDS.get(node.func.attr)
        return None
    key = _key(node)
    return kinds.get(key) if key else None


def _annotated(node: ast.AST, modules: set[str]) -> str | None:
    """Return the kind in an annotation; `asyncio.Task[None] | None` is a task, a set is not."""
    if isinstance(node, ast.BinOp):
        return _annotated(node.left, modules) or _annotated(node.right, modules)
    if isinstance(node, ast.Subscript):
        return _annotated(node.value, modules)
    if isinstance(node, ast.Attribute) and _is_asyncio(node.value, modules):
        return _KINDS.get(node.attr)
    if isinstance(node, ast.Name) and node.id == "AbstractEventLoop":
        return "loop"
    return None
