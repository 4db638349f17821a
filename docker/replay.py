"""Replay a target of the Dockerfile without a Docker engine: `python docker/replay.py cpu [--keep DIR]`.

The same COPY, RUN and ENV lines, read from the Dockerfile, stage by stage, in folders instead of images: absolute paths
are moved below a scratch folder, a stage sees the files of the stages that it is made from, and `python` and `pip` are
those of a clean virtual environment. What changes the system itself (users, their rights) is named and left out. At the
end it starts what the target starts, if that is the server, asks it for readiness as HEALTHCHECK does, and says what
every stage weighs.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = ("/opt", "/src", "/wheels", "/locks", "/work", "/tmp")  # noqa: S108 - paths of the image, not of this machine
SYSTEM = re.compile(r"^(groupadd|useradd|chown)\b")
READY_S = 120.0
_HEAVIEST = 8
_CONTEXT = shutil.ignore_patterns("__pycache__", ".git", ".venv", "build", ".*_cache")  # what .dockerignore keeps out


@dataclass
class Stage:
    """A stage of a Dockerfile: what it begins from, and its lines as (instruction, text)."""

    name: str
    base: str
    lines: list[tuple[str, str]] = field(default_factory=list)


def parse(text: str) -> dict[str, Stage]:
    """The stages of a Dockerfile by name, in order."""
    stages: dict[str, Stage] = {}
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.M))
    current: Stage | None = None
    for line in filter(None, map(str.strip, joined.splitlines())):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            current = stages[name] = Stage(name, base)
        elif current is not None:
            current.lines.append((instruction, rest.strip()))
    return stages


class Replay:
    """Builds stages below a scratch folder, each once.

    Attributes:
        left_out: Commands that were not run, because they change the system.
    """

    def __init__(self, stages: dict[str, Stage], scratch: Path, origin: Path = ROOT) -> None:
        """Prepare the interpreter that stands for the base image's.

        Args:
            stages: Of the Dockerfile.
            scratch: An empty folder.
            origin: The build context.
        """
        self.left_out: list[str] = []
        self._stages = stages
        self._scratch = scratch
        self._origin = origin
        self._built: dict[str, Path] = {}
        interpreter = scratch / "interpreter"
        subprocess.run([sys.executable, "-m", "venv", interpreter], check=True)
        self._path = f"{interpreter / 'bin'}:/usr/bin:/bin"

    def build(self, name: str) -> Path:
        """The folder that stands for the root of a stage."""
        if name in self._built:
            return self._built[name]
        stage = self._stages[name]
        root = self._scratch / name
        if stage.base in self._stages:
            shutil.copytree(self.build(stage.base), root, symlinks=True)
        root.mkdir(parents=True, exist_ok=True)
        directory = root
        for instruction, text in stage.lines:
            if instruction == "WORKDIR":
                directory = root / text.lstrip("/")
                directory.mkdir(parents=True, exist_ok=True)
            elif instruction == "COPY":
                self._copy(text, root, directory)
            elif instruction == "RUN":
                self._run(text, root, directory, name)
        self._built[name] = root
        return root

    def environment(self, name: str, root: Path | None = None) -> dict[str, str]:
        """The ENV lines of a stage and of those it is made from, with PATH of the clean interpreter below them."""
        stage, root = self._stages[name], root or self._scratch / name
        found = self.environment(stage.base, root) if stage.base in self._stages else {"PATH": self._path}
        for instruction, text in stage.lines:
            if instruction == "ENV":
                pairs = (word.partition("=") for word in shlex.split(text))
                found |= {key: self._moved(value, root).replace("$PATH", found["PATH"]) for key, _, value in pairs}
        return found

    def _copy(self, text: str, root: Path, directory: Path) -> None:
        words = [word for word in shlex.split(text) if not word.startswith("--chown")]
        origin = self._origin
        if words[0].startswith("--from="):
            origin = self.build(words.pop(0).removeprefix("--from="))
        *sources, target = words
        into = root / target.lstrip("/") if target.startswith("/") else directory / target
        for source in sources:
            path = origin / source.lstrip("/")
            if path.is_dir():  # what is in it, and not the folder itself
                ignored = _CONTEXT if origin == self._origin else None
                shutil.copytree(path, into, dirs_exist_ok=True, symlinks=True, ignore=ignored)
            else:
                destination = into / path.name if target.endswith("/") or len(sources) > 1 else into
                destination.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, destination)

    def _run(self, text: str, root: Path, directory: Path, name: str) -> None:
        parts = [piece.strip() for piece in text.split("&&")]
        self.left_out += [part for part in parts if SYSTEM.match(part)]
        command = self._moved(" && ".join(part for part in parts if not SYSTEM.match(part)), root)
        if command:
            print(f"RUN {command}", flush=True)
            around = {"HOME": str(self._scratch), **self._network(), **self.environment(name)}
            subprocess.run(["/bin/sh", "-ec", command], cwd=directory, env=around, check=True)

    @staticmethod
    def _moved(text: str, root: Path) -> str:
        # At once, for the scratch folder itself may lie in one of the places.
        places = "|".join(PLACES)
        return re.sub(rf"(?<![\w.])(?:{places})(?=[/\s:]|$)", lambda found: f"{root}{found[0]}", text)

    @staticmethod
    def _network() -> dict[str, str]:
        """How this machine reaches the package index."""
        names = re.compile(r"(?i)(pip_\w+|https?_proxy|no_proxy|\w*ssl_cert\w*|requests_ca_bundle)")
        return {name: value for name, value in os.environ.items() if names.fullmatch(name)}


def weigh(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links weigh nothing."""
    if path.is_dir() and not path.is_symlink():
        return sum(map(weigh, path.iterdir()))
    return 0 if path.is_symlink() else path.stat().st_size


