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
    """Top-level modules of a fresh interpreter after running some code, and the SDK of OpenTelemetry."""
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"]
    result = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=True)
    names = set(result.stdout.split())
    return {name.partition(".")[0] for name in names} | (names & {"opentelemetry.sdk"})


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


def test_traces_cost_no_import_where_they_are_off():
    start = "from server.app.lifecycle import Process; from server.settings import Settings"
    # FastAPI itself loads the interface, which does nothing; the SDK and exporters are ours to leave out.
    for traces in (False, True):
        loaded = loaded_after(f"{start}; Process(Settings(port=0, grpc_port=0, backend='fake', traces={traces}))")
        assert ("opentelemetry.sdk" in loaded) is traces


def test_the_command_line_loads_neither_transports_nor_runtimes_before_it_knows_what_to_do():
    loaded = loaded_after("import server.cli")
    assert loaded.isdisjoint({"fastapi", "grpc", "onnxruntime", "cv2", "numpy", *FORBIDDEN})


def test_the_checkout_is_what_is_tested():
    assert Path(server.__file__).parent == ROOT / "server"


def test_no_other_distribution_brings_files_into_our_packages():
    assert rival_distributions(distributions()) == []
