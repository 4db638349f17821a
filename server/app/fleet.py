"""The front ends of an engine process: started, told what they need to know, started anew, and ended."""

import asyncio
import json
import logging
import math
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter

from server.access import Gate, KeyRing
from server.api.addresses import bind_socket
from server.api.local import LocalAdmin
from server.app.composition import Parts
from server.app.interpreter import stop_signals_blocked
from server.frontends.arena import Arena, Slots, create_memory
from server.frontends.guest import Behind, Guest
from server.frontends.heard import BEAT_S
from server.frontends.lines import Lines
from server.frontends.orders import Greeting, State
from server.frontends.peer import Peer, connect
from server.observability.processes import FrontEndProcesses
from server.settings import Settings

_log = logging.getLogger(__name__)

_START_S = 60.0  # for a front end to listen
_STATE_INTERVAL_S = 0.05  # in which a change that nobody told of reaches the front ends
_LEAST_ARENA = 1 << 30  # bytes; of address space: memory is taken by what is used
_SOON_S = 5.0  # a front end that ends earlier has not worked
_PAUSE_S = 1.0  # before such a one is started anew
_PATIENCE = 5  # failures of one to start until the server gives up, if no other serves
_END_S = 2.0  # to end, beyond the grace of what it serves
_CODE = (
    "import json, sys; given = json.loads(sys.argv[1]); sys.path[:] = given['path']; "
    "from server.app.frontend import main; main(given)"
)


@dataclass(slots=True, eq=False)
class _Member:
    process: "subprocess.Popen[bytes]"
    peer: Peer
    guest: Guest
    started: float
    listens: bool = False


