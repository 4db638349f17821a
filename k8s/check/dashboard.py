"""A dashboard against Grafana's own types, as its Python package has them."""

import enum
import importlib
import json
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any


def problems(document: Mapping[str, Any]) -> Iterator[str]:
    """What of a dashboard Grafana's types do not know, and what has another type than theirs.

    Args:
        document: As Grafana exports it.
    """
    plugins: Any = importlib.import_module("grafana_foundation_sdk.cog.plugins")
    encoder: Any = importlib.import_module("grafana_foundation_sdk.cog.encoder")
    dashboard: Any = importlib.import_module("grafana_foundation_sdk.models.dashboard")
    plugins.register_default_plugins()  # the types of panels and of queries
    read = dashboard.Dashboard.from_json(document)
    yield from unlike(read, dashboard.Dashboard, "dashboard")
    yield from lost(document, json.loads(encoder.JSONEncoder().encode(read)), "dashboard")


def lost(before: object, after: object, where: str) -> Iterator[str]:
    """What was read and is not written again: fields that are none."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name, value in before.items():
            if name not in after:
                yield f"{where}: found {name}, which is no field"
            else:
                yield from lost(value, after[name], f"{where}.{name}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from lost(one, other, f"{where}[{index}]")
    elif before != after:
        yield f"{where}: found {before!r:.60}, which is read as {after!r:.60}"


def unlike(value: Any, hint: Any, where: str) -> Iterator[str]:  # noqa: ANN401 - whatever JSON has
    """Values that are not of the types that a class of the package declares."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        said = [list(unlike(value, other, where)) for other in inside]
        if all(said):  # of the one that comes closest: what is wrong with it is deepest
            yield from max(said, key=lambda found: len(found[0].partition(":")[0]))
    elif not _is(value, hint):
        yield f"{where}: expected {hint}, found {value!r:.60}"
    else:
        for name, entry, declared in _members(value, inside):
            yield from unlike(entry, declared, f"{where}{name}")


def _members(value: Any, inside: tuple[Any, ...]) -> Iterator[tuple[str, Any, Any]]:  # noqa: ANN401
    """What is in a value: how it is reached, itself, and its type."""
    if isinstance(value, list) and inside:
        yield from ((f"[{index}]", entry, inside[0]) for index, entry in enumerate(value))
    elif isinstance(value, dict) and inside:
        yield from ((f".{name}", entry, inside[1]) for name, entry in value.items())
    elif hasattr(value, "from_json"):
        hints = typing.get_type_hints(type(value))
        yield from ((f".{name}", getattr(value, name), declared) for name, declared in hints.items())


def _is(value: object, hint: Any) -> bool:  # noqa: ANN401
    """Whether a value is of a type, whatever is inside of it."""
    kind = typing.get_origin(hint) or hint
    if kind is typing.Literal:
        return value in typing.get_args(hint)
    if kind in (Any, object):
        return True
    if issubclass(kind, enum.Enum):
        return value in [member.value for member in kind]
    if isinstance(value, bool) and kind is not bool:
        return False
    return isinstance(value, int | float if kind is float else kind)
