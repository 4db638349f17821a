"""A GPU of numpy behind the port `plans.cuda.Cuda`, which does everything as late, or as early, as CUDA would let it.

A stream that is not eager does nothing before somebody waits for it; an eager one does everything at once that no
event holds back. Code that leaves out an event, or touches pinned memory too soon, computes nonsense in one of the two.
Addresses are checked, and what is freed cannot be used.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from plans.cuda import Bytes
from plans.errors import OUT_OF_MEMORY, DeviceError

CAPTURING = 900
GARBAGE = 0xA5


@dataclass
class _Step:
    """One piece of a stream's work: waits for marks, then does something."""

    do: Callable[[], None]
    waits_for: int | None = None


@dataclass
class FakeCuda:
    """One GPU.

    Attributes:
        name: As CUDA would give it.
        capacity: Bytes of device memory.
        eager: Which streams work at once, by the order of their creation.
        failures: By the name of a call, what its next uses raise; None is a success.
        calls: Names of all calls.
    """

    name: str = "Fake GPU 9000"
    index: int = 0
    capacity: int = 1 << 30
    eager: tuple[int, ...] = ()
    failures: dict[str, list[DeviceError | None]] = field(default_factory=lambda: defaultdict(list))
    calls: list[str] = field(default_factory=list)
    sticky: DeviceError | None = None
    _device: dict[int, Bytes] = field(default_factory=dict)
    _pinned: dict[int, Bytes] = field(default_factory=dict)
    _streams: dict[int, deque[_Step]] = field(default_factory=dict)
    _events: dict[int, int | None] = field(default_factory=dict)
    _marks: dict[int, int] = field(default_factory=dict)
    _done: set[int] = field(default_factory=set)
    _graphs: dict[int, list[_Step]] = field(default_factory=dict)
    _capture: tuple[int, list[_Step]] | None = None
    _handles: int = 0

    @property
    def held(self) -> Counter[str]:
        """How much of everything has not been given back."""
        return +Counter(
            device=len(self._device),
            pinned=len(self._pinned),
            streams=len(self._streams),
            events=len(self._events),
            graphs=len(self._graphs),
        )

    def allocate(self, size: int) -> int:
        self._call("allocate")
        if sum(block.nbytes for block in self._device.values()) + size > self.capacity:
            raise DeviceError(f"taking {size} bytes", OUT_OF_MEMORY, "out of memory")
        address = 256 * (self._handle() << 20)
        self._device[address] = np.full(size, GARBAGE, np.uint8)
        return address

    def free(self, address: int) -> None:
        self._call("free")
        del self._device[address]

    def allocate_pinned(self, size: int) -> Bytes:
        self._call("allocate_pinned")
        memory = np.full(size, GARBAGE, np.uint8)
        self._pinned[memory.ctypes.data] = memory
        return memory

    def free_pinned(self, memory: Bytes) -> None:
        self._call("free_pinned")
        del self._pinned[memory.ctypes.data]

    def create_stream(self) -> int:
        self._call("create_stream")
        stream = self._handle()
        self._streams[stream] = deque()
        return stream

    def destroy_stream(self, stream: int) -> None:
        self._call("destroy_stream")
        del self._streams[stream]

    def create_event(self) -> int:
        self._call("create_event")
        event = self._handle()
        self._events[event] = None
        return event

    def destroy_event(self, event: int) -> None:
        self._call("destroy_event")
        del self._events[event]

    def record(self, event: int, stream: int) -> None:
        self._call("record")
        mark = self._events[event] = self._handle()
        self._marks[mark] = stream
        self.enqueue(stream, lambda: self._done.add(mark))

    def wait(self, stream: int, event: int) -> None:
        self._call("wait")
        self._give(stream, _Step(lambda: None, self._events[event]))

    def upload(self, address: int, memory: Bytes, stream: int) -> None:
        self._call("upload")
        self._check_pinned(memory)

        def copy() -> None:
            self.view(address, memory.nbytes)[:] = memory

        self.enqueue(stream, copy)

    def download(self, memory: Bytes, address: int, stream: int) -> None:
        self._call("download")
        self._check_pinned(memory)

        def copy() -> None:
            memory[:] = self.view(address, memory.nbytes)

        self.enqueue(stream, copy)

    def synchronise(self, stream: int) -> None:
        self._call("synchronise")
        if self._capture is not None:
            raise DeviceError("waiting", CAPTURING, "operation not permitted when stream is capturing")
        self._drain(stream)

    def begin_capture(self, stream: int) -> None:
        self._call("begin_capture")
        assert self._capture is None
        assert not self._streams[stream], "work that is still to be done must not be mixed with a capture"
        self._capture = stream, []

    def end_capture(self, stream: int) -> int:
        assert self._capture is not None
        assert self._capture[0] == stream
        steps, self._capture = self._capture[1], None
        self._call("end_capture")
        graph = self._handle()
        self._graphs[graph] = steps
        return graph

    def launch(self, graph: int, stream: int) -> None:
        self._call("launch")
        for step in self._graphs[graph]:
            self._give(stream, step)

    def destroy_graph(self, graph: int) -> None:
        self._call("destroy_graph")
        del self._graphs[graph]

    def last_error(self) -> DeviceError | None:
        found, self.sticky = self.sticky, None
        return found

    @property
    def capturing(self) -> bool:
        """Whether a capture is under way."""
        return self._capture is not None

    def enqueue(self, stream: int, do: Callable[[], None]) -> None:
        """Give a stream something to do: a kernel."""
        self._give(stream, _Step(do))

    def view(self, address: int, size: int) -> Bytes:
        """Device memory that is allocated, from an address on."""
        for start, block in self._device.items():
            if start <= address and address + size <= start + block.nbytes:
                return block[address - start : address - start + size]
        raise AssertionError(f"no {size} bytes are allocated at {address}")

    def _give(self, stream: int, step: _Step) -> None:
        if self._capture is not None and self._capture[0] == stream:
            self._capture[1].append(step)
            return
        self._streams[stream].append(step)
        self._pump()

    def _pump(self) -> None:
        """Let the eager streams do what nothing holds back."""
        moved = True
        while moved:
            moved = False
            for order, queue in enumerate(self._streams.values()):
                while order in self.eager and queue and (queue[0].waits_for in self._done | {None}):
                    queue.popleft().do()
                    moved = True

    def _drain(self, stream: int, until: int | None = None) -> None:
        queue = self._streams[stream]
        while queue and (until is None or until not in self._done):
            step = queue.popleft()
            if step.waits_for is not None and step.waits_for not in self._done:
                self._drain(self._marks[step.waits_for], step.waits_for)
            step.do()
        self._pump()

    def _check_pinned(self, memory: Bytes) -> None:
        start = memory.ctypes.data
        inside = any(at <= start and start + memory.nbytes <= at + block.nbytes for at, block in self._pinned.items())
        assert inside, "a copy that overlaps anything needs pinned memory"

    def _handle(self) -> int:
        self._handles += 1
        return self._handles

    def _call(self, name: str) -> None:
        self.calls.append(name)
        failure = self.failures[name].pop(0) if self.failures[name] else None
        if failure is not None:
            raise failure


def typed(block: Bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """Bytes as an array."""
    return block.view(dtype).reshape(shape)
