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
    places = set(re.findall(r"(?:^|[\s=:])(/\w+)", runs))
    assert places <= set(replay.PLACES), "a path that would be this machine's"
    assert [name for name in stages if replay.serves(stages, name)] == ["runtime", "gpu", "tensorrt", "cpu"]
    assert [name for name in stages if not replay.is_replayable(stages, name)] == ["tensorrt"]


def test_what_weighs(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    assert replay.weigh(tmp_path) == 5
