"""Where and with what a figure was measured: it is worth nothing without."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "pillow", "opencv-python-headless", "onnxruntime", "fastapi", "uvicorn", "grpcio")


def cpu_model() -> str:
    """The processor's name as the kernel gives it, or what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit() -> dict[str, Any]:
    """The checked-out commit, and whether files that git tracks differ from it."""

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"sha": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return {"sha": "unknown", "dirty": True}


def describe(*packages: str) -> dict[str, Any]:
    """Hardware, versions (the named packages' too), commit and date of this run, as the results schemas want them."""
    return _described({name: importlib.metadata.version(name) for name in (*PACKAGES, *packages)})


def describe_what_is_there(*packages: str) -> dict[str, Any]:
    """As `describe`, on a machine that is not ours: packages that are not installed are left out."""
    versions = {}
    for name in (*PACKAGES, *packages):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return _described(versions)


def _described(versions: dict[str, str]) -> dict[str, Any]:
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "load_average_1m": round(os.getloadavg()[0], 2),
    }
