"""A pipeline of our own for one run of `segment`."""

import asyncio
from collections.abc import Sequence

from artifact import ArtifactError
from server.app import open_pipeline
from server.backends.base import BackendFault
from server.cli.batch import segment_all
from server.cli.inputs import Job
from server.cli.progress import Progress
from server.engine.warmup import SelfTestFailedError
from server.errors import DeviceLostError
from server.pipeline.models import ModelsError
from server.pipeline.request import SegmentOptions
from server.settings import Settings


def run_jobs(jobs: Sequence[Job], options: SegmentOptions, settings: Settings, progress: Progress) -> str | None:
    """Start a pipeline, run the jobs, close it.

    Returns:
        Why jobs were left untried, or None where all were tried.
    """
    try:
        asyncio.run(_run(jobs, options, settings, progress))
    except (ModelsError, ArtifactError, BackendFault, SelfTestFailedError) as error:
        return str(error)
    except DeviceLostError as error:
        return f"{error.detail}; run the same command again to go on"
    return None


async def _run(jobs: Sequence[Job], options: SegmentOptions, settings: Settings, progress: Progress) -> None:
    async with open_pipeline(settings) as pipeline:
        await segment_all(
            pipeline,
            iter(jobs),
            options,
            progress,
            at_once=min(pipeline.useful_concurrency, settings.max_requests),
            max_bytes=settings.max_upload_bytes,
        )
