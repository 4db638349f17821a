"""The one table that says how every error of `server.errors` leaves the process, over any transport.

A test proves the table exhaustive, so a new error class cannot be answered by accident.
"""

from dataclasses import dataclass
from http import HTTPStatus

from grpc import StatusCode

from server import errors


@dataclass(frozen=True, slots=True)
class Status:
    """How one class of errors is answered.

    Attributes:
        http: Status of the HTTP response.
        grpc: Status of the gRPC call.
        retryable: Whether the very same request may succeed later, here or on another replica.
    """

    http: int
    grpc: StatusCode
    retryable: bool


CLIENT_CLOSED_REQUEST = 499  # nginx's number; only logs and metrics see it, for nobody is left to read the answer

STATUSES: dict[type[errors.ServerError], Status] = {
    errors.ServerError: Status(HTTPStatus.INTERNAL_SERVER_ERROR, StatusCode.INTERNAL, retryable=False),
    errors.RequestError: Status(HTTPStatus.BAD_REQUEST, StatusCode.INVALID_ARGUMENT, retryable=False),
    errors.MalformedRequestError: Status(HTTPStatus.BAD_REQUEST, StatusCode.INVALID_ARGUMENT, retryable=False),
    errors.EmptyBodyError: Status(HTTPStatus.BAD_REQUEST, StatusCode.INVALID_ARGUMENT, retryable=False),
    errors.InvalidOptionError: Status(HTTPStatus.UNPROCESSABLE_ENTITY, StatusCode.INVALID_ARGUMENT, retryable=False),
    errors.UnauthenticatedError: Status(HTTPStatus.UNAUTHORIZED, StatusCode.UNAUTHENTICATED, retryable=False),
    errors.UnknownModelError: Status(HTTPStatus.NOT_FOUND, StatusCode.NOT_FOUND, retryable=False),
    errors.ModelRefusedError: Status(HTTPStatus.UNPROCESSABLE_ENTITY, StatusCode.FAILED_PRECONDITION, retryable=False),
    errors.ConflictError: Status(HTTPStatus.CONFLICT, StatusCode.ABORTED, retryable=False),
    # Never RESOURCE_EXHAUSTED for something too large: clients retry that one, and these stay too large.
    errors.BodyTooLargeError: Status(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, StatusCode.INVALID_ARGUMENT, retryable=False),
    errors.ImageTooLargeError: Status(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, StatusCode.INVALID_ARGUMENT, retryable=False
    ),
    errors.MetadataTooLargeError: Status(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, StatusCode.INVALID_ARGUMENT, retryable=False
    ),
    errors.NotAnImageError: Status(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, StatusCode.INVALID_ARGUMENT, retryable=False),
    errors.CorruptImageError: Status(HTTPStatus.UNPROCESSABLE_ENTITY, StatusCode.INVALID_ARGUMENT, retryable=False),
    errors.UrlNotAllowedError: Status(HTTPStatus.UNPROCESSABLE_ENTITY, StatusCode.INVALID_ARGUMENT, retryable=False),
    # Not 502 or UNAVAILABLE: whoever names a dead URL must not look like a fault of ours, for which proxies eject us.
    errors.UrlFetchFailedError: Status(HTTPStatus.FAILED_DEPENDENCY, StatusCode.FAILED_PRECONDITION, retryable=False),
    errors.UrlTooLargeError: Status(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, StatusCode.INVALID_ARGUMENT, retryable=False),
    errors.CapacityError: Status(HTTPStatus.SERVICE_UNAVAILABLE, StatusCode.UNAVAILABLE, retryable=True),
    errors.OverloadedError: Status(HTTPStatus.TOO_MANY_REQUESTS, StatusCode.RESOURCE_EXHAUSTED, retryable=True),
    errors.RateLimitedError: Status(HTTPStatus.TOO_MANY_REQUESTS, StatusCode.RESOURCE_EXHAUSTED, retryable=True),
    errors.DrainingError: Status(HTTPStatus.SERVICE_UNAVAILABLE, StatusCode.UNAVAILABLE, retryable=True),
    errors.NotReadyError: Status(HTTPStatus.SERVICE_UNAVAILABLE, StatusCode.UNAVAILABLE, retryable=True),
    errors.DeadlineExceededError: Status(HTTPStatus.GATEWAY_TIMEOUT, StatusCode.DEADLINE_EXCEEDED, retryable=True),
    errors.UrlTimeoutError: Status(HTTPStatus.GATEWAY_TIMEOUT, StatusCode.DEADLINE_EXCEEDED, retryable=True),
    errors.CancelledByClientError: Status(CLIENT_CLOSED_REQUEST, StatusCode.CANCELLED, retryable=False),
    errors.InferenceError: Status(HTTPStatus.INTERNAL_SERVER_ERROR, StatusCode.INTERNAL, retryable=False),
    errors.DeviceLostError: Status(HTTPStatus.SERVICE_UNAVAILABLE, StatusCode.UNAVAILABLE, retryable=True),
}


def status_of(error: errors.ServerError) -> Status:
    """How an error is answered.

    A class outside the table, which the tests rule out in this code base, is answered as its nearest ancestor in it.
    """
    return next(STATUSES[cls] for cls in type(error).__mro__ if cls in STATUSES)
