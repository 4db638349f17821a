"""Which launch of a kernel is chosen."""

from dataclasses import replace

import pytest
from triton.runtime.errors import OutOfResources

from modeling.fused import launches
from modeling.fused.launches import Launch, Launches, Task

BIG, MIDDLE, SMALL = (Launch((("block", size),), warps=size) for size in (8, 4, 2))

TASK = Task("kernel", (8, 8), flops=1, bytes=1)


class Kernel:
    """Fits up to a size, and takes as long as it is told."""

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self.calls: list[Launch] = []

    def __call__(self, launch: Launch) -> None:
        if launch.warps > self.largest:
            raise OutOfResources(launch.warps, self.largest, "shared memory")
        self.calls.append(launch)


def test_the_shipped_launch_is_taken_untried() -> None:
    kernel, chosen = Kernel(8), Launches()
    for _ in range(3):
        chosen.run(TASK, [BIG, SMALL], kernel)
    assert kernel.calls == [BIG, BIG, BIG]
    assert chosen.chosen == {"kernel 8 8": {"block": 8, "num_warps": 8, "num_stages": 2}}


def test_a_gpu_with_less_takes_the_first_that_fits() -> None:
    kernel, chosen = Kernel(4), Launches()
    chosen.run(TASK, [BIG, MIDDLE, SMALL], kernel)
    chosen.run(TASK, [BIG, MIDDLE, SMALL], kernel)
    assert kernel.calls == [MIDDLE, MIDDLE]


def test_a_gpu_that_none_fits_says_so() -> None:
    for tuning in (False, True):
        with pytest.raises(OutOfResources, match="shared memory"):
            Launches(tuning=tuning).run(TASK, [BIG, SMALL], Kernel(1))


def test_tuning_takes_the_fastest_once(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {MIDDLE: 1.0, SMALL: 2.0}
    tried: list[Launch] = []

    def measure(launch: Launch, call: launches.Call) -> float:
        call(launch)
        tried.append(launch)
        return times[launch]

    monkeypatch.setattr(launches, "_milliseconds", measure)
    kernel, chosen = Kernel(4), Launches(tuning=True)
    for _ in range(2):
        chosen.run(TASK, [BIG, SMALL, MIDDLE], kernel)
    assert tried == [SMALL, MIDDLE]
    assert kernel.calls == [SMALL, MIDDLE, MIDDLE, MIDDLE]


def test_tasks_of_one_kind_take_the_same_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launches, "_milliseconds", lambda launch, _: 1.0 / launch.warps)
    kernel, chosen = Kernel(8), Launches(tuning=True)
    for task, candidates in (
        (TASK, [BIG, SMALL]),
        (replace(TASK, flops=9, bytes=9), [SMALL]),
        (replace(TASK, kind=(9,)), [SMALL]),
    ):
        chosen.run(task, candidates, kernel)
    assert kernel.calls == [BIG, BIG, SMALL]


def test_what_has_one_candidate_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that works in place must not run twice."""
    monkeypatch.setattr(launches, "_milliseconds", lambda *_: pytest.fail("it was timed"))
    kernel = Kernel(8)
    Launches(tuning=True).run(TASK, [BIG], kernel)
    assert kernel.calls == [BIG]
