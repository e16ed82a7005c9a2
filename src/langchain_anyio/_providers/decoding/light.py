"""Objects that stand in for the models of an SDK, and make the model when more is asked of them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from collections.abc import Callable


@lru_cache(maxsize=256)
def _names_of(cls: type) -> frozenset[str]:
    return frozenset(dir(cls))


class Light:
    """An object with the fields of a model as its attributes.

    Everything else is the model's own; it is made when first asked for.
    """

    __slots__ = ("__dict__", "_make", "_model_class")

    _make: Callable[[], Any]
    _model_class: type

    @property
    def __class__(self) -> Any:
        return self._model_class

    @__class__.setter
    def __class__(self, value: Any) -> None:
        raise TypeError

    def __getattr__(self, name: str) -> Any:
        # Most names that are asked for and not there are not the model's either.
        if name in _names_of(self._model_class):
            return getattr(self._make(), name)
        raise AttributeError(f"{self._model_class.__name__!r} object has no attribute {name!r}")

    def __eq__(self, other: object) -> bool:
        return bool(self._make() == (other._make() if isinstance(other, Light) else other))

    __hash__ = None  # type: ignore[assignment]  # as of the models

    def __repr__(self) -> str:
        return repr(self._make())

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._make().__reduce_ex__(protocol)


@final
class LightFlat(Light):
    """A `Light` whose fields hold no models."""

    __slots__ = ()

    def model_dump(self, **options: Any) -> Any:
        return self._make().model_dump(**options) if options else dict(self.__dict__)


def light(
    cls: type[Light], fields: dict[str, Any], model_class: type, make: Callable[[], Any]
) -> Light:
    """Return an object that stands in for a model.

    Args:
        cls: The class of the object.
        fields: The model's fields, which become the object's own dictionary.
        model_class: The class of the model.
        make: Makes the model.
    """
    result = object.__new__(cls)
    result.__dict__ = fields
    result._model_class = model_class
    result._make = make
    return result


@final
class LightDict(dict[str, Any]):
    """The result of a model's `model_dump()`, which also has the model's attributes."""

    __slots__ = ("_make",)

    _make: Callable[[], Any]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._make(), name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (dict(self),)
