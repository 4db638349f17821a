"""ONNX Runtime's boundary: what is checked when a model is loaded, and how its errors come out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as bindings

from artifact import Artifact, TensorSpec
from server.backends import ort
from server.backends.base import BackendFault, OutOfMemoryFault
from server.backends.ort import OrtBackend, OrtOptions
from server.backends.ort_binding import BoundSession, Place, can_be_bound
from tests.support.backends import tiny_onnx_artifact


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return tiny_onnx_artifact(tmp_path / "artifact")


@pytest.fixture
def backend() -> OrtBackend:
    return OrtBackend(OrtOptions(threads=1))


def changed(artifact: Artifact, **fields) -> Artifact:
    return Artifact(artifact.directory, replace(artifact.manifest, **fields))


def test_a_cpu_takes_small_batches_and_none_ahead(backend):
    assert (backend.device.name, backend.device.max_batch, backend.device.look_ahead) == ("ort-cpu", 2, 0)


def test_a_model_runs_at_the_precision_of_its_file(backend, artifact):
    assert backend.load("tiny", artifact) == "fp32"
    backend.unload("tiny")
    with pytest.raises(BackendFault, match="tiny is not loaded"):
        backend.run("tiny", {"image": np.zeros((1, 16, 24, 3), np.uint8)})


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("inputs", TensorSpec("picture", "uint8", ("batch", 16, 24, 3)), r"input `picture`.*found the inputs image"),
        ("inputs", TensorSpec("image", "float32", ("batch", 16, 24, 3)), r"float32.*found tensor\(uint8\)"),
        ("inputs", TensorSpec("image", "uint8", ("batch", 16, 25, 3)), r"16, 25, 3.*found .*'batch', 16, 24, 3"),
        ("inputs", TensorSpec("image", "uint8", ("batch", "height", "width", 3)), "found .*16, 24, 3"),
        ("inputs", TensorSpec("image", "uint8", (16, 24, 3)), "found .*'batch', 16, 24, 3"),
        ("outputs", TensorSpec("matte", "float32", ("batch", 16, 24)), "output `matte`.*found the outputs alpha"),
        ("outputs", TensorSpec("alpha", "float16", ("batch", 16, 24)), r"float16.*found tensor\(float\)"),
    ],
)
def test_a_graph_that_is_not_what_the_manifest_says_is_refused(backend, artifact, kind, spec, message):
    with pytest.raises(BackendFault, match=message):
        backend.load("tiny", changed(artifact, **{kind: (spec,)}))


def test_an_input_that_the_manifest_does_not_name_is_refused(artifact):
    spec = artifact.manifest.inputs[0]

    class Node:
        def __init__(self, name: str) -> None:
            self.name, self.type, self.shape = name, "tensor(uint8)", list(spec.shape)

    with pytest.raises(BackendFault, match="does not name: mask"):
        ort._check_io("tiny", "input", [Node("image"), Node("mask")], (spec,))


def test_a_damaged_file_is_a_fault_that_names_it(backend, artifact):
    artifact.file("model").write_bytes(b"not a protobuf")
    with pytest.raises(BackendFault, match=r"tiny: .*model\.onnx cannot be loaded: .*INVALID_PROTOBUF") as caught:
        backend.load("tiny", artifact)
    assert not caught.value.fatal


def test_an_artifact_without_a_model_is_refused(backend, artifact):
    with pytest.raises(BackendFault, match="expected a file in the role `model`"):
        backend.load("tiny", changed(artifact, files={}))


def test_arrays_that_do_not_fit_are_a_fault_of_the_batch(backend, artifact):
    backend.load("tiny", artifact)
    with pytest.raises(BackendFault, match="tiny: a batch of 1 failed: ") as caught:
        backend.run("tiny", {"image": np.zeros((1, 8, 8, 3), np.uint8)})
    assert not caught.value.fatal
    assert backend.run("tiny", {"image": np.zeros((1, 16, 24, 3), np.uint8)})["alpha"].shape == (1, 16, 24)


@pytest.mark.parametrize(
    ("text", "kind", "fatal"),
    [
        ("[ONNXRuntimeError] : 1 : FAIL : something", BackendFault, False),
        ("Failed to allocate memory for requested buffer of size 123", OutOfMemoryFault, False),
        ("CUDA failure 2: out of memory ; GPU=0", OutOfMemoryFault, False),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", OutOfMemoryFault, False),
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", BackendFault, True),
        ("CUDA failure 719: unspecified launch failure", BackendFault, True),
    ],
)
def test_errors_are_told_apart(text, kind, fatal):
    with pytest.raises(BackendFault) as caught, ort._translated("tiny: a batch of 1 failed"):
        raise bindings.Fail(text)
    assert type(caught.value) is kind
    assert caught.value.fatal is fatal
    assert text in str(caught.value)


def test_every_exception_of_the_bindings_is_translated():
    """A new version may bring new ones: they are found by looking, not by a list."""
    raised = [kind for kind in vars(bindings).values() if isinstance(kind, type) and issubclass(kind, BaseException)]
    assert len(raised) > 8
    for kind in (*raised, MemoryError, RuntimeError):
        with pytest.raises(BackendFault), ort._translated("x"):
            raise kind("y")


def test_a_reset_device_is_lost():
    if not hasattr(bindings, "DeviceReset"):
        pytest.skip("this version of ONNX Runtime does not have it")
    with pytest.raises(BackendFault) as caught, ort._translated("x"):
        raise bindings.DeviceReset("gone")
    assert caught.value.fatal


def test_asking_for_a_gpu_that_the_package_cannot_use_fails_at_once(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(
        BackendFault, match=r"expected CUDA device 1, but onnxruntime .* has the providers CPUExecution"
    ):
        OrtBackend(OrtOptions(threads=1, cuda_device=1))


def test_the_cpu_instead_of_the_gpu_only_when_allowed(monkeypatch, artifact):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    backend = OrtBackend(OrtOptions(threads=1, cuda_device=0, allow_cpu=True))
    assert backend.device.name == "ort-cpu"
    backend.load("tiny", artifact)


def test_a_gpu_that_is_announced_but_not_used_is_noticed(monkeypatch, artifact):
    """ONNX Runtime only warns when the provider's libraries cannot be loaded, and computes on the CPU."""
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    real = onnxruntime.InferenceSession

    def session_without_gpu(path: str, options: object, providers: list[object]) -> onnxruntime.InferenceSession:
        assert providers[1] == "CPUExecutionProvider"
        assert str(providers[0]).startswith("('CUDAExecutionProvider', {'device_id': 0")
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session_without_gpu)
    backend = OrtBackend(OrtOptions(threads=1, cuda_device=0))
    assert (backend.device.name, backend.device.look_ahead) == ("ort-cuda:0", 1)
    with pytest.raises(BackendFault, match="the session uses CPUExecutionProvider"):
        backend.load("tiny", artifact)
    allowed = OrtBackend(OrtOptions(threads=1, cuda_device=0, allow_cpu=True))
    allowed.load("tiny", artifact)
    assert allowed.device.name == "ort-cpu"


