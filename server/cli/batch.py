"""Many images through one pipeline, a bounded number at a time, every output whole or absent."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from server.cli.inputs import Job
from server.cli.progress import Progress
from server.errors import BodyTooLargeError, DeviceLostError, OverloadedError, ServerError
from server.pipeline.request import SegmentOptions, SegmentRequest, SegmentResult


class Segmenter(Protocol):
    """What the runner needs of a pipeline."""

    async def segment(self, request: SegmentRequest) -> SegmentResult: ...


async def segment_all(
    segmenter: Segmenter,
    jobs: Iterator[Job],
    options: SegmentOptions,
    progress: Progress,
    *,
    at_once: int,
    max_bytes: int,
) -> None:
    """Run all jobs. A job that fails is shown and counted by `progress`, and the others go on.

    Args:
        segmenter: The pipeline.
        jobs: Consumed as there is room.
        options: For all of them.
        progress: Told of every job.
        at_once: Images in memory at any time.
        max_bytes: Larger files fail without being read.

    Raises:
        DeviceLostError: The device failed for good; the rest was not tried.
    """

    async def work() -> None:
        for job in jobs:
            try:
                await _run(segmenter, job, options, max_bytes)
            except DeviceLostError:
                raise
            except (ServerError, OSError, MemoryError) as error:
                progress.fail(job.source, _reason(error))
            else:
                progress.succeeded()

    workers = [asyncio.create_task(work()) for _ in range(at_once)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _run(segmenter: Segmenter, job: Job, options: SegmentOptions, max_bytes: int) -> None:
    image = await asyncio.to_thread(_read, job.source, max_bytes)
    while True:
        try:
            result = await segmenter.segment(SegmentRequest(image, options, str(job.source)))
            break
        except OverloadedError as error:
            # Our own images fill the megapixels that may be inside; some of them will be done soon.
            await asyncio.sleep(min(1, error.retry_after_s or 1))
    del image
    await asyncio.to_thread(write_whole, job.target, result.body)


def write_whole(target: Path, body: bytes) -> None:
    """Write a file so that it exists only when it is whole, whatever happens on the way."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_bytes(body)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _read(source: Path, max_bytes: int) -> bytes:
    size = source.stat().st_size
    if size > max_bytes:
        raise BodyTooLargeError(f"expected at most {max_bytes} bytes, found {size}")
    return source.read_bytes()


def _reason(error: Exception) -> str:
    if isinstance(error, ServerError):
        return error.detail
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "there is not enough memory for it"
