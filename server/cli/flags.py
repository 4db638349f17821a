"""Flags of the command line, generated from the settings."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from server.settings import CONFIG_VARIABLE, Network, Settings, flag, load_settings, variable

_PREFIX = "setting_"


def add_setting_flags(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Give a command a flag for each of these settings, and `--config`."""
    group = parser.add_argument_group(
        "settings",
        f"A flag wins over the environment variable {variable('name').replace('NAME', '<NAME>')}, which wins over the "
        "file, which wins over the default.",
    )
    group.add_argument(
        "--config",
        type=Path,
        default=None,
        metavar="FILE",
        help=f"TOML file with settings by their names; also {CONFIG_VARIABLE}.",
    )
    for name in names:
        field = Settings.model_fields[name]
        text = f"{field.description} Default: {default_text(field)}.".replace("%", "%%")
        options: dict[str, Any] = {"dest": _PREFIX + name, "default": argparse.SUPPRESS, "help": text}
        if field.annotation is bool:
            group.add_argument(flag(name), action=argparse.BooleanOptionalAction, **options)
        elif is_list(field):
            group.add_argument(flag(name), action="append", metavar=type_text(field), **options)
        else:
            group.add_argument(flag(name), metavar=type_text(field), **options)


def settings_from(arguments: argparse.Namespace) -> Settings:
    """The settings of a command: its flags, the environment, the file.

    Raises:
        InvalidSettingsError: Something is unknown, wrong or contradictory.
    """
    given = {key.removeprefix(_PREFIX): value for key, value in vars(arguments).items() if key.startswith(_PREFIX)}
    return load_settings(given, arguments.config)


def is_list(field: FieldInfo) -> bool:
    """Whether a setting takes several values."""
    return get_origin(field.annotation) is tuple


def type_text(field: FieldInfo) -> str:
    """The values of a setting in a word: `NUMBER`, `PATH`, `auto|cpu|cuda`."""
    kind = _bare(field.annotation)
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if is_list(field):
        kind = get_args(kind)[0]
        if get_origin(kind) is Literal:
            return "|".join(map(str, get_args(kind)))
        if kind in (str, Network):
            return "[NAME=]DIR" if kind is str else "CIDR"
        return "NUMBER" if _bare(kind) is int else "TEXT"
    words: dict[object, str] = {bool: "true|false", int: "NUMBER", float: "NUMBER", Path: "PATH"}
    return words.get(kind, "TEXT")


def default_text(field: FieldInfo) -> str:
    """The default of a setting, for people."""
    if field.default is None or field.default == ():
        return "none" if is_list(field) or _bare(field.annotation) is Path else "by the machine"
    if is_list(field):
        return ", ".join(map(str, field.default))
    if isinstance(field.default, bool):
        return "true" if field.default else "false"
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default)


def _bare(annotation: object) -> object:
    """The type without `| None` and without constraints."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    inner = [argument for argument in get_args(annotation) if argument is not NoneType]
    if NoneType in get_args(annotation) and len(inner) == 1:
        return _bare(inner[0])
    return annotation
