"""The life of one serving process: ports, warm-up, ready, drain, exit."""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from artifact import ArtifactError
from server.access import Gate, KeysError
from server.api.addresses import bind_socket, join_address
from server.api.certificates import CertificatesError
from server.api.local import LocalAdmin, LocalEntrance
from server.api.service import Service
from server.app.composition import Parts, compose, open_certificates, open_gate
from server.app.fleet import Fleet
from server.app.interpreter import STOP_SIGNALS, begin_logging, freeze_heap, leave_threads_behind, loop_factory
from server.app.transports import Transports, transport_limits
from server.app.watch import Watched, watch
from server.backends.base import Backend, BackendFault
from server.engine.warmup import SelfTestFailedError
from server.errors import DrainingError
from server.observability.tracing import Tracing, TracingError, open_tracing
from server.pipeline.models import ModelsError
from server.settings import Settings, opentelemetry_variables

_log = logging.getLogger(__name__)

FAILED = 1
_CANNOT_START = (
    ModelsError,
    KeysError,
    CertificatesError,
    TracingError,
    ArtifactError,
    BackendFault,
    SelfTestFailedError,
    OSError,
)
_LAST_ANSWERS_S = 1.0  # to be sent in, when the time to drain is over
_HEALTH_INTERVAL_S = 0.25  # in which gRPC health follows the engine; `/readyz` asks it directly
_FILES_INTERVAL_S = 1.0  # in which a changed file of keys is noticed; reading it takes well under a millisecond


def run(settings: Settings) -> int:
    """Serve until a signal comes; the exit code of the process."""
    begin_logging(settings)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        code = runner.run(serve(settings, when_ready=freeze_heap))
    leave_threads_behind(code)
    return code


async def serve(
    settings: Settings,
    make_backend: Callable[[], Backend] | None = None,
    when_ready: Callable[[], None] = lambda: None,
) -> int:
    """Serve in the running event loop until SIGTERM or SIGINT.

    Args:
        settings: Of this process.
        make_backend: Instead of the one that the settings name; for tests.
        when_ready: Called once the models are warm, before anybody is told.

    Returns:
        0 after a drain that lost nothing; 1 when it could not start, or had to drop work.
    """
    try:
        process = Process(settings, make_backend, when_ready)
    except _CANNOT_START as error:
        _log.critical("cannot start: %s", error)
        return FAILED
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, process.take_signal, number)
    try:
        return await process.run()
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)


