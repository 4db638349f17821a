"""A share of the answered requests is answered a second time, by another model, to see how far the two are apart.

Nobody waits for the second answer. It is made after the client's, from the upload, as if it had come for the other
model: decoded on a thread of its own that yields to all others, and run on the device only when nothing else waits or
runs there. Where no such moment comes, the sample is dropped and counted. What a client can notice is that a device is
not interrupted: a request that comes while a sample runs waits for it, a batch of one.

Rules of this module: one event loop; what touches pixels runs in the thread.
"""

import asyncio
import contextlib
import contextvars
import logging
import math
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from matting.difference import difference
from server.engine import Engine, Item
from server.engine.batching import Priority
from server.errors import InvalidOptionError, ServerError
from server.observability.metrics import Metrics
from server.pipeline.header import ImageHeader
from server.pipeline.models import Model, Models
from server.pipeline.stages import prepare
from server.pipeline.study import ShadowPlan, Study

_log = logging.getLogger(__name__)
T = TypeVar("T")

_NICEST = 19


@dataclass(frozen=True, slots=True)
class ShadowLimits:
    """What samples may take.

    Attributes:
        waiting: Samples that may wait for their turn.
        waiting_bytes: Of their uploads together; one alone may always wait.
        patience_s: Seconds in which the device must have had a free moment for a sample.
        scaled_decode: As `PipelineLimits.scaled_decode`.
    """

    waiting: int = 8
    waiting_bytes: int = 64 << 20
    patience_s: float = 10.0
    scaled_decode: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """A request that was answered.

    Attributes:
        model: By which it was.
        image: The upload.
        header: Of it.
        alpha: (h, w) float32 in [0, 1], the model's answer at its working size.
        request_id: Of it.
    """

    model: Model
    image: bytes = field(repr=False)
    header: ImageHeader
    alpha: NDArray[np.float32] = field(repr=False)
    request_id: str = ""


class Shadow:
    """Compares two models on live traffic. All methods belong to one event loop."""

    def __init__(self, engine: Engine, models: Models, metrics: Metrics, limits: ShadowLimits) -> None:
        """Compare nothing yet; no thread is started before the first sample."""
        self._engine = engine
        self._models = models
        self._metrics = metrics
        self._limits = limits
        self._study: Study | None = None
        self._waiting: deque[tuple[Sample, Study]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shadow", initializer=_yield_to_others)

    def begin(self, plan: ShadowPlan | None) -> None:
        """Follow a plan from now on, with figures from zero; None ends it.

        Raises:
            UnknownModelError: One of its models is not served.
            InvalidOptionError: Both are one model.
        """
        if plan is not None:
            for name in (plan.model, plan.shadow):
                self._models.find(name)
            if plan.model == plan.shadow:
                raise InvalidOptionError(f"expected two models, found {plan.model} twice")
        for _, study in self._waiting:
            self._count(study, "outdated")
        self._waiting.clear()
        self._study = Study(plan) if plan is not None else None

    def need_of(self, name: str) -> str | None:
        """What a model is needed for here, in words; None where it is not."""
        plan = self._study.plan if self._study is not None else None
        return f"the shadowing of {plan.model} by {plan.shadow}" if plan and name in (plan.model, plan.shadow) else None

    def chooses(self, model: Model) -> bool:
        """Whether the next request for a model is to be sampled: then its upload is kept until it is answered."""
        study = self._study
        return study is not None and study.plan.model == model.name and study.draw()

    def offer(self, sample: Sample) -> None:
        """A request that was chosen has been answered. Returns at once."""
        study, limits = self._study, self._limits
        if study is None or study.plan.model != sample.model.name:
            return
        held = sum(len(waiting.image) for waiting, _ in self._waiting)
        if self._waiting and (len(self._waiting) >= limits.waiting or held + len(sample.image) > limits.waiting_bytes):
            self._count(study, "busy")
            return
        self._waiting.append((sample, study))
        if self._task is None:
            self._work()

    def report(self) -> dict[str, Any] | None:
        """The plan and its figures, as JSON types; None without a plan."""
        return self._study.report() if self._study is not None else None

    async def close(self) -> None:
        """Drop what waits."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _work(self) -> None:
        # In a context of its own: what the log says of a sample must not carry the id of another request.
        self._task = asyncio.create_task(self._take_turns(), context=contextvars.Context())
        self._task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a shadow sample ended by an unexpected error", exc_info=error)
        if self._waiting:  # left by an error, or come after the task's last look
            self._work()

    async def _take_turns(self) -> None:
        while self._waiting:
            sample, study = self._waiting.popleft()
            outcome = "failed"
            try:
                outcome = await self._examine(sample, study)
            except ServerError as error:
                _log.warning("a shadow sample failed: %s", error, extra={"sample": sample.request_id})
            finally:
                self._count(study, outcome)
            del sample

    async def _examine(self, sample: Sample, study: "Study") -> str:
        with self._models.borrow(study.plan.shadow) as model:
            ids = (sample.model.artifact_id, model.artifact_id)
            inputs, outputs = model.manifest.inputs[0], model.manifest.outputs[0]
            size, scaled = model.manifest.input_size, self._limits.scaled_decode
            read = partial(prepare, sample.image, sample.header, size, colours=False, scaled_decode=scaled)
            canvas = (await self._in_thread(read)).canvas
            try:
                async with asyncio.timeout(self._limits.patience_s):
                    await self._engine.idle()
            except TimeoutError:
                return "busy"
            # Of the lowest priority and without a deadline: should anything overtake it after all, it goes last.
            item = Item(model.artifact_id, {inputs.name: canvas}, size, Priority.LOW, None, sample.request_id)
            outcome = await self._engine.submit(item)
            alpha = cast("NDArray[np.float32]", outcome.arrays[outputs.name])
            found = await self._in_thread(lambda: difference(sample.alpha, alpha))
        if not math.isfinite(found.mean):
            return "failed"
        if ids != self._served(study.plan):
            return "outdated"
        study.add(found, ids, sample.request_id)
        for region, value in (("whole", found.mean), ("band", found.band)):
            if value is not None:
                self._metrics.shadow_difference.labels(*ids, region).observe(value)
        return "compared"

    def _served(self, plan: ShadowPlan) -> tuple[str, str]:
        return self._models.find(plan.model).artifact_id, self._models.find(plan.shadow).artifact_id

    def _count(self, study: "Study", outcome: str) -> None:
        study.samples[outcome] += 1
        self._metrics.shadow_images.labels(outcome).inc()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _yield_to_others() -> None:
    # Threads have priorities of their own on Linux; elsewhere this thread competes with the others.
    with contextlib.suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICEST)
