"""Replay a target of the Dockerfile without a Docker engine: `python docker/replay.py cpu [--keep DIR]`.

The same COPY, RUN and ENV lines, read from the Dockerfile, stage by stage, in folders instead of images: absolute paths
are moved below a scratch folder, a stage sees the files of the stages that it is made from, and `python` and `pip` are
those of a clean virtual environment. What changes the system itself (users, their rights, Debian's packages) is named
and left out. At the end it says what every stage weighs, starts what the target starts, and asks the server for
readiness as HEALTHCHECK does.

Two things are not as in the image. Where CUDA is asked for and there is no GPU, the server is started on the processor,
and the libraries that ONNX Runtime's CUDA provider cannot find are named: the driver's alone is as it should be. And a
target on another image than Python's has another Python, which is not here: its packages are installed for that one,
into a folder, and it is not started.
"""

import argparse
import functools
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
SYSTEM = re.compile(r"^(groupadd|useradd|chown|apt-get|rm -rf /var/lib/apt)\b")
FOREIGN_PYTHON = "3.12"  # of the images that are not Python's, as in `make lock`
FOREIGN_PACKAGES = f"/opt/venv/lib/python{FOREIGN_PYTHON}/site-packages"
DRIVER = "libcuda.so.1"
READY_S = 120.0
# What is run of a target that does not serve, by its entry point: a moved script names its old interpreter.
ENTRIES = {
    "birefnet-export": ["model_export", "--help"],
    "/bin/bash": ["pytest", "-q", "tests/unit/api", "tests/unit/deploy/test_images.py"],
}
_HEAVIEST = 8
_NO_CODE = shutil.ignore_patterns("__pycache__")


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
            if origin == self._origin:
                self._insist_on_context(source)
            if path.is_dir():  # what is in it, and not the folder itself
                ignored = self._ignore if origin == self._origin else None
                shutil.copytree(path, into, dirs_exist_ok=True, symlinks=True, ignore=ignored)
            else:
                destination = into / path.name if target.endswith("/") or len(sources) > 1 else into
                destination.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, destination)

    @functools.cached_property
    def _context(self) -> frozenset[str] | None:
        """What .dockerignore lets into the context, which it names by `!NAME` after `*`; None where there is none."""
        path = self._origin / ".dockerignore"
        if not path.exists():
            return None
        return frozenset(line[1:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("!"))

    def _insist_on_context(self, source: str) -> None:
        first = Path(source).parts[:1]
        if self._context is not None and first and first[0] not in self._context:
            raise SystemExit(
                f"COPY {source}: expected a name that .dockerignore lets through, found one that it does not"
            )

    def _ignore(self, folder: str, names: list[str]) -> set[str]:
        ignored = set(_NO_CODE(folder, names))
        if Path(folder) == self._origin and self._context is not None:
            ignored |= set(names) - self._context
        return ignored

    def _run(self, text: str, root: Path, directory: Path, name: str) -> None:
        parts = [piece.strip() for piece in text.split("&&")]
        if not is_replayable(self._stages, name):
            parts = [for_another_python(part) for part in parts]
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


def for_another_python(part: str) -> str:
    """The same installation, by this Python's pip for the packages of another; its environment is a folder."""
    if re.match(r"python3 -m venv .*/opt/venv$", part):
        return f"mkdir -p {FOREIGN_PACKAGES}"
    platforms = " ".join(f"--platform manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1))
    # The lock has all of them: what pip would look up here are the conditions of this Python.
    which = f"--python-version {FOREIGN_PYTHON} --only-binary :all: --no-deps --ignore-requires-python {platforms}"
    options = f"--target {FOREIGN_PACKAGES} {which}"
    return part.replace("/opt/venv/bin/pip install", f"pip install {options}")


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


def missing_libraries(root: Path, environment: dict[str, str]) -> list[str]:
    """What ONNX Runtime's CUDA provider needs and the image does not have; none where there is no such provider."""
    found: list[str] = []
    for provider in root.glob("opt/venv/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime_providers_cuda.so"):
        said = subprocess.run(["/usr/bin/ldd", provider], env=environment, capture_output=True, text=True, check=True)
        found += re.findall(r"(\S+) => not found", said.stdout)
    return found


def show_start(replay: Replay, stages: dict[str, Stage], target: str) -> None:
    """Start what the target starts, and say how that went.

    Raises:
        SystemExit: It does not start, or lacks a library that is not the driver's.
    """
    environment = replay.environment(target)
    root = replay.build(target)
    if not is_replayable(stages, target):
        print(f"not started: it needs Python {FOREIGN_PYTHON} of its image")
    elif serves(stages, target):
        missing = missing_libraries(root, environment)
        if missing:
            print(f"not found: {', '.join(missing)}")
            environment["BIREFNET_DEVICE"] = "cpu"
        if set(missing) - {DRIVER}:
            raise SystemExit(f"expected all libraries but {DRIVER}, which comes with the driver")
        print(f"ready after {start(root, environment):.1f} s{' on the processor' if missing else ''}")
    else:
        (module,) = [found for name, found in ENTRIES.items() if name in entry(stages, target)]
        (python,) = [*root.glob("opt/venv/bin/python"), *root.glob("work/.venv/bin/python")]
        done = subprocess.run(
            [python, "-m", *module],
            cwd=root / "work" if (root / "work").exists() else root,
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(module)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        print(f"{' '.join(module)}: {done.stdout.strip().splitlines()[-1].strip()}")


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
    parser.add_argument("target", choices=[name for name in stages if name != "runtime" and entry(stages, name)])
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
        show_start(replay, stages, arguments.target)
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
    return entry(stages, target) == '["birefnet-server"]'


def entry(stages: dict[str, Stage], target: str) -> str:
    """The ENTRYPOINT of a target, as it is written; empty where there is none."""
    stage = stages[target]
    entries = [text for instruction, text in stage.lines if instruction == "ENTRYPOINT"]
    if entries:
        return entries[-1]
    return entry(stages, stage.base) if stage.base in stages else ""


if __name__ == "__main__":
    sys.exit(main())
