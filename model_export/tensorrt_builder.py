"""From an ONNX graph to the bytes of a TensorRT plan.

TensorRT is a value here: version 10 is told that the network is strongly typed, 11 knows no other kind, and TensorRT
for RTX, which builds without a GPU, lets the tests drive the same code.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifact import Profile
from model_export.errors import ExportError
from plans.platform import Listener, listener_of

Report = Callable[[str], None]

_REPORT_EVERY_S = 5.0
_SHOWN_ERRORS = 5
_SAID_OF_MEMORY = ("out of memory", "outofmemory", "insufficient workspace", "insufficient memory")
_STRONGLY_TYPED_SINCE = 11


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How a plan is built.

    Attributes:
        profile: Batch sizes; height and width are the graph's.
        workspace_mib: Device memory that a kernel may use beside its tensors; None is all there is.
        level: 0 to 5, how long kernels are searched for; None is TensorRT's own, 3.
        tf32: Whether fp32 products may use ten bits of mantissa.
        compute_capabilities: GPUs to build for, as `(8, 9)`: TensorRT for RTX alone asks for them.
    """

    profile: Profile
    workspace_mib: int | None = None
    level: int | None = None
    tf32: bool = True
    compute_capabilities: tuple[tuple[int, int], ...] = ()


@dataclass(slots=True)
class TimingCache:
    """What the builder has measured so far; it makes the next build faster, and the same.

    Attributes:
        content: As TensorRT serialises it; empty at first, and replaced by the build.
    """

    content: bytes


def build_plan(
    tensorrt: Any,  # noqa: ANN401  a module
    graph: Path,
    options: BuildOptions,
    report: Report,
    cache: TimingCache | None = None,
) -> bytes:
    """Parse and build.

    Args:
        tensorrt: The module, of TensorRT 10 or 11 or of TensorRT for RTX.
        graph: An ONNX file with a free batch axis and otherwise fixed ones, whose types are those of the plan.
        options: How.
        report: Told what is being done.
        cache: Used and updated; None where there is none.

    Raises:
        ExportError: The graph cannot be parsed or built; the message has TensorRT's own words, and names the nodes.
        KeyboardInterrupt: It was interrupted; TensorRT was told to stop.
    """
    listener = listener_of(tensorrt)
    listener.take()  # what was said before is not about this build
    builder = tensorrt.Builder(listener.logger)
    network = builder.create_network(_network_flags(tensorrt))
    report(f"parsing {graph.name}")
    parser = tensorrt.OnnxParser(network, listener.logger)
    if not parser.parse_from_file(str(graph)):
        raise ExportError(f"{graph}: expected a graph that TensorRT parses, found: {_parser_errors(parser, listener)}")
    config = builder.create_builder_config()
    _configure(tensorrt, config, options)
    config.add_optimization_profile(_optimisation_profile(builder, network, options.profile))
    timings = None if cache is None else _attach_cache(config, cache, report)
    monitor = _monitor(tensorrt, report, time.monotonic)
    config.progress_monitor = monitor
    report(f"building for batches of {options.profile}")
    plan = builder.build_serialized_network(network, config)
    if monitor.interrupted:
        raise KeyboardInterrupt
    if plan is None:
        raise ExportError(_build_failure(graph, listener.take()))
    if cache is not None and timings is not None:
        cache.content = bytes(timings.serialize())
    return bytes(plan)


def _network_flags(tensorrt: Any) -> int:  # noqa: ANN401
    major = int(str(tensorrt.__version__).split(".")[0])
    flag = getattr(tensorrt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if flag is None or major >= _STRONGLY_TYPED_SINCE:
        return 0  # every network is
    return 1 << int(flag)


def _configure(tensorrt: Any, config: Any, options: BuildOptions) -> None:  # noqa: ANN401
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.level is not None:
        config.builder_optimization_level = options.level
    if not options.tf32:
        config.clear_flag(tensorrt.BuilderFlag.TF32)
    if options.compute_capabilities:
        config.num_compute_capabilities = len(options.compute_capabilities)
        for index, (major, minor) in enumerate(options.compute_capabilities):
            config.set_compute_capability(getattr(tensorrt.ComputeCapability, f"SM{major}{minor}"), index)


def _optimisation_profile(builder: Any, network: Any, batches: Profile) -> Any:  # noqa: ANN401
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        sides = tuple(tensor.shape)[1:]
        if any(side < 0 for side in sides):
            raise ExportError(f"expected a graph with a free batch axis alone, found `{tensor.name}` {tensor.shape}")
        sizes = ((batch, *sides) for batch in (batches.least, batches.usual, batches.most))
        profile.set_shape(tensor.name, *sizes)
    return profile


def _attach_cache(config: Any, cache: TimingCache, report: Report) -> Any:  # noqa: ANN401
    timings = config.create_timing_cache(cache.content)
    if timings is None or not config.set_timing_cache(timings, False):
        report("the timing cache is damaged, or of another GPU or TensorRT: starting a new one")
        timings = config.create_timing_cache(b"")
        config.set_timing_cache(timings, False)
    return timings


def _parser_errors(parser: Any, listener: Listener) -> str:  # noqa: ANN401
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        return listener.take() or "no reason"
    lines = [
        f"node `{error.node_name()}` ({error.node_operator()}): {' '.join(error.desc().split())}"
        for error in errors[:_SHOWN_ERRORS]
    ]
    more = len(errors) - len(lines)
    return "; ".join([*lines, *([f"and {more} more"] if more else [])])


def _build_failure(graph: Path, said: str) -> str:
    message = f"{graph}: expected TensorRT to build a plan, found: {said or 'nothing; its log has more'}"
    if any(sign in said.lower() for sign in _SAID_OF_MEMORY):
        message += (
            ". Free the GPU of other processes, lower the largest batch (--batch), or, where a limit was set, raise "
            "--workspace-mib"
        )
    return message


def _monitor(tensorrt: Any, report: Report, clock: Callable[[], float]) -> Any:  # noqa: ANN401
    """Says every few seconds how far the build is, and stops it when the process is interrupted."""

    class Monitor(tensorrt.IProgressMonitor):
        def __init__(self) -> None:
            tensorrt.IProgressMonitor.__init__(self)
            self.interrupted = False
            self._steps: dict[str, int] = {}
            self._said = clock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            del parent_phase
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                now = clock()
                if now - self._said >= _REPORT_EVERY_S:
                    self._said = now
                    report(f"{phase_name}: {step + 1} of {self._steps.get(phase_name, step + 1)}")
            except KeyboardInterrupt:  # signals are handled in whatever Python code runs next, which is here
                self.interrupted = True
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()