def start(root: Path, environment: dict[str, str]) -> float:
    """Start the server of this root on free ports, as the image would; seconds until it says that it is ready.

    Raises:
        SystemExit: It does not.
    """
    # An environment that was moved: its scripts name their old interpreter, so the module is started instead.
    command = [str(root / "opt/venv/bin/python"), "-m", "server", "serve", "--port", "0", "--grpc-port", "0"]
    began = time.monotonic()
    settings = {**environment, "BIREFNET_LOG_FORMAT": "json"}
    process = subprocess.Popen(command, cwd=root, env=settings, stderr=subprocess.PIPE, text=True)
    said = []
    try:
        for line in process.stderr or ():
            said.append(line)
            record = json.loads(line) if line.startswith("{") else {}
            if record.get("message") == "ready":
                address = record["http"].replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - where it said that it listens
                with urllib.request.urlopen(f"{address}/readyz", timeout=5) as response:  # noqa: S310
                    if response.status == 200:
                        return time.monotonic() - began
            if time.monotonic() - began > READY_S:
                break
        raise SystemExit("the server did not get ready:\n" + "".join(said))
    finally:
        process.terminate()
        process.communicate(timeout=120)  # above its drain delay and timeout


def check_interpreter(text: str) -> None:
    """Insist on the Python of the base image: the lock files are for that one.

    Raises:
        SystemExit: This is another one.
    """
    wanted = re.search(r"^ARG PYTHON_IMAGE=python:(\d+\.\d+)", text, re.M)
    found = f"{sys.version_info.major}.{sys.version_info.minor}"
    if wanted is None or wanted[1] != found:
        raise SystemExit(
            f"expected Python {wanted[1] if wanted else 'of an image'}, as in the base image; found {found}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Replay, start, weigh."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    stages = parse(text)
    parser = argparse.ArgumentParser(prog="python docker/replay.py", description=__doc__)
    parser.add_argument("target", choices=[name for name in stages if is_replayable(stages, name)])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the folders here")
    arguments = parser.parse_args(argv)
    check_interpreter(text)
    scratch = (arguments.keep or Path(tempfile.mkdtemp(prefix="birefnet-replay-"))).resolve()
    try:
        replay = Replay(stages, scratch)
        root = replay.build(arguments.target)
        print(f"python: {sys.version.split()[0]}")
        print("\n".join(f"left out: {part}" for part in replay.left_out))
        for folder in sorted(path for path in scratch.iterdir() if path.name in stages):
            print(f"{weigh(folder) / 1e6:8.1f} MB  {folder.name}")
        packages = sorted(root.glob("opt/venv/lib/python3*/site-packages/*"), key=weigh, reverse=True)
        for package in packages[:_HEAVIEST]:
            print(f"{weigh(package) / 1e6:8.1f} MB    of it {package.name}")
        if serves(stages, arguments.target):
            print(f"ready after {start(root, replay.environment(arguments.target)):.1f} s")
    finally:
        if arguments.keep is None:
            shutil.rmtree(scratch, ignore_errors=True)
    return 0


def is_replayable(stages: dict[str, Stage], target: str) -> bool:
    """Whether a target is made from the image of Python, which a virtual environment can stand for."""
    base = stages[target].base
    return is_replayable(stages, base) if base in stages else base == "${PYTHON_IMAGE}"


def serves(stages: dict[str, Stage], target: str) -> bool:
    """Whether a target starts the server; the last ENTRYPOINT counts."""
    stage = stages[target]
    entries = [text for instruction, text in stage.lines if instruction == "ENTRYPOINT"]
    if entries:
        return entries[-1] == '["birefnet-server"]'
    return stage.base in stages and serves(stages, stage.base)


if __name__ == "__main__":
    sys.exit(main())
