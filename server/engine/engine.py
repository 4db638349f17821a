"""The asyncio side of the engine: life cycle, models, and `submit`."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from artifact import Artifact, Manifest
from server.backends.base import (
    Backend,
    BackendFault,
    Device,
    Finish,
    Finished,
    FinishingBackend,
    OutOfMemoryFault,
)
from server.engine.devices import Worker, finisher, living, names_of
from server.engine.dispatch import Dispatcher
from server.engine.flights import too_late
from server.engine.items import EngineLimits, Item, Outcome, cancelled_for
from server.engine.warmup import Search, Warm, warm_up
from server.engine.worker import DeviceThread
from server.errors import DeadlineExceededError, DeviceLostError, DrainingError, NotReadyError, UnknownModelError
from server.observability.metrics import Metrics

_log = logging.getLogger(__name__)

_NO_LIMITS: Mapping[str, int] = MappingProxyType({})
_CLOSE_S = 10.0  # for a device to finish its batch and free what it holds


class Engine:
    """One queue in front of one or several devices.

    All methods belong to one event loop, which never waits behind inference. `ready` and `live` are for the probes.
    """

    def __init__(
        self,
        make_backends: Sequence[Callable[[], Backend]],
        limits: EngineLimits,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare, without touching a device.

        Args:
            make_backends: One per device; each is called in the thread that will own what it returns.
            limits: How the devices may be used.
            metrics: Where everything is counted.
            clock: Monotonic seconds, the scale of `Item.deadline`; must be safe to call from any thread.
        """
        if not make_backends:
            raise ValueError("make_backends: expected at least one device, found none")
        self._make_backends = tuple(make_backends)
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._dispatcher = Dispatcher(limits, metrics, clock)
        self._manifests: dict[str, Manifest] = {}
        self._labels: dict[str, list[dict[str, str]]] = {}
        self._limited: dict[str, list[str]] = {}  # devices whose batch limit is published, by artifact id
        self._unready: str | None = "the engine has not been started"
        self._draining = False

    @property
    def unready_reason(self) -> str | None:
        """Why `ready` is False, for people; None when it is True."""
        if self._dispatcher.lost is not None:
            return f"the device is lost: {self._dispatcher.lost}"
        return "the engine is draining" if self._draining else self._unready

    @property
    def ready(self) -> bool:
        """Every model of `start` is warm and proved, a device is left, and new items are accepted."""
        return self.unready_reason is None

    @property
    def live(self) -> bool:
        """False once the last device is lost: only a new process cures that. As long as one lives, it serves."""
        return self._dispatcher.lost is None

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices, from `start` on, also those that were lost since."""
        return tuple(worker.device for worker in self._dispatcher.workers)

    @property
    def precisions(self) -> Mapping[str, str]:
        """The precision each served artifact runs at, by artifact id."""
        workers = self._dispatcher.workers
        warm = {name: found.precision for worker in workers for name, found in worker.warm.items()}
        return {name: warm[name] for name in self._manifests if name in warm}

    async def start(self, models: Mapping[str, Artifact], max_batches: Mapping[str, int] = _NO_LIMITS) -> None:
        """Open the devices, warm every model and prove its answers; ready after that.

        Whatever it raises is also the `unready_reason`.

        Args:
            models: By artifact id.
            max_batches: Largest batch of an artifact, by its id, where it has a limit of its own.

        Raises:
            BackendFault: A device cannot be opened, or an artifact not be run on it.
            ArtifactError: An artifact has no self-test, or one that does not fit.
            SelfTestFailedError: A device gives other answers than the artifact promises; the message has the figures.
        """
        self._unready = "the models are warming up"
        try:
            await self._open_devices()
            for artifact_id, artifact in models.items():
                await self.load(artifact_id, artifact, max_batches.get(artifact_id))
        except Exception as error:
            self._unready = f"start failed: {error}"
            raise
        self._unready = None

    async def load(self, artifact_id: str, artifact: Artifact, max_batch: int | None = None) -> None:
        """Load, warm and prove one more artifact on every device; items for it are accepted after that.

        Batches of other artifacts run in between: what waits, waits for one slice of the warm-up at a time. Cancelling
        it, or a fault, leaves everything as it was.

        Args:
            artifact_id: Not in use yet.
            artifact: What to load.
            max_batch: Its largest batch, where it has a limit of its own.

        Raises:
            BackendFault, ArtifactError, SelfTestFailedError: As `start`; the artifact is not served then, and
                everything else goes on as before.
        """
        workers = living(self._dispatcher.workers)
        if not self._dispatcher.workers or artifact_id in self._manifests:
            raise ValueError(f"artifact {artifact_id}: expected a started engine and a new id")
        warming = (self._warm(worker, artifact_id, artifact, max_batch) for worker in workers)
        try:
            results = await asyncio.gather(*warming, return_exceptions=True)
        except asyncio.CancelledError:
            self._unload(artifact_id)
            raise
        failures = [
            (worker, result)
            for worker, result in zip(workers, results, strict=True)
            # A device that was lost of something else meanwhile says nothing about the artifact.
            if isinstance(result, BaseException) and worker.lost in (None, str(result))
        ]
        if failures or not living(workers):
            self._unload(artifact_id)
            for worker, failure in failures:
                if self.ready and isinstance(failure, BackendFault) and failure.fatal:
                    self._dispatcher.lose(worker, str(failure))
            raise failures[0][1] if failures else BackendFault(self.unready_reason or "", fatal=True)
        self._dispatcher.allow(artifact_id, max(worker.warm[artifact_id].max_batch for worker in living(workers)))
        self._manifests[artifact_id] = artifact.manifest
        self._publish(artifact_id, artifact, living(workers))

    async def unload(self, artifact_id: str) -> None:
        """Stop serving an artifact; what waits for it is answered first."""
        self._manifests.pop(artifact_id, None)
        await self._dispatcher.settled(artifact_id)
        self._unload(artifact_id)
        for labels in self._labels.pop(artifact_id, ()):
            self._metrics.model_removed(labels)
        for device in self._limited.pop(artifact_id, ()):
            self._metrics.batch_limited(artifact_id, device, None)

    async def idle(self) -> None:
        """Wait until no item waits or runs: one that is then submitted, without another wait, runs at once."""
        await self._dispatcher.settled()

    async def submit(self, item: Item) -> Outcome:
        """Run one item and wait for its answer. Cancelling the caller's task cancels the item.

        Raises:
            NotReadyError: The models are still warming up.
            DrainingError: `drain` was called.
            UnknownModelError: No such artifact is served.
            DeadlineExceededError: The deadline has passed; at the latest then, wherever the item is.
            InferenceError: The device failed on this item.
            DeviceLostError: The device failed for good.
        """
        self._check(item)
        entry, member = self._dispatcher.add(item)
        timer = None
        if item.deadline is not None:
            remaining = max(0.0, item.deadline - self._clock())
            timer = asyncio.get_running_loop().call_later(remaining, self._dispatcher.expire, member)
        try:
            return await entry.answer
        except asyncio.CancelledError as cancellation:
            self._dispatcher.cancel(member, cancelled_for(cancellation))
            raise
        finally:
            if timer is not None:
                timer.cancel()

    async def finish(self, work: Finish, deadline: float) -> Finished | None:
        """Have a device make a matte and its colours out of a network's answer, between two batches.

        Args:
            work: What is to be made.
            deadline: Monotonic seconds, absolute.

        Returns:
            None where no device can, or the one that was asked failed: the host can still do it.

        Raises:
            DeadlineExceededError: The deadline has passed before it was done.
        """
        worker = finisher(self._dispatcher.workers)
        if worker is None:
            return None
        left_s, station = deadline - self._clock(), self._metrics.device

        def job(backend: Backend) -> Finished:
            if not isinstance(backend, FinishingBackend):
                raise TypeError("This is a bug: expected a backend that finishes")
            with station.work(0, worker=worker.name):  # no item of the queue: it only keeps the device busy
                return backend.finish(work)

        worker.errands += 1
        try:
            async with asyncio.timeout(max(0.0, min(left_s, self._limits.hang_s))):
                return await worker.do(job)
        except TimeoutError:
            if left_s <= self._limits.hang_s:
                raise too_late() from None
            station.dismiss(worker.name)
            self._dispatcher.lose(worker, f"{worker.name} did not finish a matte within {self._limits.hang_s:g} s")
        except BackendFault as fault:
            self._finish_failed(worker, fault)
        finally:
            worker.errands -= 1
        return None

    def wait_s(self, ahead: int) -> float:
        """Seconds until a device takes an item that has so many before it; 0 before anything was measured."""
        return self._dispatcher.wait_s(ahead)

    async def drain(self) -> None:
        """Refuse new items and wait until all that were accepted are answered."""
        self._draining = True
        await self._dispatcher.settled()

    async def close(self) -> None:
        """End the device threads. What still waits is answered with `DrainingError`."""
        self._draining = True
        self._dispatcher.fail_all(DrainingError("the server is shutting down"))
        workers = self._dispatcher.workers
        for worker in workers:
            worker.thread.stop()
        joins: list[Awaitable[bool]] = [asyncio.to_thread(worker.thread.join, _CLOSE_S) for worker in workers]
        for worker, ended in zip(workers, await asyncio.gather(*joins), strict=True):
            if not ended:
                _log.error("%s still runs a batch after %g s; it is left behind", worker.name, _CLOSE_S)

    def _finish_failed(self, worker: Worker, fault: BackendFault) -> None:
        if worker.lost is not None:
            return
        _log.warning("finishing a matte failed, the host does it: %s", fault, extra={"device": worker.name})
        if fault.fatal:
            self._dispatcher.lose(worker, str(fault))
        else:
            kind = "out_of_memory" if isinstance(fault, OutOfMemoryFault) else "item"
            self._metrics.faults.labels(kind, worker.name).inc()

    async def _open_devices(self) -> None:
        threads = [
            DeviceThread(make_backend, name=f"device-{index}") for index, make_backend in enumerate(self._make_backends)
        ]
        opening = (asyncio.wrap_future(thread.start()) for thread in threads)
        results = await asyncio.gather(*opening, return_exceptions=True)
        made = [
            (thread, found)
            for thread, found in zip(threads, results, strict=True)
            if not isinstance(found, BaseException)
        ]
        for (thread, backend), name in zip(made, names_of([backend.device for _, backend in made]), strict=True):
            finishes = isinstance(backend, FinishingBackend)
            self._dispatcher.workers.append(Worker(thread, backend.device, name, finishes=finishes))
            self._metrics.device_opened(name)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        self._metrics.device.capacity = len(threads)

    async def _warm(self, worker: Worker, artifact_id: str, artifact: Artifact, max_batch: int | None) -> None:
        most = self._limits.max_batch if self._limits.max_batch is not None else worker.device.max_batch
        most = min(most, artifact.manifest.max_batch, max_batch or most)
        search = Search(most, self._limits.batch_latency_s, self._clock)
        slices: Generator[None, None, Warm] | None = None

        def job(backend: Backend) -> Warm | None:
            nonlocal slices
            if slices is None:
                slices = warm_up(backend, artifact_id, artifact, search)
            try:
                next(slices)
            except StopIteration as end:
                found: Warm = end.value
                return found
            return None

        worker.loading += 1  # the first slice, the graph, may take much longer than the others, which are batches
        try:
            async with asyncio.timeout(self._limits.load_s):
                warm = await worker.do(job)
        except TimeoutError as error:
            detail = f"{worker.name} did not load {artifact_id} within {self._limits.load_s:g} s"
            raise BackendFault(detail, fatal=True) from error
        finally:
            worker.loading -= 1
        while warm is None:
            # One job per slice: a batch that was sent in the meantime is in the thread's line before the next one.
            warm = await worker.do(job)
        worker.warm[artifact_id] = warm
        self._metrics.device.assume(warm.item_s)

    def _unload(self, artifact_id: str) -> None:
        self._dispatcher.forget(artifact_id)
        for worker in self._dispatcher.workers:
            worker.warm.pop(artifact_id, None)
            worker.thread.post(lambda backend: backend.unload(artifact_id))

    def _publish(self, artifact_id: str, artifact: Artifact, workers: Sequence[Worker]) -> None:
        manifest = artifact.manifest
        on = {worker.device.name: worker.warm[artifact_id].precision for worker in workers}
        self._labels[artifact_id] = [
            {
                "model": artifact_id,
                "kind": manifest.kind,
                "backbone": manifest.backbone,
                "size": "x".join(map(str, manifest.input_size)),
                "precision": precision,
                "device": device,
                "sha256": artifact.sha256,
            }
            for device, precision in on.items()
        ]
        for labels in self._labels[artifact_id]:
            self._metrics.model_served(labels)
        self._limited[artifact_id] = [worker.name for worker in workers]
        for worker in workers:
            self._metrics.batch_limited(artifact_id, worker.name, worker.warm[artifact_id].max_batch)

    def _check(self, item: Item) -> None:
        if not self.live:
            raise DeviceLostError(self.unready_reason or "")
        if self._draining:
            raise DrainingError("the server is shutting down")
        if self._unready is not None:
            raise NotReadyError(self._unready)
        manifest = self._manifests.get(item.artifact_id)
        if manifest is None:
            raise UnknownModelError(f"no artifact {item.artifact_id} is served")
        if item.deadline is not None and item.deadline <= self._clock():
            if not item.part:
                self._metrics.dropped.labels("expired").inc()
            raise DeadlineExceededError("the deadline passed before the image was ready for the network")
        _check_arrays(item, manifest)


def _check_arrays(item: Item, manifest: Manifest) -> None:
    """An item that does not fit the graph would fail the whole batch it is stacked into."""
    wanted = {spec.name: spec for spec in manifest.inputs}
    if item.arrays.keys() != wanted.keys():
        raise ValueError(f"This is a bug: expected the inputs {sorted(wanted)}, found {sorted(item.arrays)}")
    for name, spec in wanted.items():
        array = item.arrays[name]
        shape = spec.shape[1:]
        fits = len(shape) == array.ndim and all(
            isinstance(axis, str) or axis == length for axis, length in zip(shape, array.shape, strict=True)
        )
        if not fits or array.dtype != np.dtype(spec.dtype):
            raise ValueError(
                f"This is a bug: expected `{name}` {spec.dtype} {list(shape)}, found {array.dtype} {list(array.shape)}"
            )
