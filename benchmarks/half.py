"""Which parts of a network need fp32: the error of alpha with one part at a time in half precision.

    python -m benchmarks.half --out benchmarks/results/export/half.json

The parts are those of a folded network. Half precision is emulated (`model_export.half_emulation`): a part's weights
are rounded, and so is what each of its operators gives; everything else is fp32. A deformable convolution is one
operator, which computes in fp32; `coordinates` are the positions that it samples, rounded as TensorRT's kernel does.
The rows `everything` and `as exported` compare the naive `network.half()` with `modeling.half.half_precision`.

Three networks: random weights, which amplify every rounding; the same with outliers in the residual stream, as trained
Swin networks have them; the embedded network on a photograph.
"""

import argparse
import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from benchmarks.machine import describe
from benchmarks.results import write_result
from model_export.half_emulation import HalfEmulation
from model_export.runner import normalised
from model_export.sample_inputs import sample_inputs
from modeling.birefnet.config import SWIN_T
from modeling.birefnet.network import BiRefNet
from modeling.deform_conv import DeformConvOperator
from modeling.folding import fold
from modeling.folding.sampling import MergedDeformableConv2d
from modeling.half import half_precision
from modeling.weights import load_network
from tests.support.networks import seeded_network
from tests.support.seeded import seeded_input

CHECKPOINT = Path("training/checkpoints/compact.safetensors")
OUTLIER = 1e5

PARTS: Mapping[str, Callable[[str], bool]] = {
    "residual stream": lambda name: name.startswith("bb") and ".attn" not in name and ".mlp" not in name,
    "attention": lambda name: ".attn" in name,
    "perceptrons": lambda name: ".mlp" in name,
    "squeeze": lambda name: name.startswith("squeeze_module"),
    "decoder blocks": lambda name: name.startswith("decoder.decoder_block"),
    "offsets and modulation": lambda name: "sampling_conv" in name,
    "pooled means": lambda name: "global_avg_pool.0" in name,
    "image patches": lambda name: "ipt_blk" in name,
    "laterals and gates": lambda name: "lateral_block" in name or "gdt_convs" in name or name == "decoder",
}


COORDINATES = "coordinates"


class _RoundedInside(TorchDispatchMode):
    """Rounds what operators give while a module of the part is running."""

    def __init__(self, part: Callable[[str], bool], running: list[str]) -> None:
        super().__init__()
        self._part = part
        self._running = running

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        inside = bool(self._running) and self._part(self._running[-1])
        # Views share memory with what was rounded before, and in-place operators write it.
        if inside and isinstance(result, Tensor) and result.dtype == torch.float32 and not result._is_view():
            return result.copy_(result.half()) if func._schema.is_mutable else result.half().float()
        return result


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write it down."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.half", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True, help="where the JSON goes")
    arguments = parser.parse_args(argv)
    found = {"machine": describe(), "networks": {name: measure(network, x) for name, network, x in subjects()}}
    print(table(found))
    write_result(arguments.out, "benchmarks.half", ["--out", str(arguments.out)], found)
    return 0


def subjects() -> Iterator[tuple[str, BiRefNet, Tensor]]:
    """Name, folded network and input, (1, 3, H, W)."""
    yield "random Swin-T, 256x256", fold(seeded_network(SWIN_T)), seeded_input(1, 256, 256)
    loud = seeded_network(SWIN_T)
    loud.bb.get_parameter("patch_embed.norm.bias").data[3] = OUTLIER
    yield "random Swin-T with an outlier, 256x256", fold(loud), seeded_input(1, 256, 256)
    photograph = dict(sample_inputs((384, 384)))["astronaut"]
    tensor = torch.from_numpy(normalised(photograph[None])).float()
    yield "embedded, astronaut 384x384", fold(load_network(CHECKPOINT)), tensor


