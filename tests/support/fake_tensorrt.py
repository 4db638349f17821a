"""What stands for the module `tensorrt` where there is no GPU: its plans are ONNX graphs that ONNX Runtime computes.

It takes the calls that `plans` and `model_export.tensorrt_builder` make of TensorRT, in the order that TensorRT wants
them, and refuses any other. Its kernels run when `FakeCuda` says so. The builder's own tests use TensorRT for RTX.
"""

import enum
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from tests.support.fake_cuda import FakeCuda, typed

ONNX_TYPES = {"tensor(uint8)": "UINT8", "tensor(float)": "FLOAT", "tensor(float16)": "HALF"}
DTYPES = {"UINT8": "uint8", "FLOAT": "float32", "HALF": "float16"}
SCRATCH_ROW = 1000
HEAD = b"\n--graph--\n"


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class LoggerBase:
    Severity = Severity

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class MonitorBase:
    pass


class Strategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class NetworkFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class FlagOfBuilder(enum.IntEnum):
    TF32 = 7


class Pool(enum.Enum):
    WORKSPACE = 0


@dataclass(eq=False)
class FakeTensorrt:
    """The module. Like the real one, it keeps the first logger that it is given.

    Attributes:
        cuda: The GPU that its kernels run on.
        error_offset: Added to every answer: a plan that computes something else.
        capturable: Whether kernels may be captured into a graph.
        broken: Texts of errors, by the step that is to fail with them: `load`, `context`, `shape`, `execute`, `build`.
        executed: Batch sizes that were executed by a call, not by launching a graph.
        flags: Of the networks that were made.
        configured: What the builder was told last.
        on_step: Called at every step of a build.
        logger: The first that was given.
    """

    cuda: FakeCuda
    error_offset: float = 0.0
    capturable: bool = True
    broken: dict[str, str] = field(default_factory=dict)
    executed: list[int] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    configured: dict[str, Any] = field(default_factory=dict)
    on_step: Any = None
    __version__: str = "10.13.2.6"
    logger: LoggerBase | None = None

    ILogger = LoggerBase
    IProgressMonitor = MonitorBase
    ExecutionContextAllocationStrategy = Strategy
    NetworkDefinitionCreationFlag = NetworkFlag
    BuilderFlag = FlagOfBuilder
    MemoryPoolType = Pool

    def Runtime(self, logger: LoggerBase) -> "_Runtime":  # noqa: N802  TensorRT's names
        return _Runtime(self, self.registered(logger))

    def Builder(self, logger: LoggerBase) -> "_Builder":  # noqa: N802
        return _Builder(self, self.registered(logger))

    def OnnxParser(self, network: "_Network", logger: LoggerBase) -> "_Parser":  # noqa: N802
        return _Parser(self, network, self.registered(logger))

    def registered(self, logger: LoggerBase) -> LoggerBase:
        """The logger that is told, whatever is given now."""
        if self.logger is None:
            self.logger = logger
        return self.logger

    def fails(self, step: str, logger: LoggerBase) -> bool:
        """Whether a step is to fail; it then says so to the logger, as TensorRT does."""
        if step not in self.broken:
            return False
        logger.log(Severity.ERROR, self.broken[step])
        return True


def plan_bytes(graph: bytes, profile: tuple[int, int, int]) -> bytes:
    """A plan of an ONNX graph."""
    return json.dumps(profile).encode() + HEAD + graph


@dataclass
class _Runtime:
    tensorrt: FakeTensorrt
    logger: LoggerBase

    def deserialize_cuda_engine(self, plan: bytes) -> "_Engine | None":
        if self.tensorrt.fails("load", self.logger):
            return None
        if HEAD not in plan:
            self.logger.log(Severity.ERROR, "IRuntime::deserializeCudaEngine: Error Code 1: Serialization")
            return None
        profile, _, graph = plan.partition(HEAD)
        return _Engine(self.tensorrt, self.logger, onnxruntime.InferenceSession(graph), tuple(json.loads(profile)))


@dataclass
class _Engine:
    tensorrt: FakeTensorrt
    logger: LoggerBase
    session: Any
    profile: tuple[int, int, int]

    @property
    def nodes(self) -> dict[str, Any]:
        return {node.name: node for node in (*self.session.get_inputs(), *self.session.get_outputs())}

    @property
    def num_io_tensors(self) -> int:
        return len(self.nodes)

    def get_tensor_name(self, index: int) -> str:
        return list(self.nodes)[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=ONNX_TYPES[self.nodes[name].type])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *self.nodes[name].shape[1:])

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        assert index == 0
        return [(batch, *self.nodes[name].shape[1:]) for batch in self.profile]

    def create_execution_context(self, strategy: Strategy) -> "_Context | None":
        assert strategy is Strategy.USER_MANAGED
        return None if self.tensorrt.fails("context", self.logger) else _Context(self)


