"""The life of one front end: the engine process starts it, and it ends with that."""

import asyncio
import logging
import os
import socket
from collections.abc import Mapping
from typing import Any

import cv2

from server.access import KeyRing, KeysError
from server.api.addresses import bind_socket
from server.api.certificates import CertificatesError
from server.api.service import Service
from server.app.composition import compression, image_limits, open_certificates, open_gate
from server.app.interpreter import begin_logging, end_now, freeze_heap, ignore_stop_signals, loop_factory
from server.app.transports import Transports, transport_limits
from server.app.watch import watch
from server.frontends.arena import Arena
from server.frontends.desk import Desk
from server.frontends.heard import Heard
from server.frontends.lines import work
from server.frontends.orders import Greeting, State
from server.frontends.peer import Handler, Peer, connect
from server.frontends.service import DistantAdmin, DistantAllowances, DistantEntrance, DistantMetrics, DistantPipeline

_log = logging.getLogger(__name__)

FAILED = 1
_FILES_INTERVAL_S = 1.0  # as in `server.app.lifecycle`
_HEALTH_INTERVAL_S = 0.25  # in which gRPC health notices that the engine process is silent
_LINGER_S = 0.1  # for the last words to leave


def main(given: Mapping[str, Any]) -> None:
    """Serve, and end the process.

    Args:
        given: The file descriptors `peer`, `memory` and `lines`, and `bytes`, the size of that memory.
    """
    ignore_stop_signals()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        code = runner.run(_live(given))
    end_now(code)


async def _live(given: Mapping[str, Any]) -> int:
    front_end = FrontEnd()
    handlers: dict[str, Handler] = {
        "greet": front_end.greet,
        "state": front_end.take_state,
        "keys": front_end.take_keys,
        "stop": front_end.stop,
    }
    peer = await connect(handlers, socket.socket(fileno=given["peer"]))
    peer.lost.add_done_callback(front_end.lose)
    try:
        await front_end.start(peer, given)
    except (KeysError, CertificatesError, OSError) as error:
        _log.critical("a front end cannot start: %s", error)
        return FAILED
    freeze_heap()
    peer.note("listening")
    return await front_end.serve()


class FrontEnd:
    """Both transports, in front of an engine process."""

    def __init__(self) -> None:
        self._heard = Heard(State("the models are warming up", live=True, models=()))
        self._greeting: asyncio.Future[Greeting] = asyncio.get_running_loop().create_future()
        self._keys: dict[str, bytes] = {}  # of each file, as it was told last
        self._rings: dict[str, KeyRing] = {}
        self._changed = asyncio.Event()
        self._transports: Transports | None = None
        self._watching: asyncio.Task[None] | None = None
        self._stopping = False
        self._stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def greet(self, greeting: Greeting) -> None:
        """What comes first; what is told later may be heard before it is looked at."""
        self._keys.update(greeting.keys)
        self._heard.take(greeting.state)
        self._greeting.set_result(greeting)

    def lose(self, _: object) -> None:
        """The engine process has gone: there is nothing to answer with, and nobody to be asked."""
        if not self._stopped.done():
            os._exit(FAILED)

    def take_state(self, state: State) -> None:
        """What the engine process says of itself."""
        self._heard.take(state)
        self._changed.set()

    def take_keys(self, opens: str, content: bytes) -> None:
        """A file of keys, as the engine process has read it."""
        self._keys[opens] = content
        if (ring := self._rings.get(opens)) is not None:
            ring.take(content)

    async def start(self, peer: Peer, given: Mapping[str, Any]) -> None:
        """Build everything, and accept connections.

        Raises:
            KeysError, CertificatesError, OSError: A file, or the port of gRPC, cannot be used.
        """
        greeting = await self._greeting
        settings = greeting.settings
        begin_logging(settings)
        gate = open_gate(settings, self._keys)
        rings = {"service": gate.keys, "admin": gate.admin_keys}
        self._rings = {opens: ring for opens, ring in rings.items() if ring is not None}
        certificates = open_certificates(settings)
        if certificates is not None:
            self._watching = asyncio.create_task(watch([certificates], _FILES_INTERVAL_S))
        arena = Arena(given["memory"], given["bytes"])
        desk = Desk(arena, compression(settings), scaled_decode=settings.scaled_decode)
        cv2.setNumThreads(1)  # as in `server.pipeline.pool`
        for line in given["lines"]:
            work(socket.socket(fileno=line), desk.do, settings.compute_niceness)
        entrance = DistantEntrance(peer)
        service = Service(
            pipeline=DistantPipeline(peer, desk, image_limits(settings), greeting.secret),
            metrics=DistantMetrics(peer),
            limits=transport_limits(settings),
            unready_reason=lambda: self._heard.unready_reason,
            live=lambda: self._heard.live,
            models=lambda: self._heard.models,
            entrance=entrance,
            hold=entrance.hold,
            gate=gate,
            allowance=DistantAllowances(peer),
            admin=DistantAdmin(peer) if gate.admin_keys is not None else None,
        )
        bound = bind_socket(settings.host, greeting.port, shared=True)
        self._transports = Transports(service, settings, bound, certificates, greeting.grpc_port)
        await self._transports.start()

    async def serve(self) -> int:
        """Let gRPC health follow the engine process until that ends everything; the exit code."""
        transports = self._own()
        endings = {asyncio.ensure_future(ending): what for what, ending in transports.endings().items()}
        silent = False
        while not self._stopping:
            self._changed.clear()
            await transports.say(serving=self._heard.unready_reason is None)
            if self._heard.silent and not silent:
                _log.critical("not ready any more: %s", self._heard.unready_reason)
            silent = self._heard.silent
            changed = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait((changed, *endings), timeout=_HEALTH_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            ended = [what for ending, what in endings.items() if ending.done()]
            if ended and not self._stopping:
                _log.critical("%s has ended by itself: this front end ends, to be started anew", ended[0])
                return FAILED
        await self._stopped
        await asyncio.sleep(_LINGER_S)
        return 0

    async def stop(self, grace_s: float) -> None:
        """Accept no more, let answers out, and end."""
        self._stopping = True
        self._changed.set()
        await self._own().stop(grace_s)
        self._stopped.set_result(None)

    def _own(self) -> Transports:
        if self._transports is None:
            raise RuntimeError("This is a bug: the front end has not been started")
        return self._transports
