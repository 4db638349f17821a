"""Which TensorRT and which GPU: every way of not having one says what to do."""

import logging
import sys
import types

import pytest

from plans.cuda import CudaRuntime
from plans.errors import DeviceError, PlanError
from plans.platform import Listener, import_tensorrt, listener_of, open_platform
from tests.support.fake_cuda import FakeCuda
from tests.support.fake_tensorrt import FakeTensorrt, Severity

cuda_runtime = pytest.importorskip("cuda.bindings.runtime")
HAS_GPU = int(cuda_runtime.cudaGetDeviceCount()[0]) == 0


def tensorrt_of(version: str) -> types.ModuleType:
    module = types.ModuleType("tensorrt")
    module.__version__ = version  # type: ignore[attr-defined]
    return module


def test_without_tensorrt(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(PlanError, match=r"expected TensorRT: NVIDIA's containers have it; .*found: "):
        import_tensorrt()


@pytest.mark.parametrize("version", ["10.1.0.27", "10.13.2.6", "11.0.0.114", "11.4.0.106"])
def test_versions_that_are_known(monkeypatch, version):
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_of(version))
    assert import_tensorrt().__version__ == version


@pytest.mark.parametrize("version", ["8.6.1", "10.0.1.6", "12.0.0.1"])
def test_versions_that_are_not(monkeypatch, version):
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_of(version))
    with pytest.raises(PlanError, match=f"expected TensorRT 10.1 to 11, found {version}"):
        import_tensorrt()


def test_without_the_bindings(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_of("10.13.2.6"))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(
        PlanError, match=r"expected the package cuda-bindings: pip install 'birefnet-server\[tensorrt\]'"
    ):
        open_platform()


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
def test_without_a_gpu(monkeypatch):
    """The real bindings, which say so themselves."""
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_of("10.13.2.6"))
    with pytest.raises(PlanError, match="expected GPU 3, found none that answers: choosing the GPU: CUDA error"):
        open_platform(3)


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU, and would be handed nonsense")
def test_every_call_reaches_the_bindings_and_its_failure_comes_back():
    """Their arguments are converted before the driver is asked, so a wrong call would be a TypeError."""
    cuda = object.__new__(CudaRuntime)
    cuda._runtime = cuda_runtime
    memory = FakeCuda().allocate_pinned(8)
    calls = [
        lambda: cuda.allocate(8),
        lambda: cuda.allocate_pinned(8),
        cuda.create_stream,
        cuda.create_event,
        lambda: cuda.record(1, 2),
        lambda: cuda.wait(1, 2),
        lambda: cuda.upload(256, memory, 1),
        lambda: cuda.download(memory, 256, 1),
        lambda: cuda.synchronise(1),
        lambda: cuda.begin_capture(1),
        lambda: cuda.end_capture(1),
        lambda: cuda.launch(1, 1),
    ]
    for call in calls:
        with pytest.raises(DeviceError, match=r"CUDA error \d+, "):
            call()
    assert isinstance(cuda.last_error(), DeviceError)


def test_tensorrt_keeps_its_first_logger_so_there_is_one():
    first, second = (FakeTensorrt(FakeCuda()) for _ in range(2))
    assert listener_of(first) is listener_of(first)
    assert listener_of(first) is not listener_of(second)


def test_what_tensorrt_says_goes_into_the_log_and_errors_into_what_is_raised(caplog):
    listener = Listener(FakeTensorrt(FakeCuda()))
    with caplog.at_level(logging.DEBUG, "plans.platform"):
        listener.logger.log(Severity.VERBOSE, "every kernel")
        listener.logger.log(Severity.INFO, "a detail")
        listener.logger.log(Severity.WARNING, "a warning")
        listener.logger.log(Severity.ERROR, "one\nerror")
        listener.logger.log(Severity.INTERNAL_ERROR, "another")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("DEBUG", "TensorRT: a detail"),
        ("WARNING", "TensorRT: a warning"),
        ("ERROR", "TensorRT: one\nerror"),
        ("ERROR", "TensorRT: another"),
    ]
    assert listener.take() == "one error; another"
    assert listener.take() == ""
