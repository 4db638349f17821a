"""How kernels are launched: block sizes that fit a GPU, shipped or found by trying.

Trying compiles and times every candidate, seconds each; Triton keeps what it compiled on disk. A choice holds for the
process, so that a kernel is the same one each time a network runs, and what a CUDA graph holds is what an eager run
computes.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from triton.runtime.errors import OutOfResources

_WARM_UP, _RUNS = 2, 7


@dataclass(frozen=True, slots=True)
class Launch:
    """One way to launch a kernel.

    Attributes:
        blocks: Sizes of its blocks, by name.
        warps: Of a program.
        stages: Of the software pipeline.
    """

    blocks: tuple[tuple[str, int], ...]
    warps: int = 4
    stages: int = 2

    def arguments(self) -> dict[str, int]:
        """As Triton takes them."""
        return {**dict(self.blocks), "num_warps": self.warps, "num_stages": self.stages}


@dataclass(frozen=True, slots=True)
class Task:
    """What a kernel is asked to do.

    Attributes:
        kernel: Its name.
        kind: Type and sizes, as far as they decide which launch is the fastest: tasks of one kind take the same.
        flops: Floating-point operations of its matrix products.
        bytes: That must cross the device's memory: every operand read once, every result written once.
    """

    kernel: str
    kind: tuple[object, ...]
    flops: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.kernel} {' '.join(map(str, self.kind))}"


Call = Callable[[Launch], None]


class Launches:
    """The launches that a GPU has been found to take.

    Attributes:
        tuning: Whether a kernel that is met for the first time tries its candidates, instead of taking the first that
            this GPU can launch.
    """

    def __init__(self, *, tuning: bool = False) -> None:
        self.tuning = tuning
        self._chosen: dict[str, Launch] = {}

    @property
    def chosen(self) -> Mapping[str, dict[str, int]]:
        """What was chosen so far, by kernel and kind: to be written down."""
        return {kind: launch.arguments() for kind, launch in self._chosen.items()}

    def run(self, task: Task, candidates: Sequence[Launch], call: Call) -> None:
        """Launch a kernel as was chosen for tasks of this kind; choose if this is the first one.

        Args:
            task: What it is to do.
            candidates: The first is what is shipped for this kernel; the rest are tried when tuning, and where the
                first asks for more than this GPU has.
            call: Launches it; must give the same result however often it is called, or have one candidate only.

        Raises:
            OutOfResources: No candidate fits this GPU.
        """
        if (launch := self._chosen.get(str(task))) is not None:
            call(launch)
            return
        tries = self.tuning and len(candidates) > 1
        self._chosen[str(task)] = _fastest(candidates, call) if tries else _first(candidates, call)


def _first(candidates: Sequence[Launch], call: Call) -> Launch:
    for launch in candidates[:-1]:
        try:
            call(launch)
        except OutOfResources:
            continue
        return launch
    call(candidates[-1])
    return candidates[-1]


def _fastest(candidates: Sequence[Launch], call: Call) -> Launch:
    times = {}
    for launch in candidates:
        try:
            times[launch] = _milliseconds(launch, call)
        except OutOfResources:
            continue
    if not times:
        return _first(candidates, call)
    best = min(times, key=lambda launch: times[launch])
    call(best)
    return best


def _milliseconds(launch: Launch, call: Call) -> float:
    for _ in range(_WARM_UP):
        call(launch)
    found = []
    for _ in range(_RUNS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call(launch)
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end))
    return statistics.median(found)
