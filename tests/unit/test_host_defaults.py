"""Every default that is left to the machine, from fake cgroup trees of both versions to the parts of a process."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from server.app.composition import compose
from server.backends.fake import FakeBackend
from server.backends.ort import OrtOptions
from server.host import host_limits
from server.settings import Settings
from tests.unit.test_host import GIB, V1_MOUNTS, V2_MOUNT, tree

V2_NESTED = (
    "0::/pod/app\n",
    V2_MOUNT.format(root="/"),
    {
        "sys/fs/cgroup/pod/cpu.max": "300000 100000",
        "sys/fs/cgroup/pod/memory.max": str(2 * GIB),
        "sys/fs/cgroup/pod/app/cpu.max": "max 100000",
        "sys/fs/cgroup/pod/app/memory.max": str(8 * GIB),
    },
)
V1_NESTED = (
    "4:memory:/pod/app\n3:cpu,cpuacct:/pod/app\n",
    V1_MOUNTS.format(root="/"),
    {
        "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_quota_us": "350000",
        "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/cpu,cpuacct/pod/app/cpu.cfs_quota_us": "-1",
        "sys/fs/cgroup/cpu,cpuacct/pod/app/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/pod/memory.limit_in_bytes": str(2 * GIB),
    },
)


@pytest.mark.parametrize("fake", [V2_NESTED, V1_NESTED], ids=["v2", "v1"])
@pytest.mark.parametrize(("affinity", "threads"), [(16, 3), (2, 2), (1, 1)])
def test_every_default_follows_quota_memory_limit_and_affinity(fake, affinity, threads, tmp_path, monkeypatch):
    root = tree(tmp_path, *fake)
    limits = host_limits(root, affinity=affinity, physical_bytes=64 * GIB)
    monkeypatch.setattr("server.app.composition.host_limits", lambda: limits)
    made = []

    def make_ort(options: OrtOptions) -> FakeBackend:
        made.append(options)
        return FakeBackend()

    monkeypatch.setattr("server.backends.ort.OrtBackend", make_ort)
    parts = compose(Settings(device="cpu"))
    try:
        assert parts.pool.workers == parts.metrics.host.capacity == threads
        assert parts.admission.limits.max_memory_bytes == GIB
        assert parts.uploads.limits.max_bytes == GIB // 2
        (make_backend,) = parts.engine._make_backends
        with ThreadPoolExecutor(1) as thread:  # which it is to lower the priority of
            thread.submit(make_backend).result()
        assert [options.threads for options in made] == [threads]
    finally:
        parts.pool.close()


def test_what_is_set_is_not_decided_by_the_machine(tmp_path, monkeypatch):
    limits = host_limits(tree(tmp_path, *V2_NESTED), affinity=16, physical_bytes=64 * GIB)
    monkeypatch.setattr("server.app.composition.host_limits", lambda: limits)
    parts = compose(Settings(backend="fake", cpu_workers=7, max_memory_inside_mib=5, max_uploads_mib=6))
    assert parts.pool.workers == 7
    assert parts.admission.limits.max_memory_bytes == 5 << 20
    assert parts.uploads.limits.max_bytes == 6 << 20
    parts.pool.close()