class Process:
    """The transports, here or in front ends, around one set of parts."""

    def __init__(
        self,
        settings: Settings,
        make_backend: Callable[[], Backend] | None = None,
        when_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the ports and open the models; nothing runs yet. The arguments are those of `serve`.

        Raises:
            OSError: A port cannot be taken.
            ModelsError: The artifacts cannot be served.
            KeysError, CertificatesError: The file of API keys, or those of TLS, cannot be used.
            TracingError: Traces are asked for and cannot be made.
        """
        self._started = time.monotonic()
        self._settings = settings
        self._when_ready = when_ready
        self._stopping = asyncio.Event()
        bound = bind_socket(settings.host, settings.port)
        try:
            self.parts = compose(settings, make_backend)
            self.gate = open_gate(settings)
            self._certificates = open_certificates(settings)
            self._tracing = open_tracing(opentelemetry_variables()) if settings.traces else None
            self._transports = self._make_transports(bound)
        except Exception:
            bound.close()
            raise
        self.port, self.grpc_port = self._transports.port, self._transports.grpc_port

    def _make_transports(self, bound: socket.socket) -> Transports | Fleet:
        """In this process or, if there are to be several, in front ends."""
        if self._settings.frontends > 1:
            return Fleet(self._settings, bound, self.parts, self.gate, self.unready_reason)
        service = _service(self.parts, self._settings, self.gate, self.unready_reason, self._tracing)
        return Transports(service, self._settings, bound, self._certificates)

    @property
    def stopping(self) -> bool:
        """True from the first signal on."""
        return self._stopping.is_set()

    def unready_reason(self) -> str | None:
        """Why no request should be sent here; None when requests are welcome."""
        return "the server is shutting down" if self.stopping else self.parts.engine.unready_reason

    def take_signal(self, number: int) -> None:
        """The first signal begins the drain, a second one ends the process at once."""
        name = signal.Signals(number).name
        if self.stopping:
            _log.critical("%s again: leaving at once, requests inside are lost", name)
            sys.stderr.flush()
            os._exit(128 + number)
        _log.info("%s: not ready any more, draining", name, extra={"inside": self.parts.admission.inside})
        self._stopping.set()
        if isinstance(self._transports, Fleet):  # who is asked next must not say that it is ready
            self._transports.tell_state()

    async def run(self) -> int:
        """Start, serve, drain; the exit code."""
        stopping = asyncio.create_task(self._stopping.wait())
        if (code := await self._listen(stopping)) is not None:
            stopping.cancel()
            await asyncio.gather(self._transports.stop(0), self.parts.close())
            return code
        _log.info("listening, warming up", extra=self._addresses())
        starting = asyncio.create_task(self.parts.start())
        watching = asyncio.create_task(watch(self._watched(), _FILES_INTERVAL_S))
        watching.add_done_callback(_report_end_of_watch)
        ended = False
        try:
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                self._when_ready()
                self._say_ready()
                ended = await self._follow_health(stopping)
            return max(await self._drain(), FAILED if ended else 0)
        except _CANNOT_START as error:
            _log.critical("cannot start: %s", error)
            return FAILED
        finally:
            for task in (stopping, starting, watching):
                task.cancel()
            await asyncio.gather(starting, watching, return_exceptions=True)
            await self._transports.stop(0)
            await self.parts.close()
            if self._tracing is not None:
                await asyncio.to_thread(self._tracing.close)

    async def _listen(self, stopping: "asyncio.Task[bool]") -> int | None:
        """Accept connections; the exit code where that fails, or where a signal comes first."""
        listening = asyncio.create_task(self._transports.start())
        await asyncio.wait((listening, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not listening.done():
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            _log.info("ended before anything was served")
            return 0
        try:
            listening.result()
        except OSError as error:
            _log.critical("cannot start: %s", error)
            return FAILED
        return None

    def _watched(self) -> "list[Watched[Any]]":
        """What is made of files that may change."""
        rings = [ring for ring in (self.gate.keys, self.gate.admin_keys) if ring is not None]
        if isinstance(self._transports, Fleet):  # whose processes watch their certificates themselves
            return [self._transports.sharing(ring) for ring in rings]
        return [*rings, *([self._certificates] if self._certificates is not None else [])]

    def _say_ready(self) -> None:
        parts = self.parts
        listing = ", ".join(model["name"] for model in parts.models.listing())
        fields = {
            **self._addresses(),
            "models": listing,
            "device": ", ".join(device.name for device in parts.engine.devices),
            "seconds": round(time.monotonic() - self._started, 2),
        }
        _log.info("ready", extra=fields)

    async def _follow_health(self, stopping: "asyncio.Task[bool]") -> bool:
        """Until a signal comes, let the gRPC health service say what `/readyz` says.

        Returns:
            True when one of the transports has ended by itself: a process that half serves must be replaced.
        """
        transports = {asyncio.ensure_future(ending): what for what, ending in self._transports.endings().items()}
        try:
            while not stopping.done():
                await self._transports.say(serving=self.unready_reason() is None)
                watched = (stopping, *transports)
                await asyncio.wait(watched, timeout=_HEALTH_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED)
                if ended := [task for task in transports if task.done()]:
                    self._give_up(transports[ended[0]], ended[0].exception())
                    return True
            return False
        finally:
            for task in transports:
                task.cancel()

    def _give_up(self, transport: str, error: BaseException | None) -> None:
        if not self.stopping:  # else it was a signal that ended it
            _log.critical("%s has ended by itself: draining, to be started anew", transport, exc_info=error)
            self._stopping.set()

    async def _drain(self) -> int:
        """Refuse after a while, finish what is inside, let the answers out."""
        settings, admission = self._settings, self.parts.admission
        await self._transports.say(serving=False)
        if self.parts.engine.ready:
            await asyncio.sleep(settings.drain_delay_s)
        lost, deadline = 0, time.monotonic() + settings.drain_timeout_s
        try:
            async with asyncio.timeout(settings.drain_timeout_s):
                await admission.drain()
        except TimeoutError:
            lost = admission.evict(DrainingError("the server shut down before the answer was there", retry_after_s=1))
            _log.error("drain_timeout_s is over: work is dropped", extra={"inside": lost})
        left_s = max(_LAST_ANSWERS_S, deadline - time.monotonic())
        await self._transports.stop(left_s)
        _log.info("drained", extra={"lost": lost})
        return FAILED if lost else 0

    def _addresses(self) -> dict[str, str]:
        host, scheme = self._settings.host, "http" if self._certificates is None else "https"
        return {"http": f"{scheme}://{join_address(host, self.port)}", "grpc": join_address(host, self.grpc_port)}


def _report_end_of_watch(task: "asyncio.Task[None]") -> None:
    """A withdrawn key that still opens the server must not go unnoticed."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("keys and certificates are not read again: restart the server", exc_info=error)


def _service(
    parts: Parts, settings: Settings, gate: Gate, unready_reason: Callable[[], str | None], tracing: Tracing | None
) -> Service:
    return Service(
        pipeline=parts.front,
        metrics=parts.metrics,
        limits=transport_limits(settings),
        unready_reason=unready_reason,
        live=lambda: parts.engine.live,
        models=parts.models.listing,
        entrance=LocalEntrance(parts.uploads),
        hold=parts.admission.hold,
        gate=gate,
        admin=LocalAdmin(parts.roster, parts.pipeline.shadow) if gate.admin_keys is not None else None,
        tracing=tracing,
    )
