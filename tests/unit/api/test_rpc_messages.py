"""Messages to requests and back."""

import pytest

from protos.matting.v1 import matting_pb2 as pb
from server.access import Account
from server.api.rpc.messages import cut_to_deadline, read_request, write_answer, write_error
from server.api.service import TransportLimits
from server.engine.batching import Priority
from server.errors import BodyTooLargeError, EmptyBodyError, InvalidOptionError, OverloadedError
from server.pipeline.request import (
    Crop,
    Foreground,
    ImageUrl,
    Output,
    OutputFormat,
    Refine,
    SegmentOptions,
    SegmentRequest,
    SegmentResult,
)
from tests.support.clock import FakeClock

LIMITS = TransportLimits(max_upload_bytes=100)


def request_with(**options: object) -> SegmentRequest:
    message = pb.SegmentRequest(image=b"x", options=pb.SegmentOptions(**options))  # type: ignore[arg-type]
    return read_request(message, "id", LIMITS)


def test_a_message_without_options_means_the_defaults():
    assert read_request(pb.SegmentRequest(image=b"x"), "id", LIMITS) == SegmentRequest(b"x", SegmentOptions(), "id")


def test_an_image_may_be_named_by_its_url_and_an_empty_one_is_still_a_url():
    for text in ("https://example.com/a.jpg", ""):
        assert read_request(pb.SegmentRequest(image_url=text), "id", LIMITS).image == ImageUrl(text)
    with pytest.raises(EmptyBodyError):
        read_request(pb.SegmentRequest(), "id", LIMITS)


def test_an_account_pays_however_the_image_is_sent():
    account = Account("shop", FakeClock())
    for message in (pb.SegmentRequest(image=b"x"), pb.SegmentRequest(image_url="https://example.com/a.jpg")):
        assert read_request(message, "id", LIMITS, account).account is account


def test_clients_from_before_urls_are_understood():
    """The field moved into a oneof, which does not show on the wire."""
    assert pb.SegmentRequest.FromString(b"\x0a\x01x") == pb.SegmentRequest(image=b"x")
    assert pb.SegmentRequest(image=b"x").SerializeToString() == b"\x0a\x01x"


def test_every_option_arrives():
    found = request_with(
        output=pb.OUTPUT_COMPOSITE,
        format=pb.FORMAT_WEBP,
        background="#010203",
        model="small",
        priority=pb.PRIORITY_LOW,
        timeout_ms=1500,
        foreground=pb.FOREGROUND_ORIGINAL,
    )
    assert found.options == SegmentOptions(
        Output.COMPOSITE, OutputFormat.WEBP, (1, 2, 3), "small", Priority.LOW, 1.5, Foreground.ORIGINAL
    )
    assert request_with(depth=16).options == SegmentOptions(depth=16)
    asked = request_with(refine=pb.REFINE_ON, crop=pb.CROP_AUTO).options
    assert asked == SegmentOptions(refine=Refine.ON, crop=Crop.AUTO)


@pytest.mark.parametrize("field", ["output", "format", "priority", "foreground", "refine", "crop"])
def test_numbers_outside_an_enum_are_refused(field: str):
    with pytest.raises(InvalidOptionError, match=f"{field}: expected one of .*_UNSPECIFIED.*, found 44"):
        request_with(**{field: 44})


def test_the_limit_is_of_the_image():
    read_request(pb.SegmentRequest(image=bytes(100)), "id", LIMITS)
    with pytest.raises(BodyTooLargeError, match="at most 100 bytes, found 101"):
        read_request(pb.SegmentRequest(image=bytes(101)), "id", LIMITS)


@pytest.mark.parametrize(
    ("wanted", "remaining", "expected"),
    [(None, None, None), (5.0, None, 5.0), (None, 3.0, 3.0), (5.0, 3.0, 3.0), (2.0, 3.0, 2.0), (None, -1.0, 0.0)],
)
def test_the_nearer_of_timeout_and_deadline_holds(wanted, remaining, expected):
    request = SegmentRequest(b"x", SegmentOptions(timeout_s=wanted))
    assert cut_to_deadline(request, remaining).options.timeout_s == expected


def test_an_answer_keeps_width_height_and_the_order_of_stages():
    stages = {"decode": 0.1, "queue": 0.2, "infer": 0.3, "encode": 0.4}
    message = write_answer(SegmentResult(b"png", "image/png", (20, 30), "m", 2, stages), "7")
    assert (message.width, message.height, message.id, message.batch_size) == (30, 20, "7", 2)
    assert [(stage.stage, stage.seconds) for stage in message.stages] == list(stages.items())


def test_an_error_in_a_stream_says_what_a_call_would():
    error = OverloadedError("full", retry_after_s=4)
    assert write_error(error).reason == ""
    error.reason = "wait"
    message = write_error(error)
    assert (message.status, message.code, message.retryable, message.retry_after_s) == (8, "overloaded", True, 4)
    assert message.reason == "wait"
