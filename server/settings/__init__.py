"""The settings of a process.

A setting comes from, in this order: a flag of the command line, an environment variable `BIREFNET_<NAME>`, a key of the
TOML file that `--config` or `BIREFNET_CONFIG` names, its default. Names that do not exist and combinations that make no
sense are errors at the start, never guessed at.
"""

from server.settings.known import Network, Settings
from server.settings.reading import (
    CONFIG_VARIABLE,
    InvalidSettingsError,
    flag,
    load_settings,
    opentelemetry_variables,
    variable,
)

__all__ = [
    "CONFIG_VARIABLE",
    "InvalidSettingsError",
    "Network",
    "Settings",
    "flag",
    "load_settings",
    "opentelemetry_variables",
    "variable",
]