@torch.no_grad()
def measure(network: BiRefNet, x: Tensor) -> dict[str, dict[str, float | None]]:
    """Largest and mean error of alpha, by part; None where it is not a number."""
    truth = torch.sigmoid(copy.deepcopy(network).double()(x.double()))
    with HalfEmulation():
        everything = copy.deepcopy(network).half()(x.half())
        exported = half_precision(network)(x)
    found = {name: _error(part_in_half(network, x, part), truth) for name, part in PARTS.items()}
    found[COORDINATES] = _error(coordinates_in_half(network, x), truth)
    return {**found, "everything": _error(everything, truth), "as exported": _error(exported, truth)}


@torch.no_grad()
def part_in_half(network: BiRefNet, x: Tensor, part: Callable[[str], bool]) -> Tensor:
    """Logits of a network with one part of it in half precision."""
    rounded = copy.deepcopy(network)
    running: list[str] = []
    for name, module in rounded.named_modules():
        if part(name):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.half().float()
        if isinstance(module, MergedDeformableConv2d):
            module.operator = _one_operator(module.operator, rounded=part(name))
    with _tracked(rounded, running), _RoundedInside(part, running):
        logits: Tensor = rounded(x)
    return logits


@torch.no_grad()
def coordinates_in_half(network: BiRefNet, x: Tensor) -> Tensor:
    """Logits of a network whose deformable convolutions round the positions of their samples."""
    rounded = copy.deepcopy(network)
    for module in rounded.modules():
        if isinstance(module, MergedDeformableConv2d):
            module.operator = _at_rounded_positions(module.operator, module.padding[0])
    logits: Tensor = rounded(x)
    return logits


def _one_operator(operator: DeformConvOperator, *, rounded: bool) -> DeformConvOperator:
    def run(*operands: Any, **geometry: Any) -> Tensor:  # noqa: ANN401  as the operator's
        with _disable_current_modes():
            result = operator(*operands, **geometry)
            return result.half().float() if rounded else result

    return run


def _at_rounded_positions(operator: DeformConvOperator, padding: int) -> DeformConvOperator:
    def run(x: Tensor, offset: Tensor, *operands: Any, **geometry: Any) -> Tensor:  # noqa: ANN401
        side = 2 * padding + 1
        taps = torch.arange(side) - padding
        rows = (torch.arange(offset.shape[2])[:, None] + taps)[:, None, :, None].expand(-1, offset.shape[3], side, side)
        columns = (torch.arange(offset.shape[3])[:, None] + taps)[None, :, None, :].expand_as(rows)
        # (1, 2 K, H', W'), rows and columns of each tap in turn, as the offsets are.
        origins = torch.stack((rows, columns), dim=-1).flatten(2).permute(2, 0, 1)[None].float()
        return operator(x, (origins + offset).half().float() - origins, *operands, **geometry)

    return run


@contextmanager
def _tracked(network: nn.Module, running: list[str]) -> Iterator[None]:
    """Keep the names of the modules that are running, innermost last."""

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: running.append(name)

    def leave(*_: object) -> None:
        running.pop()

    hooks = [module.register_forward_pre_hook(enter(name)) for name, module in network.named_modules()]
    hooks += [module.register_forward_hook(leave) for module in network.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _error(logits: Tensor, truth: Tensor) -> dict[str, float | None]:
    difference = torch.abs(torch.sigmoid(logits.double()) - truth).numpy()
    worst, mean = float(np.max(difference)), float(np.mean(difference))
    return {"max_abs": worst if math.isfinite(worst) else None, "mean_abs": mean if math.isfinite(mean) else None}


def table(result: Mapping[str, Any]) -> str:
    """The Markdown table of a result: one row per part, largest and mean error of alpha per network."""
    networks = result["networks"]
    lines = [f"| in half precision | {' | '.join(networks)} |", f"|---|{'---|' * len(networks)}"]
    for part in (*PARTS, COORDINATES, "everything", "as exported"):
        cells = [_cell(found[part]) for found in networks.values()]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(error: Mapping[str, float | None]) -> str:
    worst, mean = error["max_abs"], error["mean_abs"]
    return "overflow" if worst is None or mean is None else f"{worst:.1e} / {mean:.1e}"


if __name__ == "__main__":
    raise SystemExit(main())
