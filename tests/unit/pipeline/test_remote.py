"""Images by their URL before the pipeline: what is fetched, when, and what is left for the rest."""

from collections.abc import Callable

import pytest

from server.access import Account
from server.engine.admission import Admission, AdmissionLimits
from server.engine.uploads import UploadLimits, Uploads
from server.errors import NotAnImageError, OverloadedError, UrlNotAllowedError
from server.observability.metrics import Metrics
from server.pipeline.pipeline import Pipeline
from server.pipeline.remote import RemotePipeline
from server.pipeline.request import ImageUrl, SegmentOptions, SegmentRequest, SegmentResult, fingerprint
from tests.support.backends import counted
from tests.support.clock import FakeClock
from tests.support.images import disc, png

IMAGE = png(disc(8, 8).image)
URL = ImageUrl("https://example.com/secret")


class Behind(Pipeline):
    """Records what reaches the pipeline, and answers."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.seen: list[SegmentRequest] = []
        self.refusal = refusal

    def check(self, request: SegmentRequest) -> float:
        if self.refusal is not None:
            raise self.refusal
        return 10.0 if request.options.timeout_s is None else request.options.timeout_s

    async def segment(self, request: SegmentRequest) -> SegmentResult:
        self.seen.append(request)
        return SegmentResult(b"matte", "image/png", (8, 8), "one", 1, {"decode": 0.5})


class Answers:
    """Fetches one body, in some time."""

    def __init__(self, clock: FakeClock, body: bytes = IMAGE, seconds: float = 3.0) -> None:
        self.clock, self.body, self.seconds = clock, body, seconds
        self.asked: list[tuple[str, float, str]] = []

    async def fetch(self, text: str, timeout_s: float, client: str, count: Callable[[int], None]) -> bytes:
        self.asked.append((text, timeout_s, client))
        count(len(self.body))
        self.clock.advance(self.seconds)
        return self.body


def front(behind: Behind, **answers) -> tuple[RemotePipeline, Answers, Metrics]:
    clock, metrics = FakeClock(), Metrics()
    fetcher = Answers(clock, **answers)
    return RemotePipeline(behind, fetcher, uploads(metrics), metrics, clock), fetcher, metrics


def uploads(metrics: Metrics, max_uploads: int = 9, max_bytes: int = 1 << 20) -> Uploads:
    return Uploads(UploadLimits(max_uploads, max_bytes), Admission(AdmissionLimits(), metrics))


@pytest.mark.parametrize(("wanted", "left"), [(None, 7.0), (5.0, 2.0), (3.0, 0.0), (1.0, 0.0)])
async def test_the_fetch_is_taken_off_the_time_of_the_request(wanted: float | None, left: float):
    behind = Behind()
    remote, fetcher, metrics = front(behind)
    account = Account("alice", FakeClock())
    request = SegmentRequest(URL, SegmentOptions(timeout_s=wanted), "id", account)
    result = await remote.segment(request)
    assert fetcher.asked == [(URL.text, 10.0 if wanted is None else wanted, "alice")]
    # What was fetched is known by the URL: the client that comes back sends that again.
    fetched = SegmentRequest(IMAGE, SegmentOptions(timeout_s=left), "id", account, fingerprint(request))
    assert behind.seen == [fetched]
    assert list(result.stage_s.items()) == [("fetch", 3.0), ("decode", 0.5)]
    assert counted(metrics, "birefnet_stage_seconds_sum", stage="fetch") == 3


async def test_uploads_pass_as_they_are():
    behind = Behind()
    remote, fetcher, _ = front(behind)
    request = SegmentRequest(IMAGE, SegmentOptions(timeout_s=2.0), "id")
    result = await remote.segment(request)
    assert behind.seen == [request]
    assert list(result.stage_s) == ["decode"]
    assert fetcher.asked == []


async def test_a_fetch_is_an_upload_on_its_way_until_it_is_there():
    """Its bytes count with those of all others, so the memory of both is bounded together."""
    seen: list[tuple[int, int]] = []

    class Observes(Answers):
        async def fetch(self, text: str, timeout_s: float, client: str, count: Callable[[int], None]) -> bytes:
            body = await super().fetch(text, timeout_s, client, count)
            seen.append((gate.number, gate.bytes))
            count(1)
            return body

    metrics, clock = Metrics(), FakeClock()
    gate = uploads(metrics, max_bytes=len(IMAGE) + 10)
    remote = RemotePipeline(Behind(), Observes(clock), gate, metrics, clock)
    await remote.segment(SegmentRequest(URL))
    assert seen == [(1, len(IMAGE))]
    assert (gate.number, gate.bytes) == (0, 0)
    with gate.receive(10), pytest.raises(OverloadedError):  # room for all of it but its last byte
        await remote.segment(SegmentRequest(URL))
    assert seen == [(1, len(IMAGE)), (2, len(IMAGE) + 10)]
    assert (gate.number, gate.bytes) == (0, 0)
    assert counted(metrics, "birefnet_refusals_total", reason="uploads") == 1


async def test_what_would_be_refused_is_not_fetched():
    remote, fetcher, _ = front(Behind(OverloadedError("full", retry_after_s=1)))
    with pytest.raises(OverloadedError):
        await remote.segment(SegmentRequest(URL))
    assert fetcher.asked == []


async def test_what_is_no_image_goes_no_further_and_is_not_quoted():
    behind = Behind()
    remote, _, _ = front(behind, body=b"root:x:0:0")
    with pytest.raises(NotAnImageError) as caught:
        await remote.segment(SegmentRequest(URL))
    assert "root" not in caught.value.detail
    assert b"root".hex(" ") not in caught.value.detail
    assert behind.seen == []


@pytest.mark.parametrize("by_url", [False, True])
async def test_the_image_is_not_held_on_to(by_url: bool):
    """The pipeline frees an upload once it is decoded; a second reference here would keep it for the whole request."""
    freed: list[bool] = []

    class Watched(bytes):
        def __del__(self) -> None:
            freed.append(True)

    class Looks(Behind):
        async def segment(self, request: SegmentRequest) -> SegmentResult:
            assert freed == []
            del request
            assert freed == [True]
            return await super().segment(SegmentRequest(b""))

    class Fetches(Answers):
        async def fetch(self, text: str, timeout_s: float, client: str, count: Callable[[int], None]) -> bytes:
            return Watched(IMAGE)

    clock, metrics = FakeClock(), Metrics()
    remote = RemotePipeline(Looks(), Fetches(clock), uploads(metrics), metrics, clock)
    await remote.segment(SegmentRequest(URL if by_url else Watched(IMAGE)))
    assert freed == [True]


async def test_a_pipeline_alone_fetches_nothing():
    with pytest.raises(UrlNotAllowedError, match="fetches no images"):
        await Pipeline.segment(_WithoutParts(), SegmentRequest(URL))


class _WithoutParts(Pipeline):
    def __init__(self) -> None:
        self._clock = FakeClock()


def test_a_url_does_not_show_in_what_is_printed():
    assert "secret" not in repr(SegmentRequest(URL))
    assert "secret" not in repr(URL)
