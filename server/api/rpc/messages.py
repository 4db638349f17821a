"""Messages to requests, and results to messages: the only reader of the wire contract."""

from collections.abc import Mapping
from dataclasses import replace

from google.protobuf.unknown_fields import UnknownFieldSet

from matting.refinement import Report
from protos.inference.v2 import inference_pb2 as oip_pb
from protos.matting.v1 import matting_pb2 as pb
from server.access import Account
from server.access.gate import CHALLENGE
from server.api.service import TransportLimits
from server.api.status import status_of
from server.errors import BodyTooLargeError, EmptyBodyError, InvalidOptionError, ServerError, UnauthenticatedError
from server.pipeline.options import parse_options
from server.pipeline.request import ImageUrl, SegmentOptions, SegmentRequest, SegmentResult

_ENUMS = {
    "output": pb.Output,
    "format": pb.Format,
    "priority": pb.Priority,
    "foreground": pb.Foreground,
    "refine": pb.Refine,
    "crop": pb.Crop,
}


def read_request(
    message: pb.SegmentRequest, request_id: str, limits: TransportLimits, account: Account | None = None
) -> SegmentRequest:
    """Check a message and turn it into a request.

    Args:
        message: As it came.
        request_id: For the logs.
        limits: Of the image and of the options.
        account: Whose rate limit it counts for.

    Raises:
        EmptyBodyError: It has neither an image nor the URL of one.
        BodyTooLargeError: The image has more bytes than the limit.
        InvalidOptionError: An option is unknown, has an impossible value, or contradicts another.
    """
    image = _read_image(message, limits.max_upload_bytes)
    return SegmentRequest(image, _read_options(message.options, limits.max_timeout_s), request_id, account)


def cut_to_deadline(request: SegmentRequest, remaining_s: float | None) -> SegmentRequest:
    """The same request, over at the deadline of its call at the latest; None is a call without one."""
    if remaining_s is None:
        return request
    wanted = request.options.timeout_s
    timeout_s = max(0.0, remaining_s if wanted is None else min(wanted, remaining_s))
    return replace(request, options=replace(request.options, timeout_s=timeout_s))


def write_answer(result: SegmentResult, message_id: str) -> pb.SegmentResponse:
    """The message of an answer."""
    height, width = result.size
    return pb.SegmentResponse(
        image=result.body,
        media_type=result.media_type,
        width=width,
        height=height,
        model=result.model,
        batch_size=result.batch_size,
        stages=[pb.StageTime(stage=stage, seconds=seconds) for stage, seconds in result.stage_s.items()],
        id=message_id,
        artifact=result.artifact,
        refinement=_refinement(result.refinement) if result.refinement is not None else None,
    )


def answer_bytes(answer: pb.SegmentResponse | oip_pb.ModelInferResponse) -> int:
    """How much of an answer is image or tensor."""
    if isinstance(answer, pb.SegmentResponse):
        return len(answer.image)
    return sum(map(len, answer.raw_output_contents))


def write_error(error: ServerError) -> pb.SegmentError:
    """The message that answers one image of a stream."""
    status = status_of(error)
    number: int = status.grpc.value[0]
    return pb.SegmentError(
        status=number,
        code=error.code,
        title=error.title,
        detail=valid_text(error.detail),
        retryable=status.retryable,
        retry_after_s=error.retry_after_s or 0,
        reason=error.reason or "",
    )


def error_metadata(error: ServerError) -> dict[str, str]:
    """Trailing metadata of a call that ends with an error: its public code, why it was refused, when to come back."""
    found = {"x-error-code": error.code}
    if error.reason is not None:
        found["x-refusal-reason"] = error.reason
    if error.retry_after_s is not None:
        found["retry-after"] = str(error.retry_after_s)
        # The same for channels that repeat calls by themselves (gRFC A6), instead of the backoff of their policy.
        found["grpc-retry-pushback-ms"] = str(error.retry_after_s * 1000)
    if isinstance(error, UnauthenticatedError):
        found |= CHALLENGE
    return found


def valid_text(text: str) -> str:
    """Text that UTF-8 can carry, whatever it quotes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _refinement(report: Report) -> pb.Refinement:
    stages = [
        pb.RefinedStage(
            width=stage.size[1],
            height=stage.size[0],
            tiles=stage.tiles,
            band_share=stage.band_share,
            dropped=stage.dropped,
        )
        for stage in report.stages
    ]
    return pb.Refinement(stages=stages, cropped=report.crop is not None)


def _read_image(message: pb.SegmentRequest, max_bytes: int) -> bytes | ImageUrl:
    if message.WhichOneof("source") == "image_url":
        return ImageUrl(message.image_url)
    image = message.image  # once: every access makes another copy
    if not image:
        raise EmptyBodyError("expected an encoded image in `image`, found 0 bytes")
    if len(image) > max_bytes:
        raise BodyTooLargeError(f"expected at most {max_bytes} bytes, found {len(image)}")
    return image


def _read_options(message: pb.SegmentOptions, max_timeout_s: float) -> SegmentOptions:
    fields = UnknownFieldSet(message)  # has a length and items, but no iterator
    unknown = sorted({fields[index].field_number for index in range(len(fields))})
    if unknown:
        numbers = ", ".join(map(str, unknown))
        raise InvalidOptionError(f"options: found fields that this server does not know, with the numbers {numbers}")
    values: dict[str, str] = {}
    for name, enum in _ENUMS.items():
        number = getattr(message, name)
        if number not in enum.values():
            known = ", ".join(enum.keys())
            raise InvalidOptionError(f"{name}: expected one of {known}, found {number}")
        if number:  # 0 is the default of every one of them
            values[name] = enum.Name(number).removeprefix(f"{name.upper()}_").lower()
    values |= _scalars(message)
    return parse_options(values, max_timeout_s=max_timeout_s)


def _scalars(message: pb.SegmentOptions) -> Mapping[str, str]:
    given = {
        "background": message.background,
        "depth": str(message.depth or ""),
        "model": message.model,
        "timeout_ms": str(message.timeout_ms or ""),
    }
    return {name: value for name, value in given.items() if value}
