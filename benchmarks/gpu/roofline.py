"""The least time that a batch can take: the sum over operators of what bounds each, products or memory.

    python -m benchmarks.gpu.roofline --tflops 788 --gigabytes-per-second 4300

The network as the torch backend runs it is executed on tensors without memory; every operator that is no view counts
its operands and its result once, and its multiplications and additions where it is a product. An operator cannot be
faster than the larger of FLOP ÷ ceiling of products and bytes ÷ bandwidth; nothing here overlaps with anything else.
"""

import argparse
import functools
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.results import markdown
from modeling.birefnet.config import SWIN_L, SWIN_T, BiRefNetConfig
from modeling.birefnet.network import BiRefNet

_FREE = ("empty", "new_empty", "empty_like", "detach", "lift_fresh", "_unsafe_view")
_SUBJECTS = (
    ("Swin-L", SWIN_L, 1024, 1),
    ("Swin-L", SWIN_L, 1024, 8),
    ("Swin-T", SWIN_T, 1024, 8),
    ("Swin-L", SWIN_L, 2048, 1),
)

Operator = tuple[str, int, int]
"""Name, floating-point operations, bytes."""


class _Counting(TorchDispatchMode):
    def __init__(self, found: list[Operator]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        views = any(each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns)
        if isinstance(result, Tensor) and not views and name not in _FREE:
            counter = flop_registry.get(func.overloadpacket)
            flops = counter(*args, **(kwargs or {}), out_val=result) if counter is not None else 0
            operands = [each for each in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
            moved = sum(each.numel() * each.element_size() for each in (*operands, result))
            self._found.append((name, int(flops), moved))
        return result


@functools.cache
def operators(config: BiRefNetConfig, size: tuple[int, int], batch: int) -> tuple[Operator, ...]:
    """Every operator that a batch takes, in order; nothing is computed."""
    from modeling.fused import Launches, Task, fuse

    found: list[Operator] = []

    class Counted(Launches):
        def run(self, task: Task, *_: object) -> None:
            found.append((task.kernel, task.flops, task.bytes))

    with torch.device("meta"):
        network = BiRefNet(config).eval()
    fused = fuse(network, torch.float16, Counted())
    image = torch.empty((batch, 3, *size), device="meta")
    with torch.no_grad():  # in inference mode composite operators, such as linear, reach the counter whole
        fused(image)  # constants that are made once are made here
        found.clear()
        with _Counting(found):
            fused(image)
    return tuple(found)


def roofline(
    config: BiRefNetConfig | None, size: tuple[int, int], batch: int, ceilings: Mapping[str, float]
) -> dict[str, Any]:
    """The least milliseconds of a batch, in all (`ms`) and by operator (`parts`), and what they are made of."""
    if config is None:
        raise ValueError("expected the configuration of a network, found None")
    flop_ms, byte_ms = 1 / (ceilings["tflops"] * 1e9), 1 / (ceilings["gigabytes_per_second"] * 1e6)
    parts: dict[str, float] = defaultdict(float)
    every = operators(config, size, batch)
    for name, flops, moved in every:
        parts[name] += max(flops * flop_ms, moved * byte_ms)
    return {
        "ms": sum(parts.values()),
        "gflop": sum(flops for _, flops, _ in every) / 1e9,
        "gigabytes": sum(moved for *_, moved in every) / 1e9,
        "products_ms": sum(flops for _, flops, _ in every) * flop_ms,
        "parts": dict(sorted(parts.items(), key=lambda part: -part[1])),
    }


def table(ceilings: Mapping[str, float]) -> str:
    """The Markdown table of `docs/performance.md`."""
    rows = []
    for name, config, side, batch in _SUBJECTS:
        found = roofline(config, (side, side), batch, ceilings)
        rows.append(
            (
                f"{name}, {side}×{side}, batch {batch}",
                f"{found['gflop'] / batch:.0f}",
                f"{found['gigabytes'] / batch:.2f}",
                f"{found['products_ms'] / batch:.2f}",
                f"{found['ms'] / batch:.2f}",
                f"{1000 * batch / found['ms']:.0f}",
            )
        )
    head = ("per image", "GFLOP", "GB", "ms, products alone", "ms, roofline", "images/s at most")
    return markdown(head, rows)


def parts_table(ceilings: Mapping[str, float]) -> str:
    """What the roofline of Swin-L at 1024x1024 is made of, by operator."""
    found = roofline(SWIN_L, (1024, 1024), 8, ceilings)
    rows = [(name, f"{ms / 8:.3f}") for name, ms in found["parts"].items() if ms > 0.08]
    return markdown(("operator, Swin-L 1024×1024, batch 8", "ms per image"), rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Print what a machine with these ceilings could do."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.roofline", description=__doc__)
    parser.add_argument("--tflops", type=float, required=True, help="measured ceiling of fp16 products")
    parser.add_argument("--gigabytes-per-second", type=float, required=True, help="measured ceiling of a copy")
    parser.add_argument("--parts", action="store_true", help="also by operator, for the first row")
    arguments = parser.parse_args(argv)
    ceilings = {"tflops": arguments.tflops, "gigabytes_per_second": arguments.gigabytes_per_second}
    print(table(ceilings))
    if arguments.parts:
        print("\n" + parts_table(ceilings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
