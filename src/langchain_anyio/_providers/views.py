"""Views of a pydantic model: objects that share its state, except for some attributes."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable, Mapping
from copy import copy, deepcopy
from functools import lru_cache
from types import MemberDescriptorType
from typing import Any, Final, TypeVar, cast

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)

ABSENT: Final = object()

_State = tuple[Any, Mapping[str, Callable[[Any], Any]], Callable[[], bool], "type | None"]

_own_dict: Final[Any] = vars(BaseModel)["__dict__"]


def view_of(
    model: M,
    shown: Mapping[str, Callable[[Any], Any]],
    applies: Callable[[], bool],
    *,
    below: type | None = None,
) -> M:
    """Return a view of a model that shows other values for some of its attributes.

    Everything else is the model's own: what the view's methods set, change or delete is set,
    changed or deleted on the model, whether it is a field, a private attribute, an extra or an item
    of `__dict__` or `__slots__`, and the model and all its views see it at once. A view is an
    instance of the model's class, equals the model, has the model's hash if that has one, and is
    pickled as the model. A copy of a view is a view of a copy of the model.

    Outside pydantic's contract there are differences: `type(view)` is a subclass, which equals the
    model's class and passes on attributes that are set on it; `view is model` is false; and a weak
    reference to the view ends with the view.

    Args:
        model: The model.
        shown: For each attribute name, a function that takes the stored value, or `ABSENT` if there
            is none, and returns the value to show.
        applies: Returns whether the view differs from the model where it is called.
        below: A class with further methods, whose place in the method resolution order is after the
            classes that derive from its base.
    """
    view: Any = object.__new__(_view_class(type(model), frozenset(shown), below))
    # Python itself looks attributes up here; several objects may share one dictionary.
    _own_dict.__set__(view, model.__dict__)
    object.__setattr__(view, "_view_state", (model, shown, applies, below))
    return cast("M", view)


def viewed(model: M) -> M:
    """Return the model behind a view, or the model itself if it is not a view."""
    return cast("M", _state(model)[0]) if isinstance(model, _View) else model


def is_view(model: object) -> bool:
    """Return whether `model` is a view that applies where this is called."""
    return isinstance(model, _View) and _state(model)[2]()


def mixin_of(base: type, methods: Mapping[str, Any]) -> type:
    """Return a class for `view_of(below=...)` whose methods replace those of `base`.

    `super()` in the classes that derive from `base` reaches them.
    """
    namespace = {"__slots__": (), "__module__": base.__module__, **methods}
    # Made without a pydantic schema, and hidden from hooks that record subclasses.
    bases = (_Unnoted, base)
    return cast("type", ABCMeta.__new__(cast("Any", type(base)), base.__name__, bases, namespace))


class _Unnoted:
    """Hides a class from hooks that record the subclasses of a model's class."""

    __slots__ = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        pass


class _View:
    """Base class of views; the class of a view derives from this and from its model's class."""

    __slots__ = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Do nothing, as that of `_Unnoted`; always found before that of the model's class."""

    def __copy__(self) -> Any:
        model, shown, applies, below = _state(self)
        return view_of(copy(model), shown, applies, below=below)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Any:
        model, shown, applies, below = _state(self)
        return view_of(deepcopy(model, memo), shown, applies, below=below)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _state(self)[0].__reduce_ex__(protocol)

    def __eq__(self, other: object) -> bool:
        return bool(_state(self)[0] == (_state(other)[0] if isinstance(other, _View) else other))

    __hash__ = None  # type: ignore[assignment]  # a model's class may have one


