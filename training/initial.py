"""The weights that a run begins from, brought into the order of image patches that the network has."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from modeling.patch_order import PatchOrder, detect_patch_order, legacy_to_current
from modeling.weights import CONFIG_KEY, read_metadata, read_state


def initial_state(path: Path, told: PatchOrder | None, report: Callable[[str], None]) -> dict[str, Tensor]:
    """The tensors of a checkpoint in the current patch order (docs/export.md: which released files need that).

    Args:
        path: A file in the official layout.
        told: The order that the user says; None takes what the weights say, and current where they say nothing.
        report: Told what was concluded.

    Raises:
        WeightsError: The file cannot be read.
        FileNotFoundError: There is no such file.
    """
    state = read_state(path)
    if CONFIG_KEY in read_metadata(path):  # written by this software, which knows no other order
        return state
    evidence = detect_patch_order(state)
    order = told or evidence.decision
    why = "as you say" if told else f"the weights say {evidence}"
    report(f"{path}: patch order {'current' if order == 'undecided' else order}; {why}")
    return legacy_to_current(state) if order == "legacy" else state
