"""Many images, a bounded number at a time; a file exists only when it is whole."""

import asyncio
import io
from pathlib import Path

import pytest

from server.cli.batch import segment_all, write_whole
from server.cli.inputs import Job
from server.cli.progress import Progress
from server.errors import DeviceLostError, NotAnImageError, OverloadedError
from server.pipeline.request import SegmentOptions, SegmentRequest, SegmentResult
from tests.support.clock import FakeClock


class FakeSegmenter:
    """Answers with the input's bytes in brackets; scripted by them."""

    def __init__(self) -> None:
        self.inside = self.most = self.overloads = 0

    async def segment(self, request: SegmentRequest) -> SegmentResult:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(0)
        self.inside -= 1
        assert isinstance(request.image, bytes)
        if request.image == b"bad":
            raise NotAnImageError("expected an image, found three letters")
        if request.image == b"lost":
            raise DeviceLostError("the card has fallen off")
        if request.image == b"busy" and not self.overloads:
            self.overloads += 1
            raise OverloadedError("full", retry_after_s=0)
        return SegmentResult(b"<" + request.image + b">", "image/png", (1, 1), "m", 1, {})


@pytest.fixture
def jobs(tmp_path):
    def make(*contents: bytes) -> list[Job]:
        made = []
        for number, content in enumerate(contents):
            source = tmp_path / f"{number}.jpg"
            source.write_bytes(content)
            made.append(Job(source, tmp_path / "out" / "deep" / f"{number}.png"))
        return made

    return make


async def run(jobs: list[Job], segmenter: FakeSegmenter, **limits: int) -> tuple[Progress, str]:
    stream = io.StringIO()
    progress = Progress(len(jobs), stream, FakeClock())
    await segment_all(
        segmenter,
        iter(jobs),
        SegmentOptions(),
        progress,
        at_once=limits.get("at_once", 3),
        max_bytes=limits.get("max_bytes", 100),
    )
    return progress, stream.getvalue()


async def test_every_job_is_done_with_a_bounded_number_inside(jobs):
    made, segmenter = jobs(*(str(number).encode() for number in range(20))), FakeSegmenter()
    progress, _ = await run(made, segmenter, at_once=3)
    assert [job.target.read_bytes() for job in made] == [b"<%d>" % number for number in range(20)]
    assert progress.done == 20
    assert 1 < segmenter.most <= 3


async def test_failures_are_told_and_the_others_go_on(jobs, tmp_path):
    made = jobs(b"good", b"bad", b"x" * 101, b"fine")
    made.append(Job(tmp_path / "absent.jpg", tmp_path / "out" / "absent.png"))
    progress, output = await run(made, FakeSegmenter())
    assert (progress.done, progress.failed) == (2, 3)
    assert sorted(output.splitlines()) == [
        f"failed: {tmp_path}/1.jpg: expected an image, found three letters",
        f"failed: {tmp_path}/2.jpg: expected at most 100 bytes, found 101",
        f"failed: {tmp_path}/absent.jpg: No such file or directory",
    ]
    assert sorted(path.name for path in (tmp_path / "out" / "deep").iterdir()) == ["0.png", "3.png"]


async def test_an_output_that_cannot_be_written_is_a_failure(jobs, tmp_path):
    (tmp_path / "out").write_text("a file where a folder should be")
    progress, output = await run(jobs(b"good"), FakeSegmenter())
    assert progress.failed == 1
    assert "Not a directory" in output or "File exists" in output


async def test_a_full_pipeline_is_waited_for(jobs):
    segmenter = FakeSegmenter()
    progress, _ = await run(jobs(b"busy"), segmenter)
    assert (progress.done, segmenter.overloads) == (1, 1)


async def test_a_lost_device_ends_the_run(jobs):
    with pytest.raises(DeviceLostError):
        await run(jobs(b"lost", *[b"x"] * 50), FakeSegmenter(), at_once=1)


async def test_a_run_that_is_cancelled_leaves_no_workers(jobs):
    started = asyncio.Event()

    class Never(FakeSegmenter):
        async def segment(self, request: SegmentRequest) -> SegmentResult:
            started.set()
            await asyncio.Event().wait()
            raise AssertionError

    before = asyncio.all_tasks()
    task = asyncio.create_task(run(jobs(b"a", b"b"), Never()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == before


def test_a_file_that_cannot_be_finished_leaves_nothing(tmp_path, monkeypatch):
    def fail(self: Path, target: Path) -> None:
        assert self.read_bytes() == b"new"
        raise KeyboardInterrupt

    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a.png", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"old")]


def test_the_temporary_file_is_hidden_and_beside_the_target(tmp_path, monkeypatch):
    seen = []
    replace = Path.replace

    def spy(self: Path, target: Path) -> Path:
        seen.append((self.parent, self.name[0]))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", spy)
    write_whole(tmp_path / "deep" / "a.png", b"new")
    assert seen == [(tmp_path / "deep", ".")]
