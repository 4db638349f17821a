"""What this process may use of its machine: CPUs and memory, by cgroup (v1 and v2) and affinity.

A container on a 64-core host with a limit of two CPUs has two: thread pools and memory budgets are sized from here,
never from the host's core count. It is the lowest layer: the defaults of settings, backends and engine rest on it.
"""

import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# cgroup v1 writes "no limit" as the largest page-aligned signed 64-bit number; nothing real comes near.
_UNLIMITED_BYTES = 1 << 60


@dataclass(frozen=True, slots=True)
class HostLimits:
    """What may be used.

    Attributes:
        cpus: CPU time per second of wall time, and never more than the CPUs the affinity allows; may be a fraction.
        memory_bytes: Memory of the smallest enclosing cgroup, or of the machine.
    """

    cpus: float
    memory_bytes: int

    @property
    def threads(self) -> int:
        """Threads that can compute at once. Rounded down: one too many gets all of them throttled by the quota."""
        return max(1, int(self.cpus))


def lower_priority(by: int) -> None:
    """Have the calling thread, and those that it starts from now on, give way to the other threads of this process.

    Only Linux has priorities of threads; elsewhere nothing is done.

    Args:
        by: Steps of niceness, of which each leaves a fifth less of a contended CPU; 19 is the lowest priority there is.
    """
    if by and sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + by))


@dataclass(frozen=True, slots=True)
class _Mount:
    root: PurePosixPath  # which part of the hierarchy is mounted
    point: PurePosixPath
    controllers: frozenset[str]
    version: int


def host_limits(
    root: Path = Path("/"), *, affinity: int | None = None, physical_bytes: int | None = None
) -> HostLimits:
    """Read the limits that hold for this process.

    Args:
        root: Where `proc` and the cgroup mounts are looked for; another directory in tests.
        affinity: CPUs the scheduler may use; None asks the kernel.
        physical_bytes: Memory of the machine; None asks the kernel.
    """
    cpus = float(affinity if affinity is not None else _affinity())
    memory = physical_bytes if physical_bytes is not None else _physical_bytes()
    memberships = dict(_memberships(root))
    for mount in _mounts(root):
        for directory in _directories(root, mount, memberships):
            cpus = min(cpus, _cpus(directory, mount) or cpus)
            memory = min(memory, _memory(directory, mount) or memory)
    return HostLimits(cpus, memory)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _physical_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _memberships(root: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """By controller (empty for v2): where this process is in that hierarchy."""
    for line in _lines(root / "proc/self/cgroup"):
        parts = line.split(":", 2)
        if len(parts) == 3:
            for controller in parts[1].split(","):
                yield controller, PurePosixPath(parts[2])


def _mounts(root: Path) -> Iterator[_Mount]:
    # proc(5): id parent major:minor root mount-point options [tags ...] - type source super-options
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, tail = before.split(), after.split()
        if len(fields) < 5 or len(tail) < 3 or tail[0] not in ("cgroup", "cgroup2"):
            continue
        controllers = frozenset(tail[2].split(",")) if tail[0] == "cgroup" else frozenset({""})
        yield _Mount(PurePosixPath(fields[3]), PurePosixPath(fields[4]), controllers, 1 if tail[0] == "cgroup" else 2)


def _directories(root: Path, mount: _Mount, memberships: dict[str, PurePosixPath]) -> Iterator[Path]:
    """Our cgroup under a mount and all above it: the limit of a parent holds for its children."""
    member = next((memberships[name] for name in sorted(mount.controllers) if name in memberships), None)
    if member is None:
        return
    # In a container without a cgroup namespace the path is the host's, and only its own part is mounted.
    inside = member.relative_to(mount.root) if member.is_relative_to(mount.root) else PurePosixPath()
    top = root / mount.point.relative_to("/")
    for path in (inside, *inside.parents):
        if ".." not in path.parts:
            yield top / path.as_posix().lstrip("/")


def _cpus(directory: Path, mount: _Mount) -> float | None:
    if mount.version == 2:
        quota, _, period = (_text(directory / "cpu.max") or "max").partition(" ")
        return _ratio(quota, period)
    if "cpu" not in mount.controllers:
        return None
    return _ratio(_text(directory / "cpu.cfs_quota_us"), _text(directory / "cpu.cfs_period_us"))


def _memory(directory: Path, mount: _Mount) -> int | None:
    if mount.version == 1 and "memory" not in mount.controllers:
        return None
    # Above memory.high a v2 cgroup is slowed down to a crawl: for a budget that is as much a limit as memory.max.
    names = ("memory.max", "memory.high") if mount.version == 2 else ("memory.limit_in_bytes",)
    found = [int(text) for name in names if (text := _text(directory / name)).isdecimal()]
    return min((size for size in found if 0 < size < _UNLIMITED_BYTES), default=None)


def _ratio(quota: str, period: str) -> float | None:
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0 or int(quota) == 0:
        return None
    return int(quota) / int(period)


def _text(path: Path) -> str:
    return "".join(_lines(path)).strip()


def _lines(path: Path) -> list[str]:
    """Lines of a file of the kernel's; none where it is absent or not ours to read, which means no limit from there."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
