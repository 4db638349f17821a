"""The graphs that an artifact can hold of one network: what each is for, and how far it may be from the network."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from artifact import Tolerance
from model_export.deform_conv import use_exportable_operator
from model_export.four_gather import use_four_gathers


@dataclass(frozen=True, slots=True)
class Precision:
    """One graph of a network.

    Attributes:
        name: As `--precision` spells it.
        role: Of its file in the manifest.
        file: Its name in the artifact directory.
        dtype: `fp32` or `fp16`, of its matrix products.
        deform_conv: Makes a network's deformable convolutions exportable, in place.
        tolerance: Of alpha, against the network in float64.
    """

    name: str
    role: str
    file: str
    dtype: str
    deform_conv: Callable[[nn.Module], None]
    tolerance: Tolerance


# Measured with random weights: 1e-5 on photographs in fp32. The mean has no bound of its own there.
_FP32, _FP16 = Tolerance(1e-4, 1e-4), Tolerance(5e-3, 5e-4)

PRECISIONS = (
    Precision("fp32", "model", "model.onnx", "fp32", use_exportable_operator, _FP32),
    Precision("fp16", "model_fp16", "model.fp16.onnx", "fp16", use_exportable_operator, _FP16),
    Precision("fp16-tensorrt", "model_trt", "model.trt.onnx", "fp16", use_four_gathers, _FP16),
)
"""The canonical graph first: every runtime runs it, and the server falls back on it."""

CANONICAL = PRECISIONS[0]


def tolerance_of(dtype: str) -> Tolerance:
    """Of a graph whose matrix products are `fp32` or `fp16`."""
    return {"fp32": _FP32, "fp16": _FP16}[dtype]


def chosen(names: tuple[str, ...]) -> tuple[Precision, ...]:
    """The precisions of these names and the canonical one, in their order."""
    return tuple(each for each in PRECISIONS if each is CANONICAL or each.name in names)
