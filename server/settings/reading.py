"""Where settings come from, and the only place that reads the environment."""

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from server.settings.known import Settings

ENV_PREFIX = "BIREFNET_"
CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"

# What Kubernetes adds to every container beside a Service called birefnet-something: not ours, and no reason to stop.
_SERVICE_LINK_NAME = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")


class InvalidSettingsError(ValueError):
    """Settings are unknown, wrong or contradict each other; the message says which, and where they were set."""


def load_settings(flags: Mapping[str, Any] | None = None, config: Path | None = None) -> Settings:
    """Read the settings of this process: flag > environment > file > default.

    Args:
        flags: Values by setting, as text or typed; only those that were given.
        config: TOML file; None takes the one that `BIREFNET_CONFIG` names, if any.

    Raises:
        InvalidSettingsError: Something is unknown, wrong or contradictory.
    """
    given = dict(flags or {})
    environment = _environment(os.environ)
    path = config or (Path(named) if (named := os.environ.get(CONFIG_VARIABLE)) else None)
    file = _file(path) if path is not None else {}
    sources: dict[str, str] = {name: f"`{name}` in {path}" for name in file}
    sources |= {name: variable(name) for name in environment}
    sources |= {name: flag(name) for name in given}
    try:
        return Settings.model_validate({**file, **environment, **given})
    except ValidationError as error:
        raise InvalidSettingsError("\n".join(_explained(error, sources))) from None


def opentelemetry_variables() -> dict[str, str]:
    """What the environment says to OpenTelemetry, by names that are not ours."""
    return {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}


def variable(name: str) -> str:
    """Environment variable of a setting."""
    return ENV_PREFIX + name.upper()


def flag(name: str) -> str:
    """Flag of a setting."""
    return "--" + name.replace("_", "-")


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    names = {variable(name): name for name in Settings.model_fields}
    values: dict[str, str] = {}
    unknown = []
    for key, value in environ.items():
        if not key.startswith(ENV_PREFIX) or key == CONFIG_VARIABLE:
            continue
        bare = key.removeprefix(ENV_PREFIX)
        if _SERVICE_LINK_NAME.fullmatch(bare) or _SERVICE_LINK_VALUE.match(value):
            continue
        if key not in names:
            unknown.append(_unknown("environment variable", key, variable))
        elif value != "":  # an empty variable is how shells and manifests unset one
            values[names[key]] = value
    if unknown:
        raise InvalidSettingsError("\n".join(unknown))
    return values


def _file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            values = tomllib.load(stream)
    except OSError as error:
        raise InvalidSettingsError(f"{path}: expected a readable TOML file, found: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettingsError(f"{path}: expected TOML, found: {error}") from error
    if unknown := [_unknown(f"{path}: key", key, str) for key in values.keys() - Settings.model_fields]:
        raise InvalidSettingsError("\n".join(sorted(unknown)))
    return values


def _unknown(what: str, name: str, spelled: Callable[[str], str]) -> str:
    # Compared without the prefix, which would make everything look alike.
    near = difflib.get_close_matches(name.removeprefix(ENV_PREFIX).lower(), Settings.model_fields, n=1)
    hint = f" (did you mean {spelled(near[0])}?)" if near else ""
    return f"{what} {name}: there is no such setting{hint}"


def _explained(error: ValidationError, sources: Mapping[str, str]) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False):
        message = problem["msg"].removeprefix("Value error, ")
        if not problem["loc"]:
            lines.append(message)
            continue
        name = str(problem["loc"][0])
        lines.append(f"{sources.get(name, name)}: {message[0].lower()}{message[1:]}, found {problem['input']!r}")
    return lines
