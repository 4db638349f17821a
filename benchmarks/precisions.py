"""The embedded model at other precisions, for the comparison only: none of these files is shipped."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from training.data.sets import SETS

CALIBRATION_SET, CALIBRATION_FIRST, CALIBRATION_IMAGES = "train", 1_000_000, 24
"""Photographs of the training's own distribution, at indices that no run reaches."""

PRODUCTS = ("MatMul", "Gemm")


class _Photographs(CalibrationDataReader):  # type: ignore[misc]  # untyped
    def __init__(self, size: int, count: int) -> None:
        self._feeds: Iterator[dict[str, Any]] = (
            {"image": SETS[CALIBRATION_SET].item(CALIBRATION_FIRST + index, size)[0][None]} for index in range(count)
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def optimised(source: Path, target: Path) -> None:
    """What ONNX Runtime makes of the graph on this very processor when it loads it, saved."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def half(source: Path, target: Path) -> None:
    """fp16 everywhere but at the graph's inputs and outputs."""
    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def dynamic_int8(source: Path, target: Path) -> None:
    """int8 weights of matrix products; the scale of their other operand is found at run time."""
    quantize_dynamic(
        _prepared(source, target),
        target,
        op_types_to_quantize=list(PRODUCTS),
        per_channel=True,
        extra_options={"MatMulConstBOnly": True},
    )


def static_int8(*operators: str, images: int = CALIBRATION_IMAGES) -> Callable[[Path, Path], None]:
    """int8 weights and activations of some operators, calibrated on procedural photographs; the rest stays fp32."""

    def convert(source: Path, target: Path) -> None:
        side = onnx.load(source, load_external_data=False).graph.input[0].type.tensor_type.shape.dim[1].dim_value
        quantize_static(
            _prepared(source, target),
            target,
            _Photographs(side, images),
            op_types_to_quantize=list(operators),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )

    return convert


def _prepared(source: Path, target: Path) -> Path:
    """The graph as the quantisers want it: constants folded, every shape known."""
    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    return prepared