@dataclass
class _Context:
    engine: _Engine
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)
    scratch: tuple[int, int] | None = None
    set_up: bool = False

    @property
    def batch(self) -> int:
        (batch,) = {shape[0] for shape in self.shapes.values()}
        return batch

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.profile
        if self.engine.tensorrt.fails("shape", self.engine.logger) or not least <= shape[0] <= most:
            return False
        assert shape[1:] == tuple(self.engine.nodes[name].shape[1:])
        self.shapes[name] = shape
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        return SCRATCH_ROW * self.batch

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self.update_device_memory_size_for_shapes()
        self.scratch = memory, size

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert name in self.engine.nodes
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream: int) -> bool:
        tensorrt, cuda = self.engine.tensorrt, self.engine.tensorrt.cuda
        if tensorrt.fails("execute", self.engine.logger):
            return False
        if cuda.capturing and not (self.set_up and tensorrt.capturable):
            self.engine.logger.log(Severity.ERROR, "operation not permitted when stream is capturing")
            return False
        assert self.addresses.keys() == self.engine.nodes.keys()
        assert self.scratch is not None
        if not cuda.capturing:
            tensorrt.executed.append(self.batch)
        self.set_up = True
        cuda.enqueue(stream, self._kernels)
        return True

    def _kernels(self) -> None:
        assert self.scratch is not None
        cuda = self.engine.tensorrt.cuda
        cuda.view(*self.scratch)[:] = self.batch
        feeds = {node.name: self._memory(node) for node in self.engine.session.get_inputs()}
        answers = self.engine.session.run(None, feeds)
        for node, answer in zip(self.engine.session.get_outputs(), answers, strict=True):
            self._memory(node)[...] = answer + np.asarray(self.engine.tensorrt.error_offset, answer.dtype)

    def _memory(self, node: Any) -> Any:
        dtype = DTYPES[ONNX_TYPES[node.type]]
        shape = (self.batch, *node.shape[1:])
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return typed(self.engine.tensorrt.cuda.view(self.addresses[node.name], size), dtype, shape)


@dataclass
class _Tensor:
    name: str
    shape: tuple[int, ...]


@dataclass
class _Network:
    graph: bytes = b""
    inputs: list[_Tensor] = field(default_factory=list)

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_input(self, index: int) -> _Tensor:
        return self.inputs[index]


@dataclass
class _Parser:
    tensorrt: FakeTensorrt
    network: _Network
    logger: LoggerBase
    num_errors: int = 0

    def parse_from_file(self, path: str) -> bool:
        self.network.graph = Path(path).read_bytes()
        nodes = onnxruntime.InferenceSession(self.network.graph).get_inputs()
        self.network.inputs = [_Tensor(node.name, (-1, *node.shape[1:])) for node in nodes]
        return True


class _Profile:
    def __init__(self) -> None:
        self.batches: tuple[int, ...] = ()

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        del name
        self.batches = tuple(shape[0] for shape in shapes)


@dataclass
class _Cache:
    content: bytes

    def serialize(self) -> bytes:
        return self.content


class _Config:
    configured: dict[str, Any]

    def __init__(self, configured: dict[str, Any]) -> None:
        self.__dict__["configured"] = configured

    def __setattr__(self, name: str, value: Any) -> None:
        self.configured[name] = value

    def set_memory_pool_limit(self, pool: Pool, size: int) -> None:
        self.configured[pool.name] = size

    def clear_flag(self, flag: FlagOfBuilder) -> None:
        self.configured[flag.name] = False

    def add_optimization_profile(self, profile: _Profile) -> None:
        self.configured["profile"] = profile.batches

    def create_timing_cache(self, content: bytes) -> _Cache | None:
        return None if content.startswith(b"damaged") else _Cache(content)

    def set_timing_cache(self, cache: _Cache, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        self.configured["timings"] = cache
        return not cache.content.startswith(b"of another GPU")


@dataclass
class _Builder:
    tensorrt: FakeTensorrt
    logger: LoggerBase

    def create_network(self, flags: int) -> _Network:
        self.tensorrt.flags.append(flags)
        return _Network()

    def create_builder_config(self) -> _Config:
        self.tensorrt.configured.clear()
        return _Config(self.tensorrt.configured)

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        monitor = config.configured["progress_monitor"]
        monitor.phase_start("Building Engine", None, 3)
        for step in range(3):
            if self.tensorrt.on_step is not None:
                self.tensorrt.on_step()
            if not monitor.step_complete("Building Engine", step):
                return None
        monitor.phase_finish("Building Engine")
        if self.tensorrt.fails("build", self.logger):
            return None
        cache = config.configured.get("timings")
        if cache is not None:
            cache.content += b"timed;"
        return plan_bytes(network.graph, config.configured["profile"])
