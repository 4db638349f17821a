"""TensorRT for RTX, whose parser and builder run without a GPU and without a driver.

Two wheels make it up: one has the libraries, for ONNX Runtime, the other the Python bindings of the same build, which
look for the libraries in the loader's path. Those that are loaded already are found.
"""

import ctypes
import functools
import importlib
import importlib.util
import platform
import sys
from pathlib import Path
from typing import Any

LIBRARIES = ("libtensorrt_rtx.so.*", "libtensorrt_onnxparser_rtx.so.*")
COMPUTE_CAPABILITIES = ((8, 9),)
"""To build for: this version does not know that of an H200, 9.0."""


def is_offered() -> bool:
    """Whether there are wheels for this interpreter and this machine; where there are, the tests install them."""
    return sys.platform == "linux" and platform.machine() == "x86_64" and sys.version_info < (3, 13)


@functools.cache
def tensorrt_rtx() -> Any:
    """The module."""
    package = importlib.util.find_spec("onnxruntime_ep_nv_tensorrt_rtx")
    assert package is not None, "the extra [dev] has TensorRT for RTX: install it"
    assert package.origin is not None
    for pattern in LIBRARIES:
        (library,) = Path(package.origin).parent.glob(pattern)
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    return importlib.import_module("tensorrt_rtx_bindings")