class _Shown:
    """Descriptor of an attribute of a view that differs from the model's."""

    __slots__ = ("_base", "_name")

    def __init__(self, base: type, name: str) -> None:
        self._base = base
        self._name = name

    def __get__(self, view: Any, owner: type | None = None) -> Any:
        if view is None:
            return getattr(self._base, self._name)
        model, shown, applies, _ = _state(view)
        if applies():
            value = shown[self._name](model.__dict__.get(self._name, ABSENT))
            if value is not ABSENT:
                return value
        return getattr(model, self._name)

    def __set__(self, view: Any, value: Any) -> None:
        object.__setattr__(_state(view)[0], self._name, value)

    def __delete__(self, view: Any) -> None:
        object.__delattr__(_state(view)[0], self._name)


class _Slot:
    """Descriptor of a slot of the model's class, in a view."""

    __slots__ = ("_slot",)

    def __init__(self, slot: MemberDescriptorType) -> None:
        self._slot = slot

    def __get__(self, view: Any, owner: type | None = None) -> Any:
        return self._slot if view is None else self._slot.__get__(_state(view)[0])

    def __set__(self, view: Any, value: Any) -> None:
        self._slot.__set__(_state(view)[0], value)

    def __delete__(self, view: Any) -> None:
        self._slot.__delete__(_state(view)[0])


def _state(view: Any) -> _State:
    state: _State = object.__getattribute__(view, "_view_state")
    return state


def _dict_of(view: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", _state(view)[0].__dict__)


def _set_dict(view: Any, value: dict[str, Any]) -> None:
    object.__setattr__(_state(view)[0], "__dict__", value)
    _own_dict.__set__(view, value)


# Bounded, so that temporary classes can be collected.
@lru_cache(maxsize=256)
def _view_class(base: type, names: frozenset[str], below: type | None) -> type:
    def new(_cls: type, *args: Any, **kwargs: Any) -> Any:
        return base(*args, **kwargs)  # `type(view)(...)` makes a model

    def construct(_cls: type, *args: Any, **kwargs: Any) -> Any:
        return cast("Any", base).model_construct(*args, **kwargs)

    namespace: dict[str, Any] = {
        "__slots__": ("_view_state",),
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__class__": property(lambda _self: base),
        "__dict__": property(_dict_of, _set_dict),
        "__new__": new,
        "model_construct": classmethod(construct),
    }
    if base.__hash__ is not None:
        namespace["__hash__"] = lambda self: hash(_state(self)[0])
    if hasattr(base, "__del__"):
        namespace["__del__"] = lambda _self: None  # the model does not end with a view
    for cls in base.__mro__:
        for name, value in vars(cls).items():
            if isinstance(value, MemberDescriptorType):
                namespace.setdefault(name, _Slot(value))
    for name in names:
        namespace[name] = _Shown(base, name)
    if getattr(base, "model_config", {}).get("validate_assignment"):
        namespace["__getattribute__"] = _getattribute_of(base)
    bases: tuple[type, ...] = (_View, base)
    if below is not None:
        bases = (_View, below) if issubclass(below, base) else (_View, base, below)
    # Not by pydantic's metaclass, which would build a schema.
    view: Any = ABCMeta.__new__(cast("Any", type(base)), base.__name__, bases, namespace)

    # As dictionary keys, and for code that sets class attributes, both classes are the same.
    metaclass: Any = type(
        type(base).__name__,
        (type(base),),
        {
            "__eq__": lambda cls, other: other is cls or other is base,
            "__hash__": lambda _cls: hash(base),
            "__setattr__": lambda _cls, name, value: setattr(base, name, value),
            "__delattr__": lambda _cls, name: delattr(base, name),
        },
    )
    view.__class__ = metaclass
    return cast("type", view)


def _getattribute_of(base: type) -> Callable[[Any, str], Any]:
    """Return a `__getattribute__` for models whose `__dict__` is replaced at each assignment."""
    inherited: Any = base.__getattribute__

    def __getattribute__(view: Any, name: str) -> Any:  # noqa: N807
        current = _dict_of(view)
        if _own_dict.__get__(view) is not current:
            _own_dict.__set__(view, current)
        return inherited(view, name)

    return __getattribute__
