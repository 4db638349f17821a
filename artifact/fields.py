"""Reads a JSON object field by field, so that an error names the field, what was expected and what was found."""

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

MISSING = object()
_TYPE_NAMES = {str: "a string", int: "an integer", float: "a number", dict: "an object", list: "a list"}


class ManifestError(ValueError):
    """A manifest does not have the shape that is expected.

    Attributes:
        field: Dotted path of the offending field, `files.model.sha256`.
    """

    def __init__(self, field: str, expected: str, found: object) -> None:
        super().__init__(f"manifest field `{field}`: expected {expected}, found {_shown(found)}")
        self.field = field


class Fields:
    """The fields of one JSON object that have not been read yet.

    Reading a field removes it; `rest` gives what nobody asked for, which is how unknown fields survive a round trip.
    """

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, Mapping):
            raise ManifestError(path or "(top level)", "an object", value)
        self._values = dict(value)
        self._path = path

    def name(self, key: str) -> str:
        """The dotted path of a field of this object."""
        return f"{self._path}.{key}" if self._path else key

    def take(self, key: str, kind: type[T]) -> T:
        """Read a field that must be there and be of `kind` (a JSON type)."""
        if key not in self._values:
            raise ManifestError(self.name(key), _TYPE_NAMES[kind], MISSING)
        return checked(self._values.pop(key), kind, self.name(key))

    def optional(self, key: str, kind: type[T]) -> T | None:
        """Read a field that may be absent or null."""
        value = self._values.pop(key, None)
        return None if value is None else checked(value, kind, self.name(key))

    def rest(self) -> dict[str, Any]:
        """The fields that were not read."""
        return dict(self._values)


def checked(value: object, kind: type[T], name: str) -> T:
    """The value if it is of the JSON type `kind`; booleans are no integers, integers are numbers."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)  # type: ignore[return-value]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ManifestError(name, _TYPE_NAMES[kind], value)
    return value


def _shown(found: object) -> str:
    if found is MISSING:
        return "nothing"
    text = repr(found)
    return text if len(text) <= 80 else text[:77] + "..."
