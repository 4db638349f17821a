"""Section `parts`: where the time of a batch goes, operator by operator and part by part, run eagerly.

Eager, since a graph has no parts: hooks put an event before and after each module. What Python takes between kernels
is in these times where kernels are shorter than it; `eager_over_graph` says how much that is in all.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.clock import Clock
from benchmarks.gpu.subjects import Context, Subject, release
from modeling.birefnet.network import BiRefNet
from modeling.contract import ImageToAlpha
from server.backends.torch_cuda.runners import GraphRunner

_RUNS = 5
_BATCH = 8


def measure_parts(context: Context) -> None:
    """Swin-L and Swin-T at 1024x1024, a batch of 8."""
    for subject in context.subjects[:2]:
        batch = min(_BATCH, max(subject.batches))
        context.report.measure(
            subject.row(backend="torch", batch=batch),
            partial(_parts, context, subject, batch),
        )
        release(context.device)


def _parts(context: Context, subject: Subject, batch: int) -> dict[str, Any]:
    dtype = next(iter(context.precisions.values()))
    network = context.fused(subject, dtype)
    images = torch.from_numpy(subject.images(batch))
    resident = images.to(context.device)
    module = ImageToAlpha(network).to(context.device)
    with torch.inference_mode():
        module(resident)
        eager = context.clock.median_ms(lambda: module(resident))
        stopwatch = Stopwatch(context.device)
        hooks = _hooked(network, stopwatch)
        for _ in range(_RUNS):
            module(resident)
        for hook in hooks:
            hook.remove()
        parts = {name: round(ms / _RUNS, 4) for name, ms in stopwatch.milliseconds().items()}
    return {
        "eager_ms": round(eager, 4),
        "parts_ms": parts,
        "copies_ms": _copies(context.clock, images, resident),
        **_graph(context, network, subject, batch, eager),
    }


class Stopwatch:
    """Adds up how long named stretches of a stream take."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._clock = Clock(device)
        self._open: dict[str, Any] = {}
        self._stretches: list[tuple[str, Any, Any]] = []

    def begin(self, name: str) -> None:
        """A stretch begins here."""
        self._open[name] = self._now()

    def end(self, name: str) -> None:
        """It ends here."""
        self._stretches.append((name, self._open.pop(name), self._now()))

    def milliseconds(self) -> dict[str, float]:
        """In all, by name, in the order of their first end."""
        if self._cuda:
            torch.cuda.synchronize()
        found: dict[str, float] = defaultdict(float)
        for name, begin, end in self._stretches:
            found[name] += begin.elapsed_time(end) if self._cuda else (end - begin) * 1000
        return dict(found)

    def _now(self) -> Any:  # noqa: ANN401  an event, or seconds
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _named_parts(network: BiRefNet) -> list[tuple[str, nn.Module]]:
    """What is timed; the backbone runs twice for each image, at full and at half scale."""
    parts: list[tuple[str, nn.Module]] = [("backbone, both scales", network.bb)]
    for name, module in network.named_modules():
        kind = type(module).__name__
        if kind in {"FusedDeformableBranch", "DeformableBranch"}:
            side = module.geometry.kernel[0] if kind == "FusedDeformableBranch" else module.atrous_conv.weight.shape[2]
            parts.append((f"deformable convolutions {side}x{side}, offsets included", module))
        elif kind == "FusedWindowAttention" or kind == "ConstantWindowAttention":
            parts.append(("window attention with its projections", module))
        elif kind in {"FusedPerceptron", "Perceptron"}:
            parts.append(("perceptrons", module))
        elif kind == "DecoderBlock":
            parts.append((name.removeprefix("decoder.").removeprefix("module."), module))
        elif name.endswith(("ipt_blk5", "ipt_blk4", "ipt_blk3", "ipt_blk2", "ipt_blk1")):
            parts.append(("image patches", module))
    parts.append(("decoder, all of it", network.decoder))
    return parts


def _hooked(network: BiRefNet, stopwatch: Stopwatch) -> list[Any]:
    hooks = []
    for index, (name, module) in enumerate(_named_parts(network)):
        hooks.append(module.register_forward_pre_hook(_call(stopwatch.begin, name, index)))
        hooks.append(module.register_forward_hook(_call(stopwatch.end, name, index)))
    return hooks


def _call(what: Callable[[str], None], name: str, index: int) -> Callable[..., None]:
    del index  # parts of one name never run inside each other

    def hook(*_: object) -> None:
        what(name)

    return hook


def _copies(clock: Clock, images: torch.Tensor, resident: torch.Tensor) -> dict[str, float]:
    """Bytes to the device and mattes back, pinned, by themselves."""
    if clock.device.type != "cuda":
        return {}
    pinned = images.pin_memory()
    alpha = torch.zeros(images.shape[:3], device=clock.device)
    back = torch.zeros(images.shape[:3], pin_memory=True)
    return {
        "images_to_device": round(clock.median_ms(lambda: resident.copy_(pinned, non_blocking=True)), 4),
        "alpha_to_host": round(clock.median_ms(lambda: back.copy_(alpha, non_blocking=True)), 4),
    }


def _graph(context: Context, network: BiRefNet, subject: Subject, batch: int, eager: float) -> dict[str, float]:
    runner = context.runner(network, subject)
    if not isinstance(runner, GraphRunner):
        return {}
    runner({"image": subject.images(batch)})
    graph = context.clock.median_ms(lambda: runner.replay(batch))
    return {"graph_ms": round(graph, 4), "eager_over_graph": round(eager / graph, 4)}
