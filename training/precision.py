"""The arithmetic of a run: fp32, or autocast to one of two half-precision types."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""By name, the type that matrix products and convolutions are computed in; None is the network's own."""


def check_precision(name: str) -> None:
    """Refuse an unknown precision.

    Raises:
        ValueError: Names those that there are.
    """
    if name not in PRECISIONS:
        raise ValueError(f"a precision is one of {', '.join(PRECISIONS)}, found {name!r}")


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context of a forward pass."""
    dtype = PRECISIONS[precision]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def make_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """What keeps gradients in the range of fp16 (Micikevicius et al. 2018, section 3.2); for others it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def with_precision(values: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration, those from before there was fp16 included: they say `bfloat16`."""
    plain = dict(values)
    if plain.pop("bfloat16", False):
        plain["precision"] = "bf16"
    return plain
