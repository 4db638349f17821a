"""What the serving side loads, in a process of its own."""

import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import server
from tests.support.integrity import rival_distributions
from tests.support.processes import ROOT, clean_environment

# Import-linter sees only what is written as an import; this sees what happens.
FORBIDDEN = (
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "modeling",
    "model_export",
    "training",
    "matplotlib",
    "scipy",
)


def loaded_after(code: str) -> set[str]:
    """Top-level modules of a fresh interpreter after running some code."""
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"]
    result = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in result.stdout.split()}


def test_the_server_loads_no_torch_and_no_exporter():
    loaded = loaded_after(
        "import server.app, server.cli, server.backends.ort, server.backends.trt, server.backends.fake"
    )
    assert {"server", "fastapi", "grpc", "onnxruntime"} <= loaded
    assert loaded.isdisjoint({*FORBIDDEN, "tensorrt", "cuda"}), loaded.intersection(FORBIDDEN)


def test_what_connects_to_the_outside_is_loaded_only_where_it_is_allowed():
    compose = "from server.settings import Settings; from server.app.composition import compose"
    assert "httpcore" not in loaded_after(f"import server.app; {compose}; compose(Settings(backend='fake'))")
    assert "httpcore" in loaded_after(f"{compose}; compose(Settings(backend='fake', allow_urls=True))")


def test_the_command_line_loads_neither_transports_nor_runtimes_before_it_knows_what_to_do():
    loaded = loaded_after("import server.cli")
    assert loaded.isdisjoint({"fastapi", "grpc", "onnxruntime", "cv2", "numpy", *FORBIDDEN})


def test_the_checkout_is_what_is_tested():
    assert Path(server.__file__).parent == ROOT / "server"


def test_no_other_distribution_brings_files_into_our_packages():
    assert rival_distributions(distributions()) == []
