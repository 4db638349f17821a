"""Limits of CPU and memory, read from fake cgroup trees of both versions."""

from pathlib import Path

import pytest

from server.host import HostLimits, host_limits

GIB = 1 << 30
V1_UNLIMITED = "9223372036854771712"

# id parent major:minor root mount-point options - type source super-options
V2_MOUNT = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1_MOUNTS = (
    "31 23 0:27 {root} /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "32 23 0:28 {root} /sys/fs/cgroup/memory rw shared:10 - cgroup cgroup rw,memory\n"
    "33 23 0:29 {root} /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
)
OTHER_MOUNT = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"


def tree(root: Path, cgroup: str, mounts: str, files: dict[str, str]) -> Path:
    """Write a fake `/proc` and `/sys`."""
    everything = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": OTHER_MOUNT + mounts, **files}
    for name, text in everything.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def limits(root: Path) -> HostLimits:
    return host_limits(root, affinity=16, physical_bytes=64 * GIB)


def test_without_any_cgroup_the_machine_is_the_limit(tmp_path):
    assert limits(tmp_path) == HostLimits(16.0, 64 * GIB)


@pytest.mark.parametrize(
    ("cpu_max", "cpus"),
    [
        ("200000 100000\n", 2.0),
        ("150000 100000\n", 1.5),
        ("max 100000\n", 16.0),
        ("3200000 100000\n", 16.0),
        ("", 16.0),
    ],
)
def test_version_2_in_a_container_with_its_own_namespace(tmp_path, cpu_max, cpus):
    files = {"sys/fs/cgroup/cpu.max": cpu_max, "sys/fs/cgroup/memory.max": str(4 * GIB)}
    assert limits(tree(tmp_path, "0::/\n", V2_MOUNT.format(root="/"), files)) == HostLimits(cpus, 4 * GIB)


def test_version_2_the_smallest_of_all_enclosing_cgroups_holds(tmp_path):
    files = {
        "sys/fs/cgroup/user.slice/cpu.max": "300000 100000",
        "sys/fs/cgroup/user.slice/memory.max": str(2 * GIB),
        "sys/fs/cgroup/user.slice/mine.service/cpu.max": "max 100000",
        "sys/fs/cgroup/user.slice/mine.service/memory.max": "max",
        "sys/fs/cgroup/other.slice/memory.max": "4096",
    }
    root = tree(tmp_path, "0::/user.slice/mine.service\n", V2_MOUNT.format(root="/"), files)
    assert limits(root) == HostLimits(3.0, 2 * GIB)


def test_version_2_memory_high_throttles_and_so_counts(tmp_path):
    files = {"sys/fs/cgroup/memory.max": str(4 * GIB), "sys/fs/cgroup/memory.high": str(3 * GIB)}
    assert limits(tree(tmp_path, "0::/\n", V2_MOUNT.format(root="/"), files)).memory_bytes == 3 * GIB


@pytest.mark.parametrize("root_field", ["/", "/docker/abc"])
def test_version_1_with_and_without_a_namespace(tmp_path, root_field):
    """Without one the path is the host's, and the container's part of the tree is mounted at the top."""
    files = {
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n",
        "sys/fs/cgroup/pids/memory.limit_in_bytes": "1\n",
    }
    cgroup = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n2:pids:/docker/abc\n"
    assert limits(tree(tmp_path, cgroup, V1_MOUNTS.format(root=root_field), files)) == HostLimits(2.5, GIB)


def test_version_1_unlimited_is_no_limit(tmp_path):
    files = {
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{V1_UNLIMITED}\n",
    }
    cgroup = "4:memory:/\n3:cpu,cpuacct:/\n"
    assert limits(tree(tmp_path, cgroup, V1_MOUNTS.format(root="/"), files)) == HostLimits(16.0, 64 * GIB)


def test_version_1_a_deeper_cgroup_limits_too(tmp_path):
    files = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": V1_UNLIMITED,
        "sys/fs/cgroup/memory/kubepods/memory.limit_in_bytes": str(8 * GIB),
        "sys/fs/cgroup/memory/kubepods/pod1/memory.limit_in_bytes": str(2 * GIB),
    }
    root = tree(tmp_path, "4:memory:/kubepods/pod1\n", V1_MOUNTS.format(root="/"), files)
    assert limits(root).memory_bytes == 2 * GIB


def test_both_versions_mounted_at_once(tmp_path):
    files = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(GIB),
        "sys/fs/cgroup/unified/cpu.max": "100000 100000",
    }
    mounts = V1_MOUNTS.format(root="/") + "40 23 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    root = tree(tmp_path, "4:memory:/\n0::/\n", mounts, files)
    assert limits(root) == HostLimits(1.0, GIB)


def test_a_path_that_leaves_the_namespace_is_not_followed(tmp_path):
    files = {"sys/fs/cgroup/memory.max": str(GIB), "sys/fs/memory.max": "1"}
    root = tree(tmp_path, "0::/../other\n", V2_MOUNT.format(root="/"), files)
    assert limits(root).memory_bytes == GIB


@pytest.mark.parametrize("text", ["garbage", "10", "0 100000", "100000 0", "-5 100000", "max"])
def test_nonsense_is_no_limit(tmp_path, text):
    files = {"sys/fs/cgroup/cpu.max": text, "sys/fs/cgroup/memory.max": text + "x"}
    root = tree(tmp_path, "0::/\nnonsense\n", V2_MOUNT.format(root="/") + "nonsense\n", files)
    assert limits(root) == HostLimits(16.0, 64 * GIB)


@pytest.mark.parametrize(("cpus", "threads"), [(0.25, 1), (1.0, 1), (1.9, 1), (2.0, 2), (7.5, 7)])
def test_threads_never_exceed_the_quota(cpus, threads):
    assert HostLimits(cpus, GIB).threads == threads


def test_the_real_machine_has_limits():
    found = host_limits()
    assert found.cpus > 0
    assert found.memory_bytes > 64 << 20
    assert host_limits(affinity=1).cpus <= 1
