"""How much memory a piece of work takes at its peak, in a process of its own, native code included.

The kernel keeps the high-water mark of resident memory and forgets it on demand (`/proc/self/clear_refs`, Linux only).
"""

import ctypes
import gc
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"


def measurable() -> bool:
    """Whether this machine can say; containers may forbid it."""
    try:
        _CLEAR.write_text(_FORGET_PEAK)
    except OSError:
        return False
    return True


def peak_bytes(work: Callable[[], object], rehearsal: Callable[[], object] | None = None) -> int:
    """Resident bytes that `work` adds at its peak to what there was before it, in a process of its own.

    Args:
        work: What is measured; it must be possible to pickle it.
        rehearsal: Something small of the same kind, done before, that loads what is loaded once.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    # Not a fork of this process: it would share the pages of a big one, until it touches them.
    process = multiprocessing.get_context("forkserver").Process(target=_measure, args=(sender, work, rehearsal))
    process.start()
    sender.close()
    try:
        found: int = receiver.recv()
    finally:
        process.join()
    return found


def _measure(sender: Connection, work: Callable[[], object], rehearsal: Callable[[], object] | None) -> None:
    if rehearsal is not None:
        rehearsal()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or what the rehearsal let go of would be taken again, for nothing
    _CLEAR.write_text(_FORGET_PEAK)
    before = _kibibytes("VmRSS")
    work()
    sender.send((_kibibytes("VmHWM") - before) * 1024)


def resident_bytes(pid: int) -> int:
    """Of another process, now."""
    return _kibibytes("VmRSS", Path(f"/proc/{pid}/status")) * 1024


def _kibibytes(name: str, status: Path = _STATUS) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])
