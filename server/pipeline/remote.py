"""Images that a request names by their URL: fetched first, then answered like any upload.

A fetch is an upload on its way, counted as one, and has places of its own beside: a slow server holds up other fetches,
and never takes a place of work that is ready. What would be refused anyway is refused
before the fetch; what is fetched is then admitted, by its pixels, like everything else, and may still be refused.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from server.engine.uploads import Uploads
from server.errors import NotAnImageError
from server.observability.metrics import Metrics
from server.observability.tracing import record_stage
from server.pipeline.formats import READABLE, sniff
from server.pipeline.pipeline import Pipeline
from server.pipeline.request import ImageUrl, SegmentRequest, SegmentResult, fingerprint


class Fetch(Protocol):
    """What fetches, as the pipeline sees it."""

    async def fetch(self, text: str, timeout_s: float, client: str, count: Callable[[int], None]) -> bytes:
        """The whole body of what a URL names, or a `ServerError`; cancelling the task ends the fetch.

        Args:
            text: The URL as the client wrote it.
            timeout_s: What is left of the request's own time.
            client: Who asks; empty is nobody in particular.
            count: Is told of the bytes of each piece before it is kept; what it raises ends the fetch.
        """
        ...


class RemotePipeline:
    """A pipeline that also takes images by their URL."""

    def __init__(
        self,
        pipeline: Pipeline,
        fetcher: Fetch,
        uploads: Uploads,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Stand before a pipeline.

        Args:
            pipeline: Answers what was fetched.
            fetcher: Fetches it.
            uploads: Where its bytes are counted while they come.
            metrics: Where the stage `fetch` is timed.
            clock: Monotonic seconds.
        """
        self._pipeline = pipeline
        self._fetcher = fetcher
        self._uploads = uploads
        self._metrics = metrics
        self._clock = clock

    async def segment(self, request: SegmentRequest) -> SegmentResult:
        """Answer one request, as `Pipeline.segment` does. Its time counts from here, so the fetch is part of it.

        Raises:
            ServerError: As `Pipeline.segment`, and what the fetch raises.
        """
        source = request.image
        if not isinstance(source, ImageUrl):
            work = self._pipeline.segment(request)
            del request, source  # the pipeline frees the upload as soon as it is decoded
            return await work
        began = self._clock()
        timeout_s = self._pipeline.check(request)
        image = await self._fetch(source, timeout_s, request.account.name if request.account is not None else "")
        fetch_s = self._clock() - began
        record_stage("fetch", fetch_s, bytes=len(image))
        options = replace(request.options, timeout_s=max(0.0, timeout_s - fetch_s))
        fetched = replace(request, image=image, options=options, fingerprint=fingerprint(request))
        work = self._pipeline.segment(fetched)
        del fetched  # as above
        del image
        result = await work
        self._metrics.stage_seconds.labels("fetch").observe(fetch_s)
        return replace(result, stage_s={"fetch": fetch_s, **result.stage_s})

    async def _fetch(self, source: ImageUrl, timeout_s: float, client: str) -> bytes:
        with self._uploads.receive() as arrival:
            image = await self._fetcher.fetch(source.text, timeout_s, client, arrival.add)
        try:
            sniff(image)
        except NotAnImageError as error:
            # Of an upload we say how it begins; of somebody else's file we do not.
            raise NotAnImageError(f"image_url: expected an image ({', '.join(READABLE)}), found none") from error
        return image