class Fleet:
    """So many front ends on the same ports, as the transports of a process.

    Attributes:
        port: Of HTTP.
        grpc_port: Of gRPC.
    """

    def __init__(
        self,
        settings: Settings,
        bound: socket.socket,
        parts: Parts,
        gate: Gate,
        unready_reason: Callable[[], str | None],
    ) -> None:
        """Take the ports.

        Args:
            settings: Of this process.
            bound: Socket on the port of HTTP; closed here.
            parts: Of the engine process.
            gate: Whose keys hold in all processes.
            unready_reason: Why no request should be sent here; None when they are welcome.

        Raises:
            OSError: A port cannot be taken.
        """
        self._settings = settings
        self._parts = parts
        self._keys = {opens: keys for opens, keys in (("service", gate.keys), ("admin", gate.admin_keys)) if keys}
        self._unready_reason = unready_reason
        admin = LocalAdmin(parts.roster, parts.pipeline.shadow) if gate.admin_keys is not None else None
        self._behind = Behind(
            parts.front, parts.metrics, parts.uploads, parts.admission, admin, gate.keys, self.tell_state
        )
        port = bound.getsockname()[1]
        bound.close()
        self._http = _reserve(settings.host, port)
        try:
            self._grpc = _reserve(settings.host, settings.grpc_port)
        except OSError:
            self._http.close()
            raise
        self.port, self.grpc_port = self._http.getsockname()[1], self._grpc.getsockname()[1]
        self._secret = secrets.token_bytes(16)
        self._members: dict[int, _Member] = {}
        self._state: State | None = None
        self._told = -math.inf  # when that was told
        self._following: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ends = Counter(
            "birefnet_frontend_ends", "Front ends that ended by themselves.", registry=parts.metrics.registry
        )
        parts.metrics.registry.register(
            FrontEndProcesses(lambda: {number: member.process.pid for number, member in self._members.items()})
        )

    async def start(self) -> None:
        """Start them all, until they accept connections.

        Raises:
            OSError: One of them does not.
        """
        self._following = asyncio.create_task(self._follow_state())
        self._following.add_done_callback(_report)
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._settings.frontends):
                    group.create_task(self._launch(number))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def say(self, *, serving: bool) -> None:
        """Let gRPC health say whether requests are taken."""
        self.tell_state()

    def endings(self) -> Mapping[str, Awaitable[None]]:
        """What ends when front ends cannot be kept alive, by what that is in words."""
        return {"the fleet of front ends": asyncio.shield(self._given_up)}

    async def stop(self, grace_s: float) -> None:
        """End them all: they accept no more, and let requests finish for a while."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        members = list(self._members.values())
        await asyncio.gather(*(_stop(member, grace_s) for member in members))
        if self._following is not None:  # to the end: who still serves must not think that nobody is there
            self._following.cancel()
        for member in members:
            member.guest.gone()
        self._members.clear()
        self._http.close()
        self._grpc.close()

    def sharing(self, ring: KeyRing) -> "SharedKeys":
        """Keys that the front ends are told of once they hold here: whom they let in is then known here, too."""
        opens = next(opens for opens, mine in self._keys.items() if mine is ring)

        def tell() -> None:
            for member in self._members.values():
                member.peer.note("keys", opens, ring.content)

        return SharedKeys(ring, tell)

    async def _launch(self, number: int) -> None:
        """Start one, until it accepts connections.

        Raises:
            OSError: It does not.
        """
        listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        member = await self._start_process(number, listening)
        try:
            await asyncio.wait((listening, member.peer.lost), timeout=_START_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not listening.done():  # nobody has reached it yet
                listening.cancel()
                del self._members[number]
                member.guest.gone()
                member.peer.close()
                _kill(member.process)
        if listening.cancelled():
            raise OSError(f"front end {number} does not listen: expected that within {_START_S:g} s")
        member.listens = True
        member.peer.lost.add_done_callback(lambda _: self._lost(number, member))

    async def _start_process(self, number: int, listening: "asyncio.Future[None]") -> _Member:
        """Start a process, share memory with it, and greet it."""
        started, workers = time.monotonic(), self._parts.pool.workers
        size = max(_LEAST_ARENA, round(self._parts.admission.limits.max_memory_bytes))
        with ExitStack() as ours, ExitStack() as theirs:
            here, there = zip(*(socket.socketpair() for _ in range(1 + workers)), strict=True)
            for stack, ends in ((ours, here), (theirs, there)):
                for end in ends:
                    stack.enter_context(end)
            memory = create_memory(size)
            theirs.callback(os.close, memory)
            lines = [end.fileno() for end in there[1:]]
            given = {"peer": there[0].fileno(), "memory": memory, "bytes": size, "lines": lines, "path": sys.path}
            command = [sys.executable, "-P", "-c", _CODE, json.dumps(given)]
            inherited = (there[0].fileno(), memory, *lines)
            with stop_signals_blocked():  # it hears none from its very beginning
                process = subprocess.Popen(command, pass_fds=inherited)  # noqa: ASYNC220, S603 - some milliseconds
            ours.callback(_kill, process)
            guest = Guest(self._behind, Lines(here[1:]), Slots(Arena(memory, size)))
            handlers = {**guest.handlers(), "listening": lambda: listening.set_result(None)}
            peer = await connect(handlers, here[0])
            ours.pop_all()
        member = self._members[number] = _Member(process, peer, guest, started)
        peer.note("greet", self._greeting())
        return member

    def _greeting(self) -> Greeting:
        self.tell_state()  # or the others would not hear of a change that is first seen here
        keys = {opens: ring.content for opens, ring in self._keys.items()}
        return Greeting(self._settings, self.port, self.grpc_port, self._secret, keys, self._now())

    def _now(self) -> State:
        engine = self._parts.engine
        return State(self._unready_reason(), engine.live, self._parts.models.listing())

    def tell_state(self) -> None:
        """Let every front end know at once what has changed, and now and then that nothing has."""
        state, now = self._now(), time.monotonic()
        if state != self._state or now >= self._told + BEAT_S:
            self._state, self._told = state, now
            for member in self._members.values():
                member.peer.note("state", state)

    async def _follow_state(self) -> None:
        while True:
            self.tell_state()
            await asyncio.sleep(_STATE_INTERVAL_S)

    def _lost(self, number: int, member: _Member) -> None:
        if not self._stopping and self._members.get(number) is member:
            del self._members[number]
            member.guest.gone()
            self._spawn(self._replace(number, member))

    async def _replace(self, number: int, member: _Member) -> None:
        """Start another one in the place of one that has ended."""
        code = await _ended(member)
        self._ends.inc()
        _log.error("a front end has ended: its requests are lost", extra={"frontend": number, "code": code})
        if time.monotonic() - member.started < _SOON_S:
            await asyncio.sleep(_PAUSE_S)
        failures = 0
        while not self._given_up.done():
            try:
                await self._launch(number)
            except OSError as error:
                failures += 1
                _log.error("a front end cannot be started: %s", error, extra={"frontend": number})
                if failures >= _PATIENCE and not any(each.listens for each in self._members.values()):
                    self._given_up.set_exception(error)
                await asyncio.sleep(_PAUSE_S)
            else:
                return

    def _spawn(self, work: "Coroutine[Any, Any, None]") -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(_report)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _report(task: "asyncio.Task[None]") -> None:
    """Front ends that nobody looks after any more must not go unnoticed."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("front ends are not looked after any more: restart the server", exc_info=error)


@dataclass(frozen=True, slots=True)
class SharedKeys:
    """A file of keys that holds in all processes."""

    ring: KeyRing
    tell: Callable[[], None]

    def read(self) -> bytes | str:
        """As `KeyRing.read`."""
        return self.ring.read()

    def take(self, content: bytes | str) -> None:
        """As `KeyRing.take`."""
        before = self.ring.content
        self.ring.take(content)
        if self.ring.content != before:
            self.tell()


async def _stop(member: _Member, grace_s: float) -> None:
    """Ask it to end, and make it."""
    with suppress(Exception):
        async with asyncio.timeout(grace_s + _END_S):
            await member.peer.call("stop", grace_s)
    await _ended(member)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End one that serves nobody yet, which takes no time."""
    process.kill()
    process.wait()


async def _ended(member: _Member) -> int:
    """The exit code of one that ends; one that does not is killed."""
    member.peer.close()
    try:
        return await asyncio.to_thread(member.process.wait, _END_S)
    except subprocess.TimeoutExpired:
        member.process.kill()
        return await asyncio.to_thread(member.process.wait)


def _reserve(host: str, port: int) -> socket.socket:
    """A port on which processes of ours are to listen, each with its share of the connections; held, not listened on.

    Raises:
        OSError: It cannot be taken.
    """
    alone = bind_socket(host, port)  # else another server whose processes share it would share it with ours
    number = alone.getsockname()[1]
    alone.close()
    return bind_socket(host, number, shared=True)
