"""Section `official`: the authors' own code on the same GPU, with the same weights, eager and under torch.compile."""

import importlib
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.subjects import Context, Subject, release
from matting.normalisation import DEVIATION, MEAN

_COMPILED_BATCHES = (1, 8)  # each takes minutes to compile
_NO_CHECKOUT = "no checkout of the official implementation was given: --official DIR"


def measure_official(context: Context) -> None:
    """Swin-L at 1024x1024 in fp16, each at its batches; the caller compares the best of each."""
    subject = context.subjects[0]
    if context.official is None:
        for mode in ("eager", "compiled"):
            context.report.unmeasured(subject.row(backend=f"official-{mode}", precision="fp16"), _NO_CHECKOUT)
        return
    with _importable(context.official):
        network = official_network(subject).to(context.device).half()
    modes: list[tuple[str, Callable[..., Any], Sequence[int]]] = [
        ("eager", network, subject.batches),
        ("compiled", torch.compile(network), _COMPILED_BATCHES),
    ]
    for mode, module, batches in modes:
        for batch in batches:
            row = subject.row(backend=f"official-{mode}", precision="fp16", batch=batch)
            found = context.report.measure(row, partial(_row, context, subject, module, batch))
            release(context.device)
            if found is None:
                break


def official_network(subject: Subject) -> nn.Module:
    """The authors' network with our weights, in evaluation mode; their checkout must be importable."""
    _stand_in_for_kornia()
    config = importlib.import_module("config").Config
    module = importlib.import_module("models.birefnet")
    if "swin_v1_l" not in str(getattr(config(), "bb", "")):
        raise RuntimeError(f"expected a checkout whose backbone is swin_v1_l, found {getattr(config(), 'bb', None)}")
    network: nn.Module = module.BiRefNet(bb_pretrained=False)
    missing, unknown = network.load_state_dict(subject.network().state_dict(), strict=False)
    wrong = [
        key for key in (*missing, *unknown) if not key.endswith(("relative_position_index", "num_batches_tracked"))
    ]
    if wrong:
        raise RuntimeError(f"expected the keys of the official network, found others: {wrong[:5]}")
    return network.eval()


@torch.inference_mode()
def _row(context: Context, subject: Subject, module: Callable[..., Any], batch: int) -> dict[str, Any]:
    mean, deviation = (torch.tensor(each, device=context.device).view(1, 3, 1, 1) for each in (MEAN, DEVIATION))
    images = torch.from_numpy(subject.images(batch)).to(context.device)
    tensor = ((images.permute(0, 3, 1, 2).float() / 255 - mean) / deviation).half().contiguous()

    def run() -> object:
        return module(tensor)[-1].sigmoid()

    summary = context.clock.summary(run)
    memory = torch.cuda.max_memory_allocated(context.device) if context.device.type == "cuda" else 0
    return {
        "time": summary,
        "images_per_second": round(1000 * batch / summary["median_ms"], 3),
        "peak_mib": round(memory / 2**20, 1),
    }


@contextmanager
def _importable(checkout: Path) -> Iterator[None]:
    here = Path.cwd()
    sys.path.insert(0, str(checkout.resolve()))
    os.chdir(checkout)  # its configuration reads files beside it
    try:
        yield
    finally:
        os.chdir(here)
        sys.path.remove(str(checkout.resolve()))


def _stand_in_for_kornia() -> None:
    """It is only read in training, but imported at once."""
    if importlib.util.find_spec("kornia") is None:
        package, filters = types.ModuleType("kornia"), types.ModuleType("kornia.filters")
        filters.laplacian = None  # type: ignore[attr-defined]
        package.filters = filters  # type: ignore[attr-defined]
        sys.modules.update({"kornia": package, "kornia.filters": filters})
