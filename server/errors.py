"""Every error the service reports to a client, as one tree.

    ServerError
    ├── RequestError                 the client's request cannot be served as it is
    │   ├── MalformedRequestError    the body or its envelope cannot be read (bad JSON, no image part)
    │   ├── EmptyBodyError           an image was expected, zero bytes came
    │   ├── InvalidOptionError       an unknown option, a value outside its set, an impossible combination
    │   ├── UnauthenticatedError     no API key, or one that is not known
    │   ├── UnknownModelError        no artifact of that name is served
    │   ├── ModelRefusedError        an artifact that was to be served cannot be
    │   ├── ConflictError            what is asked for does not go together with what there is, or is under way
    │   ├── BodyTooLargeError        more bytes than the limit
    │   ├── ImageTooLargeError       more pixels than the limit, read from the header
    │   ├── MetadataTooLargeError    more beside the pixels than the limits
    │   ├── NotAnImageError          the bytes are no image format that is read here
    │   ├── CorruptImageError        a known format, but truncated or damaged
    │   ├── UrlNotAllowedError       an image is named by a URL that this server does not fetch
    │   ├── UrlFetchFailedError      the server that the URL names did not send the image
    │   └── UrlTooLargeError         it sends more bytes than the limit
    ├── CapacityError                the request is fine, the server cannot take it now
    │   ├── OverloadedError          refused at the door: the queue is full
    │   ├── RateLimitedError         refused at the door: this client has used up its minute
    │   ├── DrainingError            refused at the door: the process is about to exit
    │   └── NotReadyError            refused at the door: models are still warming up, or the device is lost
    ├── DeadlineExceededError        the deadline passed, or cannot be met
    │   └── UrlTimeoutError          the server that the URL names took too long
    ├── CancelledByClientError       the client left before the answer
    └── InferenceError               the device failed on this item
        └── DeviceLostError          the device failed for good: this process serves no more

Rules of this module: standard library only, no transport. `server.api.status` maps each class to its HTTP and gRPC
status, and a test proves that table exhaustive. Messages say what was expected and what was found, and never carry
image bytes, keys or paths of the server.
"""

from typing import ClassVar


class ServerError(Exception):
    """Root of the tree.

    Attributes:
        code: Stable public identifier, kebab-case; clients may switch on it.
        title: Short summary of the class, the same for every occurrence.
        detail: What was expected and what was found, this time.
        retry_after_s: Whole seconds after which a retry is likely to succeed; None where a retry is no cure.
        reason: Under which a refusal at the door is counted (`birefnet_refusals_total`); None for all other errors.
    """

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "The server failed"

    def __init__(self, detail: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.reason: str | None = None


class RequestError(ServerError):
    """The client's request cannot be served as it is."""

    code = "bad-request"
    title = "The request cannot be served as it is"


class MalformedRequestError(RequestError):
    """The body or its envelope cannot be read."""

    code = "malformed-request"
    title = "The request cannot be read"


class EmptyBodyError(RequestError):
    """An image was expected, zero bytes came."""

    code = "empty-body"
    title = "No image was sent"


class InvalidOptionError(RequestError):
    """An unknown option, a value outside its set, or an impossible combination."""

    code = "invalid-option"
    title = "An option is unknown or has an impossible value"


class UnauthenticatedError(RequestError):
    """No API key where one is needed, or one that is not known."""

    code = "unauthenticated"
    title = "A valid API key is needed"


class UnknownModelError(RequestError):
    """No artifact of that name is served."""

    code = "unknown-model"
    title = "No such model"


class ModelRefusedError(RequestError):
    """An artifact that was to be served cannot be: damaged, of another kind, or not right on this device."""

    code = "model-refused"
    title = "The artifact cannot be served"


class ConflictError(RequestError):
    """What is asked for does not go together with what there is, or with a change that is under way."""

    code = "conflict"
    title = "The request does not go together with the server's state"


class BodyTooLargeError(RequestError):
    """More bytes than the limit."""

    code = "body-too-large"
    title = "The upload has too many bytes"


class ImageTooLargeError(RequestError):
    """More pixels than the limit, as read from the header."""

    code = "image-too-large"
    title = "The image has too many pixels"


class MetadataTooLargeError(RequestError):
    """More beside the pixels (profiles, Exif, text, chunks of any kind) than the limits."""

    code = "metadata-too-large"
    title = "The image carries too much beside its pixels"


class NotAnImageError(RequestError):
    """The bytes are no image format that is read here."""

    code = "not-an-image"
    title = "The upload is not an image"


class CorruptImageError(RequestError):
    """A known format, but truncated or damaged."""

    code = "corrupt-image"
    title = "The image is truncated or damaged"


class UrlNotAllowedError(RequestError):
    """An image is named by a URL, and this server fetches none, or not that one."""

    code = "url-not-allowed"
    title = "The URL is not one that this server fetches"


class UrlFetchFailedError(RequestError):
    """The server that the URL names did not send the image."""

    code = "url-fetch-failed"
    title = "The image could not be fetched from its URL"


class UrlTooLargeError(RequestError):
    """The server that the URL names sends more bytes than the limit."""

    code = "url-too-large"
    title = "The image at the URL has too many bytes"


class CapacityError(ServerError):
    """The request is fine, the server cannot take it now."""

    code = "unavailable"
    title = "The server cannot take the request now"


class OverloadedError(CapacityError):
    """Refused at the door: the queue is full."""

    code = "overloaded"
    title = "The server is at capacity"


class RateLimitedError(CapacityError):
    """Refused at the door: this client has used up its minute."""

    code = "rate-limited"
    title = "The rate limit of this API key is used up"


class DrainingError(CapacityError):
    """Refused at the door: the process is about to exit."""

    code = "draining"
    title = "The server is shutting down"


class NotReadyError(CapacityError):
    """Refused at the door: models are still warming up, or the device is lost."""

    code = "not-ready"
    title = "The server is not ready"


class DeadlineExceededError(ServerError):
    """The deadline passed, or cannot be met."""

    code = "deadline-exceeded"
    title = "The deadline passed"


class UrlTimeoutError(DeadlineExceededError):
    """The server that the URL names took too long."""

    code = "url-timeout"
    title = "The image did not arrive from its URL in time"


class CancelledByClientError(ServerError):
    """The client left before the answer."""

    code = "cancelled"
    title = "The client left"


class InferenceError(ServerError):
    """The device failed on this item; others in its batch were retried and answered."""

    code = "inference-failed"
    title = "The network failed on this image"


class DeviceLostError(InferenceError):
    """The device failed for good: this process serves no more."""

    code = "device-lost"
    title = "The device is lost"
