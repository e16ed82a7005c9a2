"""Shapes of the data that the SDKs' models take as it is, read from the models themselves.

The SDKs construct their models without validation. Data whose every field is known and of the type
that it is annotated with goes through such a model and comes out of its `model_dump()` equal,
except that fields that are missing have their defaults.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, Final, Literal, Union, final, get_args, get_origin

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_UNIONS: Final = (Union, types.UnionType)
NONE: Final = type(None)


class UnknownModelError(Exception):
    """A model is not as this package knows it."""


@final
class Shape:
    """The data that a model takes as it is.

    Args:
        model: The SDK's model.
        nested: Fields with models in them, and the types of their data. Whoever calls `accepts`
            checks what is within.
        extras: Fields that the model does not know and servers send, with the types of their data.
        fixed: Fields that are accepted with one of some values only.
        required: The fields that the model must have, which is otherwise not known.

    Raises:
        UnknownModelError: A default is not `None`, or a required field is not there.
    """

    __slots__ = ("_required", "_types", "_values", "template")

    def __init__(
        self,
        model: Any,
        *,
        nested: Mapping[str, Iterable[type]] = types.MappingProxyType({}),
        extras: Mapping[str, Iterable[type]] = types.MappingProxyType({}),
        fixed: Mapping[str, Iterable[Any]] = types.MappingProxyType({}),
        required: Iterable[str] = (),
    ) -> None:
        fields = model.model_fields
        if not fields.keys() >= {*required}:
            raise UnknownModelError(model)
        self.template: dict[str, None] = {}
        self._types: dict[str, frozenset[type]] = {
            key: frozenset(allowed) for key, allowed in extras.items() if key not in fields
        }
        self._values: dict[str, frozenset[Any]] = {}
        required_names: list[str] = []
        for name, field in fields.items():
            if field.alias is not None:
                raise UnknownModelError(model)
            # In the order of the fields, which `model_dump()` keeps.
            self.template[name] = None
            if field.is_required():
                required_names.append(name)
            elif field.default is not None:
                raise UnknownModelError(model)
            if name in nested:
                self._types[name] = frozenset(nested[name])
            elif name in fixed:
                self._add_values(name, fixed[name])
            else:
                self._add(name, field.annotation)
        self._required = frozenset(required_names)

    def _add(self, name: str, annotation: Any) -> None:
        options = get_args(annotation) if get_origin(annotation) in _UNIONS else (annotation,)
        literals = [option for option in options if get_origin(option) is Literal]
        if literals:
            values = {value for literal in literals for value in get_args(literal)}
            self._add_values(name, values | {None} if NONE in options else values)
            return
        self._types[name] = frozenset(options) & {str, int, bool, NONE}

    def _add_values(self, name: str, values: Iterable[Any]) -> None:
        self._values[name] = frozenset(values)
        self._types[name] = frozenset(map(type, self._values[name]))

    def accepts(self, data: dict[str, Any]) -> bool:
        """Return whether the model takes this data as it is, but for what is nested."""
        types_of = self._types
        for key, value in data.items():
            allowed = types_of.get(key)
            if allowed is None or type(value) not in allowed:
                return False
            if key in self._values and value not in self._values[key]:
                return False
        return self._required <= data.keys()
