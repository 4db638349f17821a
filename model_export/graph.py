"""From a traceable module to one ONNX file, checked and loaded."""

import contextlib
import functools
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import onnx_ir
import torch
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    LiftConstantsToInitializersPass,
    NameFixPass,
    OutputFixPass,
    RemoveUnusedNodesPass,
)
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import collapse_slice2_rule, collapse_slice_rule, materialize_reshape_shape_rule
from torch import nn

from artifact import Io, TensorSpec
from model_export.deform_conv import TRANSLATION
from model_export.traceable import TensorToLogits
from modeling.contract import ImageToAlpha

OPSET = 20
"""DeformConv exists since 19; 22 adds only bf16, and fewer runtimes read it."""

BATCH = "batch"


def signature(io: Io, size: tuple[int, int]) -> tuple[TensorSpec, TensorSpec]:
    """Input and output of a matte model at a working size.

    Those of `tensor` have the names that published BiRefNet ONNX files use.
    """
    height, width = size
    if io == "image":
        return TensorSpec("image", "uint8", (BATCH, height, width, 3)), TensorSpec(
            "alpha", "float32", (BATCH, height, width)
        )
    return (
        TensorSpec("input_image", "float32", (BATCH, 3, height, width)),
        TensorSpec("output_image", "float32", (BATCH, 1, height, width)),
    )


def write_graph(
    module: ImageToAlpha | TensorToLogits, size: tuple[int, int], path: Path, metadata: Mapping[str, str]
) -> None:
    """Export to one self-contained ONNX file: batch free, height and width fixed.

    Args:
        module: From `traceable`.
        size: (height, width), multiples of 32.
        path: Where the file goes.
        metadata: Text that travels in the file, shown by model viewers.
    """
    taken, given = signature("image" if isinstance(module, ImageToAlpha) else "tensor", size)
    write_module(module, (taken,), given, path, metadata)


def write_module(
    module: nn.Module, taken: tuple[TensorSpec, ...], given: TensorSpec, path: Path, metadata: Mapping[str, str]
) -> None:
    """Export any module with one output to one self-contained ONNX file; see `write_graph`.

    Args:
        module: In evaluation mode.
        taken: Its inputs, in the order of its arguments, each with a free first axis.
        given: Its output.
        path: Where the file goes.
        metadata: Text that travels in the file.
    """
    program = _exported(module, taken, given)
    _tidy(program.model)
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=False)
    onnx.checker.check_model(path, full_check=True)


def _exported(module: nn.Module, taken: tuple[TensorSpec, ...], given: TensorSpec) -> torch.onnx.ONNXProgram:
    batch = torch.export.Dim(BATCH, min=1)
    with warnings.catch_warnings(), _without_torchvision_hints():
        # torch 2.13 trips over its own deprecation while it copies the program.
        warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", category=FutureWarning)
        # All inputs share the batch axis, which is why it has one name.
        warnings.filterwarnings("ignore", message="# The axis name: batch will not be used", category=UserWarning)
        program = torch.onnx.export(
            module,
            tuple(_example(spec) for spec in taken),
            input_names=[spec.name for spec in taken],
            output_names=[given.name],
            dynamic_shapes=tuple({0: batch} for _ in taken),
            opset_version=OPSET,
            custom_translation_table=TRANSLATION,
            dynamo=True,
            optimize=False,  # `_tidy` does what matters in a quarter of the time
            verbose=False,
        )
    if program is None:
        raise AssertionError("torch.onnx.export with dynamo gives a program. This is a bug.")
    return program


def _example(spec: TensorSpec) -> torch.Tensor:
    # Two images, because an axis of length one would be taken for a constant.
    shape = [2 if axis == BATCH else int(axis) for axis in spec.shape]
    return torch.ones(shape, dtype=getattr(torch, spec.dtype))


@contextlib.contextmanager
def _without_torchvision_hints() -> Iterator[None]:
    """Torch warns of every torchvision operator that it cannot translate; the networks use none."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        yield
    finally:
        registration.setLevel(level)


def _tidy(model: onnx_ir.Model) -> None:
    """Fold constants (small ones: folded shift masks would outweigh a small network) and drop what is there twice.

    The rules turn shapes that are computed from the batch into constants with one free axis, and what is left of a
    cyclic shift into plain slices.
    """
    fold_constants = functools.partial(fold_constants_ir, onnx_shape_inference=True)
    rules = RewritePass([materialize_reshape_shape_rule, collapse_slice_rule, collapse_slice2_rule])
    for tidy in (
        fold_constants,
        rules,
        fold_constants,
        RemoveUnusedNodesPass(),
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        DeduplicateInitializersPass(),
        CommonSubexpressionEliminationPass(),
        RemoveUnusedNodesPass(),
        OutputFixPass(),
        NameFixPass(),
        ClearMetadataAndDocStringPass(),
    ):
        tidy(model)
