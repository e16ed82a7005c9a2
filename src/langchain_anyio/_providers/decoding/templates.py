"""Events that equal an earlier one but for some strings and numbers, made without parsing JSON.

Nearly all events of an answer are such. Where the text around these values is the same, character
by character, the rest of the event is what it was, as JSON has no other context.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    # Keys and indices, from the event to a value within it.
    Path = tuple[str | int, ...]
    # Makes what stands in for an event from its values, and from what makes the SDK's model.
    Build = Callable[[list[Any], Callable[[], Any]], Any]

_parse_at: Final = json.JSONDecoder().raw_decode
_skip_space: Final = re.compile(r"[ \t\r\n]*").match


class UnfitError(Exception):
    """An event is no template."""


@final
class Template:
    """The text of an event around the values that differ from event to event.

    Args:
        name: The event's name.
        text: The event's text, an object that was parsed without an error.
        types: The type of each value that may differ, by its path.

    Attributes:
        paths: The paths of the values, in the order of the text.
        build: Makes what stands in for an event.

    Raises:
        UnfitError: The event has none of the values, or a key twice.
    """

    __slots__ = ("_begin", "_name", "_values", "build", "paths")

    def __init__(self, name: str | None, text: str, types: Mapping[Path, type]) -> None:
        places = [place for place in _places(text) if types.get(place[0]) is place[1]]
        if not places:
            raise UnfitError
        self.paths: list[Path] = [place[0] for place in places]
        self.build: Build | None = None
        self._name = name
        self._begin = text[: places[0][2]]
        ends = [*(place[2] for place in places[1:]), len(text)]
        # The type of each value, and the text from it to the next one.
        self._values = [
            (kind, text[end:next_begin])
            for (_, kind, _, end), next_begin in zip(places, ends, strict=True)
        ]

    def values_in(self, name: str | None, text: str) -> list[Any] | None:
        """Return the values of an event; `None` if anything else in it differs."""
        if name != self._name or not text.startswith(self._begin):
            return None
        values, at = [], len(self._begin)
        try:
            for kind, following in self._values:
                value, at = _parse_at(text, at)
                if type(value) is not kind or not text.startswith(following, at):
                    return None
                values.append(value)
                at += len(following)
        except (ValueError, RecursionError):
            return None  # raised again for the whole text
        return values if at == len(text) else None


def _places(text: str) -> Iterable[tuple[Path, type, int, int]]:
    """Return the path, type, begin and end of each value in an object that is not a container.

    Raises:
        UnfitError: A key comes twice.
    """
    found: list[tuple[Path, type, int, int]] = []

    def skip(at: int) -> int:
        match = _skip_space(text, at)
        assert match is not None
        return match.end()

    def walk(at: int, path: Path) -> int:
        opening = text[at]
        if opening not in "{[":
            value, end = _parse_at(text, at)
            found.append((path, type(value), at, end))
            return end
        keys: list[str | int] = []
        at = skip(at + 1)
        while text[at] not in "}]":
            key: str | int = len(keys)
            if opening == "{":
                key, at = _parse_at(text, at)
                if key in keys:
                    raise UnfitError
                at = skip(skip(at) + 1)
            keys.append(key)
            at = skip(walk(at, (*path, key)))
            if text[at] == ",":
                at = skip(at + 1)
        return at + 1

    walk(0, ())
    return found


# Events of a kind that come before one is taken as a template, and templates of a stream.
_MANY: Final = 3
_MOST: Final = 4


@final
class Templates:
    """The templates of one stream, in the order of their last use.

    Args:
        types: The type of each value that may differ, by its path.
        builder: Returns what makes events like the given one, whose values have the given paths.
    """

    __slots__ = (
        "_alike",
        "_builder",
        "_parsed",
        "_patience",
        "_templates",
        "_types",
        "_unlike",
    )

    def __init__(
        self, types: Mapping[Path, type], builder: Callable[[Any, list[Path]], Build]
    ) -> None:
        self._types = types
        self._builder = builder
        self._templates: list[Template] = []
        self._parsed: tuple[str | None, str, Any] | None = None
        # How many events were like a template, and like none, since the last one was made, and how
        # many of the latter are let pass before the next one is made.
        self._alike = 0
        self._unlike = 0
        self._patience = _MANY

    def parse(self, name: str | None, text: str, make: Callable[[Any], Any]) -> Any:
        """Return what stands in for an event, if it is like a template, or else its data.

        Args:
            name: The event's name.
            text: The event's text.
            make: Makes the SDK's model of an event's data.
        """
        templates = self._templates
        for template in templates:
            values = template.values_in(name, text)
            if values is not None:
                self._alike += 1
                if template is not templates[0]:
                    templates.remove(template)
                    templates.insert(0, template)
                assert template.build is not None
                return template.build(values, lambda: make(json.loads(text)))
        data = json.loads(text)
        self._parsed = name, text, data
        return data

    def note(self, data: Any, light: Any) -> None:
        """Take an event as a template, if it is time to.

        Args:
            data: The event's data, as returned by the last call of `parse()`.
            light: What stands in for the event.
        """
        parsed, self._parsed = self._parsed, None
        if parsed is None or parsed[2] is not data:
            return
        self._unlike += 1
        if self._unlike < self._patience:
            return
        # Some servers' events are never alike.
        self._patience = _MANY if self._alike >= 2 * _MANY else 2 * self._patience
        self._alike = self._unlike = 0
        name, text, _ = parsed
        try:
            template = Template(name, text, self._types)
        except UnfitError:
            return
        template.build = self._builder(light, template.paths)
        self._templates = [template, *self._templates[: _MOST - 1]]


def copies(prototype: Any, paths: list[Path]) -> Callable[[list[Any]], Any]:
    """Return a function that copies a value of JSON, with other values at the given paths.

    Containers are copied, too.

    Args:
        prototype: An object, a dictionary.
        paths: Paths to values in it that are no containers.
    """
    plan = _plan(prototype, {path: number for number, path in enumerate(paths)}, ())
    return lambda values: _copy(plan, values)


# A container, the containers in it by key, and the values to replace by key.
_Plan = tuple[Any, list[tuple[Any, Any]], list[tuple[Any, int]]]


def _plan(node: Any, numbers: Mapping[Path, int], path: Path) -> _Plan:
    items = list(node.items() if isinstance(node, dict) else enumerate(node))
    children = [
        (key, _plan(value, numbers, (*path, key)))
        for key, value in items
        if isinstance(value, (dict, list))
    ]
    replaced = [
        (key, number) for key, _ in items if (number := numbers.get((*path, key))) is not None
    ]
    return node, children, replaced


def _copy(plan: _Plan, values: list[Any]) -> Any:
    node, children, replaced = plan
    new = node.copy()
    for key, child in children:
        new[key] = _copy(child, values)
    for key, number in replaced:
        new[key] = values[number]
    return new
