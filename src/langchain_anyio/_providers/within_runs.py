"""Models and embeddings that are called within a run of this package, such as in a graph's nodes.

Nodes call the public methods of their models, without this package. So while any such run goes on,
these methods of the models' base classes are descriptors: within a run they bind to the model for
the current event loop, and elsewhere as before. `enable_trio()` wraps the same methods, and its
wrappers do this too.
"""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from langchain_core.language_models import BaseChatModel

from langchain_anyio._backends.current import backend

from .table import EMBEDDINGS, for_current_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# The public methods that lead to a provider's own methods; `ainvoke` and `abatch` call these.
OF_MODELS: Final = ("agenerate", "astream")
OF_CHAT_MODELS: Final = (*OF_MODELS, "astream_events")
OF_EMBEDDINGS: Final = ("aembed_documents", "aembed_query")

# Set on functions that do this themselves.
CHOOSES_CLIENT: Final = "_langchain_anyio_chooses_client"

_within_run: ContextVar[bool] = ContextVar("langchain_anyio_within_run", default=False)


class BoundWithinRuns:
    """A method that is bound to the object for the current event loop, if within a run."""

    __slots__ = ("method",)

    def __init__(self, method: Any) -> None:
        self.method = method

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is not None and _within_run.get() and is_in_loop():
            instance = for_current_loop(instance)
        return self.method.__get__(instance, owner)


def is_in_loop() -> bool:
    """Return whether the caller runs on an event loop."""
    # A synchronous node runs in a worker thread, with the context of its run.
    try:
        backend()
    except RuntimeError:
        return False
    return True


# Of all threads.
_lock = threading.Lock()
_runs = 0
_bound: list[tuple[Any, str, BoundWithinRuns]] = []


@contextmanager
def models_on_this_loop(
    more: Mapping[str, Callable[[Any], BoundWithinRuns]] | None = None,
) -> Iterator[None]:
    """Let the models that are called in this context use HTTP clients of their event loop.

    Enter it in a task of the run's own, whose context the run's other tasks inherit.

    Args:
        more: Other descriptors for methods of `BaseChatModel`, by their names.
    """
    global _runs
    token = _within_run.set(True)
    with _lock:
        _runs += 1
        _bind_all()
        for name, make in (more or {}).items():
            _bind(BaseChatModel, name, make)
    try:
        yield
    finally:
        with _lock:
            _runs -= 1
            if _runs == 0:
                _unbind_all()
        _within_run.reset(token)


def within_run() -> bool:
    """Return whether this context is that of a run."""
    return _within_run.get()


def _bind_all() -> None:
    for method in OF_CHAT_MODELS:
        _bind(BaseChatModel, method)
    paths = {"langchain_core.language_models.llms.BaseLLM": OF_MODELS}
    for path, methods in {**paths, **dict.fromkeys(EMBEDDINGS, OF_EMBEDDINGS)}.items():
        module, _, name = path.rpartition(".")
        cls = getattr(sys.modules.get(module), name, None)
        for method in methods if isinstance(cls, type) else ():
            _bind(cls, method)


def _bind(cls: Any, name: str, make: Callable[[Any], BoundWithinRuns] = BoundWithinRuns) -> None:
    # From the dictionary, as an attribute of the class a descriptor returns the method.
    method = vars(cls).get(name)
    if method is None or isinstance(method, BoundWithinRuns) or hasattr(method, CHOOSES_CLIENT):
        return
    bound = make(method)
    setattr(cls, name, bound)
    _bound.append((cls, name, bound))


def _unbind_all() -> None:
    for cls, name, bound in _bound:
        # What other code has put there since is left alone.
        if vars(cls).get(name) is bound:
            setattr(cls, name, bound.method)
    _bound.clear()
