"""Options of a command line as changes of a frozen configuration, so that a run that goes on can tell what is new."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

Config = TypeVar("Config", bound=Any)


@dataclass(frozen=True)
class Setting:
    """One option.

    Attributes:
        option: Its name among the parsed arguments, where None means that it was not named.
        decides: The configuration's fields that depend on it.
        change: From a configuration and the option's value to another configuration.
        free: Whether it may change when a run goes on, without being asked for twice.
    """

    option: str
    decides: frozenset[str]
    change: Callable[[Any, Any], Any]
    free: bool = False

    @property
    def flag(self) -> str:
        return "--" + self.option.replace("_", "-")


def made(option: str, field: str, make: Callable[[Any], object], free: bool = False) -> Setting:
    """An option from whose value a field is made."""
    return Setting(option, frozenset({field}), lambda config, value: replace(config, **{field: make(value)}), free)


def plain(option: str, field: str | None = None, free: bool = False) -> Setting:
    """An option whose value is the field's, by default of the same name."""
    return made(option, field or option, lambda value: value, free)


def part(option: str, field: str, name: str) -> Setting:
    """An option whose value is one part of a field."""

    def change(config: Any, value: object) -> Any:  # noqa: ANN401  any configuration
        return replace(config, **{field: replace(getattr(config, field), **{name: value})})

    return Setting(option, frozenset({field}), change)


def named(config: Config, options: argparse.Namespace, settings: Sequence[Setting]) -> Config:
    """A configuration with everything that the command line names, in the settings' order.

    Raises:
        SystemExit: A value is none that the option can have; the message names both.
    """
    for setting in settings:
        value = getattr(options, setting.option)
        try:
            config = config if value is None else setting.change(config, value)
        except ValueError as error:
            raise SystemExit(f"{setting.flag}: {error}") from error
    return config


def changed(stored: Config, options: argparse.Namespace, settings: Sequence[Setting]) -> tuple[Config, list[str]]:
    """A run's configuration with what the command line that goes on with it names anew.

    Args:
        stored: What the run has.
        options: The command line; `override` lets everything change but the network.
        settings: What they mean.

    Returns:
        The configuration, and the flags whose value is not what the run had.

    Raises:
        SystemExit: One of them may only be changed with `--override`, or not at all.
    """
    config = named(stored, options, settings)
    different = {each.name for each in fields(config) if getattr(config, each.name) != getattr(stored, each.name)}
    given = [each for each in settings if getattr(options, each.option) is not None and each.decides & different]
    if "network" in different:
        raise SystemExit("--config: a run goes on with the network that it began with; it was another one")
    refused = [each.flag for each in given if not each.free]
    if refused and not options.override:
        raise SystemExit(
            f"{', '.join(refused)}: not what the run began with; leave it out to go on as before, or add --override"
        )
    return config, [each.flag for each in given]
