"""The replay of the Dockerfile does what Docker would do with the instructions that the Dockerfile has."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def load():
    spec = importlib.util.spec_from_file_location("replay", ROOT / "docker" / "replay.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["replay"] = module
    spec.loader.exec_module(module)
    return module


replay = load()
DOCKERFILE = (ROOT / "Dockerfile").read_text()

TINY = """
# A comment.
FROM image AS made
WORKDIR /src
COPY one.txt folder ./
RUN mkdir -p /opt/made \\
    && cat one.txt inner.txt > /opt/made/both.txt && useradd somebody

FROM image AS base
ENV PATH=/opt/made:$PATH \\
    GREETING="hello you"
ENTRYPOINT ["birefnet-server"]

FROM base AS last
COPY --from=made /opt/made /opt/made
COPY --chown=a:b folder /work/
RUN python -c "open('/opt/made/third.txt', 'w').write('3')" && grep -q 2 /opt/made/both.txt
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "context" / "folder").mkdir(parents=True)
    (tmp_path / "context" / "one.txt").write_text("1")
    (tmp_path / "context" / "folder" / "inner.txt").write_text("2")
    return tmp_path / "context"


def test_stages_see_what_they_are_made_from_and_nothing_is_written_elsewhere(context: Path, tmp_path: Path):
    # As Docker does it: a folder's contents are copied, not the folder.
    stages = replay.parse(TINY)
    replayed = replay.Replay(stages, tmp_path / "scratch", context)
    root = replayed.build("last")
    made = root / "opt/made"
    assert (made / "both.txt").read_text() == "12"
    assert (made / "third.txt").read_text() == "3"
    assert (root / "work/inner.txt").read_text() == "2"
    assert not (root / "src").exists(), "a stage sees of others what it copies"
    assert replayed.left_out == ["useradd somebody"]
    environment = replayed.environment("last")
    assert environment["GREETING"] == "hello you"
    assert environment["PATH"].startswith(f"{root}/opt/made:{tmp_path}/scratch/interpreter/bin:")


def test_a_command_that_fails_ends_it(context: Path, tmp_path: Path):
    stages = replay.parse("FROM image AS bad\nRUN true && false && true\n")
    with pytest.raises(replay.subprocess.CalledProcessError):
        replay.Replay(stages, tmp_path / "scratch", context).build("bad")


def test_it_knows_every_instruction_and_place_of_the_dockerfile():
    stages = replay.parse(DOCKERFILE)
    assert list(stages) == re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.M)
    lines = [line for stage in stages.values() for line in stage.lines]
    ignored = {"LABEL", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}  # nothing of them is in a file
    assert {instruction for instruction, _ in lines} <= {"WORKDIR", "COPY", "RUN", "ENV"} | ignored
    runs = " ".join(text for instruction, text in lines if instruction in ("RUN", "WORKDIR", "ENV"))
    ours = " && ".join(part for part in runs.split("&&") if not replay.SYSTEM.match(part.strip()))
    places = set(re.findall(r"(?:^|[\s=:])(/\w+)", ours))
    assert places <= set(replay.PLACES), "a path that would be this machine's"
    assert [name for name in stages if replay.serves(stages, name)] == ["runtime", "gpu", "tensorrt", "cpu"]
    assert [name for name in stages if not replay.is_replayable(stages, name)] == ["tensorrt"]


def test_the_context_is_what_dockerignore_lets_through(context: Path, tmp_path: Path):
    (context / ".dockerignore").write_text("# A comment.\n*\n!folder\n**/__pycache__\n")
    (context / "folder" / "__pycache__").mkdir()
    (context / ".git").mkdir()
    stages = replay.parse("FROM image AS all\nCOPY . /work\n\nFROM image AS wrong\nCOPY one.txt /work/\n")
    root = replay.Replay(stages, tmp_path / "scratch", context).build("all")
    assert [str(path.relative_to(root / "work")) for path in sorted((root / "work").rglob("*"))] == [
        "folder",
        "folder/inner.txt",
    ]
    with pytest.raises(SystemExit, match=r"COPY one\.txt: expected a name that .dockerignore lets through"):
        replay.Replay(stages, tmp_path / "other", context).build("wrong")


def test_an_image_with_another_python_gets_the_packages_of_that_one():
    stages = replay.parse(DOCKERFILE)
    (text,) = [t for kind, t in stages["tensorrt"].lines if kind == "RUN" and "tensorrt.lock" in t]
    made = [replay.for_another_python(part.strip()) for part in text.split("&&")]
    assert made[-2] == f"mkdir -p {replay.FOREIGN_PACKAGES}"
    assert made[-1].startswith(
        f"pip install --target {replay.FOREIGN_PACKAGES} --python-version 3.12 --only-binary :all: "
    )
    assert made[-1].endswith(" --quiet --no-cache-dir --require-hashes --requirement /locks/tensorrt.lock")
    (lock,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if "-o docker/tensorrt.lock" in line]
    assert f"--python-version {replay.FOREIGN_PYTHON} " in lock


def test_what_a_target_starts_is_known():
    stages = replay.parse(DOCKERFILE)
    for target in ("cpu", "gpu", "tensorrt"):
        assert replay.serves(stages, target)
    for target in ("export", "dev"):
        assert [name for name in replay.ENTRIES if name in replay.entry(stages, target)], target


@pytest.mark.skipif(not Path("/usr/bin/ldd").exists(), reason="ldd is not here")
def test_a_provider_without_its_libraries_is_noticed(tmp_path: Path):
    assert replay.missing_libraries(tmp_path, {}) == []
    folder = tmp_path / "opt/venv/lib/python3.11/site-packages/onnxruntime/capi"
    folder.mkdir(parents=True)
    module = importlib.util.find_spec("grpc._cython.cygrpc")  # any library that finds what it needs
    assert module is not None
    assert module.origin is not None
    (folder / "libonnxruntime_providers_cuda.so").write_bytes(Path(module.origin).read_bytes())
    assert replay.missing_libraries(tmp_path, {}) == []


def test_what_weighs(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    assert replay.weigh(tmp_path) == 5