def bound(artifact: Artifact) -> BoundSession:
    """What runs on a GPU, on the CPU."""
    session = onnxruntime.InferenceSession(artifact.file("model"), providers=["CPUExecutionProvider"])
    return BoundSession(session, artifact.manifest.inputs, artifact.manifest.outputs, Place("cpu"))


def test_bound_batches_are_plain_ones(backend, artifact):
    backend.load("tiny", artifact)
    session = bound(artifact)
    for turn, size in enumerate((3, 1, 3, 2)):
        images = np.random.default_rng(turn).integers(0, 256, (size, 16, 24, 3), dtype=np.uint8)
        plain = backend.run("tiny", {"image": images})["alpha"]
        np.testing.assert_array_equal(session.run({"image": images})["alpha"], plain)


def test_a_bound_batch_that_fails_leaves_nothing(artifact):
    session = bound(artifact)
    with pytest.raises(ort._ERRORS):
        session.run({"image": np.zeros((2, 8, 8, 3), np.uint8)})
    assert session.run({"image": np.zeros((2, 16, 24, 3), np.uint8)})["alpha"].shape == (2, 16, 24)


def test_only_known_sizes_can_be_bound(artifact):
    assert can_be_bound(artifact.manifest.inputs)
    assert not can_be_bound((TensorSpec("image", "uint8", ("batch", "height", 24, 3)),))


class Opened:
    """Stands for a session on a GPU, and remembers how it was asked for."""

    def __init__(self, artifact: Artifact, refusal: str | None) -> None:
        self.asked: list[dict[str, object]] = []
        self._artifact, self._refusal = artifact, refusal

    def __call__(self, path: str, options: object, providers: list[tuple[str, dict[str, object]]]) -> "Opened":
        self.asked.append(providers[0][1])
        if self._refusal is not None and providers[0][1].get("enable_cuda_graph"):
            raise bindings.Fail(self._refusal)
        return self

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider"]

    def get_inputs(self) -> list[object]:
        return [Node(spec) for spec in self._artifact.manifest.inputs]

    def get_outputs(self) -> list[object]:
        return [Node(spec) for spec in self._artifact.manifest.outputs]


class Node:
    def __init__(self, spec: TensorSpec) -> None:
        self.name, self.type, self.shape = spec.name, ort._ort_type(spec.dtype), list(spec.shape)


@pytest.fixture
def opened(artifact, monkeypatch):
    def make(refusal: str | None = None) -> Opened:
        session = Opened(artifact, refusal)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
        monkeypatch.setattr(onnxruntime, "InferenceSession", session)
        return session

    return make


NOT_ALL = "This session cannot use the CUDA Graph feature as requested by the user as all the graph nodes have not been"


@pytest.mark.parametrize(("refusal", "graphs"), [(None, True), (NOT_ALL, False)])
def test_cuda_graphs_are_captured_where_the_graph_allows(artifact, opened, refusal, graphs):
    session = opened(refusal)
    backend = OrtBackend(OrtOptions(threads=1, cuda_device=0))
    backend.load("tiny", artifact)
    assert [asked.get("enable_cuda_graph", 0) for asked in session.asked] == ([1] if graphs else [1, 0])
    binding = backend._loaded["tiny"].bound
    assert binding is not None
    assert binding._place == Place("cuda", 0, graphs)


def test_another_failure_to_load_is_not_tried_again(artifact, opened):
    session = opened("CUDA failure 2: out of memory")
    with pytest.raises(OutOfMemoryFault, match="out of memory"):
        OrtBackend(OrtOptions(threads=1, cuda_device=0)).load("tiny", artifact)
    assert len(session.asked) == 1


def test_the_arena_on_the_gpu_has_the_limit_that_is_set(artifact, opened):
    for limit, expected in ((None, None), (2048, 2 << 30)):
        session = opened()
        OrtBackend(OrtOptions(threads=1, cuda_device=0, memory_limit_mib=limit)).load("tiny", artifact)
        assert session.asked[0].get("gpu_mem_limit") == expected
