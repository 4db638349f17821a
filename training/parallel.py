"""Several processes that train one network: each has a part of every batch, gradients are averaged.

They are started by `--processes` on one machine, or by `torchrun` (or whatever sets its environment variables) on any
number. On the CPU they are single-threaded: on shared cores that beats one process with several threads, because the
processes wait for each other once for each step and not at every operation.

Gradients are averaged by one all-reduce of all of them after the backward pass, and not by torch's
`DistributedDataParallel`:

- A resumed run equals an uninterrupted one bit for bit. `DistributedDataParallel` orders its buckets anew after the
  first step, so that with more than two processes sums would be rounded in another order after a resumption.
- It wraps `forward`, which a refiner is not trained through, and has to be told of parameters without a gradient:
  which heads have one depends on the loss weights, and in fine-tuning on the step.

What this costs: communication does not overlap with the backward pass, and the gradients are there twice.
"""

import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

_ALIKE = 1e-6
_TOLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class LaunchError(ValueError):
    """The processes cannot be started as asked; the message says what was expected and what was found."""


class Group:
    """The processes of one run, as one of them sees it; a group of one does nothing."""

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None) -> None:
        self.rank = rank
        self.size = size
        self.device = device or torch.device("cpu")

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
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return float(shared.item())

    def check_alike(self, parameters: Iterable[Tensor]) -> None:
        """Refuse to go on with processes that have drifted apart, as faulty memory or a faulty link makes them.

        GPUs of different kinds may differ in the last bits, so that sums are compared up to a small share of them.

        Raises:
            RuntimeError: This process's parameters are not the first one's.
        """
        if self.size == 1:
            return
        values = [parameter.detach().double() for parameter in parameters]
        total = float(torch.stack([each.sum() for each in values]).sum())
        scale = float(torch.stack([each.abs().sum() for each in values]).sum())
        first = self.agree(total)
        if not abs(total - first) <= _ALIKE * scale:
            raise RuntimeError(
                f"process {self.rank} of {self.size}: expected the first one's weights, whose sum is {first!r}, "
                f"found {total!r}"
            )

    def share_of(self, batch: int) -> slice:
        """This process's part of a batch: two images at least, as pooled maps normalise over the images alone."""
        if batch % self.size or batch < 2 * self.size:
            raise ValueError(f"a batch must give each of {self.size} processes 2 images or more, evenly; found {batch}")
        part = batch // self.size
        return slice(self.rank * part, (self.rank + 1) * part)


@dataclass(frozen=True)
class Processes:
    """How many processes, and where.

    Attributes:
        count: To be started on this machine; 1 where `torchrun` has started them.
        device: `cpu`, or `cuda`: one process for each GPU.
    """

    count: int = 1
    device: str = "cpu"


def told_rank() -> int | None:
    """Which process of how many this is, if `torchrun` or its like started it; else None."""
    if all(name in os.environ for name in _TOLD):  # noqa: TID251  the launcher's only way to tell
        return int(os.environ["RANK"])  # noqa: TID251
    return None


def launch(processes: Processes, work: Callable[..., None], *arguments: object) -> None:
    """Call `work(group, *arguments)` in this process, in fresh ones, or as one of those that `torchrun` started.

    Raises:
        LaunchError: There is no such device, or both `torchrun` and `processes` would start processes.
    """
    _check(processes)
    if told_rank() is not None:
        local = dist.get_node_local_rank(fallback_rank=0)
        _join(_device(processes.device, local), None, None, work, arguments)
    elif processes.count == 1:
        work(Group(device=_device(processes.device, 0)), *arguments)
    else:
        with tempfile.TemporaryDirectory() as folder:
            meeting = f"file://{Path(folder) / 'meeting'}"
            spawn(_enter, (processes, meeting, work, arguments), nprocs=processes.count)


def _check(processes: Processes) -> None:
    if told_rank() is not None and processes.count > 1:
        raise LaunchError(f"torchrun has started the processes: expected no --processes, found {processes.count}")
    if processes.device == "cpu":
        return
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = processes.count if told_rank() is None else dist.get_node_local_rank(fallback_rank=0) + 1
    if found < wanted:
        raise LaunchError(f"expected {wanted} GPUs, one for each process, found {found} that torch sees")


def _device(kind: str, index: int) -> torch.device:
    if kind == "cpu":
        return torch.device("cpu")
    device = torch.device(kind, index)
    torch.cuda.set_device(device)
    return device


def _enter(
    rank: int, processes: Processes, meeting: str, work: Callable[..., None], arguments: tuple[object, ...]
) -> None:
    _join(_device(processes.device, rank), meeting, (rank, processes.count), work, arguments)


def _join(
    device: torch.device,
    meeting: str | None,
    place: tuple[int, int] | None,
    work: Callable[..., None],
    arguments: tuple[object, ...],
) -> None:
    """Meet the others, work, and leave; without a meeting place and a rank the environment says both."""
    cuda = device.type == "cuda"
    rank, size = place or (-1, -1)
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        init_method=meeting or "env://",
        rank=rank,
        world_size=size,
        device_id=device if cuda else None,
    )
    try:
        work(Group(dist.get_rank(), dist.get_world_size(), device), *arguments)
    finally:
        dist.destroy_process_group()
