"""Graphs in ONNX Runtime on the CPU. Without torch: a machine that builds plans need not have it."""

from pathlib import Path

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from model_export.errors import ExportError

LOAD_FAILURES = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
"""What ONNX Runtime raises for a file that it does not take; they share no base class."""


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """A graph in ONNX Runtime on the CPU.

    Raises:
        ExportError: The file cannot be loaded.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # it grows by doubling, and a proof holds gigabytes already
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except LOAD_FAILURES as error:
        raise ExportError(f"{path}: expected a graph that ONNX Runtime loads, found: {error}") from error
