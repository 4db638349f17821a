"""Several single-threaded processes that train one network: each has a part of every batch, gradients are averaged.

On shared cores this beats one process with several threads, because the processes wait for each other once for each
step and not at every operation.
"""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn


class Group:
    """The processes of one run, as one of them sees it; a group of one does nothing."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    def average(self, gradients: Iterable[Tensor]) -> None:
        """Replace every process's gradients by their mean over the processes."""
        if self.size == 1:
            return
        tensors = list(gradients)
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def agree(self, value: float) -> float:
        """The first process's value, so that all take the same decisions."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(shared, 0)
        return float(shared.item())

    def share_of(self, batch: int) -> slice:
        """This process's part of a batch: two images at least, as pooled maps normalise over the images alone."""
        if batch % self.size or batch < 2 * self.size:
            raise ValueError(f"a batch must give each of {self.size} processes 2 images or more, evenly; found {batch}")
        part = batch // self.size
        return slice(self.rank * part, (self.rank + 1) * part)


def _enter(rank: int, size: int, meeting: str, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    try:
        work(Group(rank, size), *arguments)
    finally:
        dist.destroy_process_group()


def launch(processes: int, work: Callable[..., None], *arguments: object) -> None:
    """Call `work(group, *arguments)` in this process, or in `processes` fresh ones."""
    if processes == 1:
        work(Group(), *arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        spawn(_enter, (processes, str(Path(folder) / "meeting"), work, arguments), nprocs=processes)
