"""A request's body and query become one image and one set of options, whatever form they came in.

Declared media types are believed for JSON and multipart only: people send photographs as anything, and curl's
`--data-binary` calls every file a urlencoded form.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from python_multipart.multipart import parse_options_header

from server.api.rest.limits import Receive, check_size, read_chunks
from server.api.rest.multipart import MultipartReader
from server.errors import EmptyBodyError, InvalidOptionError, MalformedRequestError

_ENVELOPE_BYTES = 1024 * 1024  # of a body beside its image: part headers, JSON punctuation, options
_IMAGE_KEY = "image_base64"
_URL_KEY = "image_url"
_PRINTABLE = frozenset(range(0x21, 0x7F))

JSON_TYPE = "application/json"
MULTIPART_TYPE = "multipart/form-data"
URLENCODED_TYPE = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Upload:
    """What a client sent: an encoded image, and its options as text by their public names."""

    image: bytes = field(repr=False)
    options: Mapping[str, str]


async def read_upload(
    receive: Receive, headers: Mapping[str, str], query: Iterable[tuple[str, str]], max_bytes: int
) -> Upload:
    """Read the body of a request.

    Args:
        receive: Of the ASGI server.
        headers: Names in lower case.
        query: Names and values in the order of the URL.
        max_bytes: Of the image itself, in whatever envelope it comes.

    Raises:
        MalformedRequestError: The body is not what its media type says, or has no image.
        EmptyBodyError: There is no image at all.
        BodyTooLargeError: The image has more bytes than the limit; no more than that was read.
        InvalidOptionError: An option was given twice, or is no text.
        CancelledByClientError: The client left.
    """
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise MalformedRequestError(f"expected a body without Content-Encoding, found {coding[:60]!r}")
    declared, parameters = parse_options_header(headers.get("content-type"))
    media_type = declared.decode("latin-1")
    if media_type == MULTIPART_TYPE:
        image, fields = await _read_multipart(receive, headers, parameters.get(b"boundary"), max_bytes)
    elif media_type == JSON_TYPE:
        image, fields = await _read_json(receive, headers, max_bytes)
    else:
        image, fields = await _read_raw(receive, headers, max_bytes), []
        if media_type == URLENCODED_TYPE and _is_text(image):
            raise MalformedRequestError(
                "expected an image, found a urlencoded form, which cannot carry one: send it as multipart/form-data "
                "(curl -F image=@photo.jpg), or as the body itself (curl --data-binary @photo.jpg)"
            )
    return Upload(image, merge_options(query, fields))


def merge_options(query: Iterable[tuple[str, str]], fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Options from the query and from the body, each at most once.

    Raises:
        InvalidOptionError: An option was given twice, even with equal values: one of the two would be ignored.
    """
    options: dict[str, str] = {}
    origins: dict[str, str] = {}
    for origin, pairs in (("the query", query), ("the body", fields)):
        for name, value in pairs:
            if name == _URL_KEY:
                raise InvalidOptionError(
                    f"{_URL_KEY}: this server fetches no images; expected the image itself, as multipart field "
                    f"`image`, as the body, or as the JSON field `{_IMAGE_KEY}`"
                )
            if name in options:
                both = origin if origins[name] == origin else f"{origins[name]} and {origin}"
                raise InvalidOptionError(f"{name[:60]}: expected once, found twice, in {both}")
            options[name], origins[name] = value, origin
    return options


async def _read_multipart(
    receive: Receive, headers: Mapping[str, str], boundary: bytes | None, max_bytes: int
) -> tuple[bytes, list[tuple[str, str]]]:
    if not boundary:
        raise MalformedRequestError("expected a boundary in the Content-Type of a multipart body, found none")
    reader = MultipartReader(boundary, max_bytes)
    async for chunk in read_chunks(receive, headers, max_bytes + _ENVELOPE_BYTES):
        reader.feed(chunk)
    return reader.finish(), reader.fields


async def _read_raw(receive: Receive, headers: Mapping[str, str], max_bytes: int) -> bytes:
    image = b"".join([chunk async for chunk in read_chunks(receive, headers, max_bytes)])
    if not image:
        raise EmptyBodyError("expected an image, found a body of 0 bytes")
    return image


async def _read_json(
    receive: Receive, headers: Mapping[str, str], max_bytes: int
) -> tuple[bytes, list[tuple[str, str]]]:
    # Base64 makes four characters of three bytes.
    limit = max_bytes * 4 // 3 + _ENVELOPE_BYTES
    text = b"".join([chunk async for chunk in read_chunks(receive, headers, limit)])
    if not text:
        raise EmptyBodyError(f"expected a JSON object with `{_IMAGE_KEY}`, found a body of 0 bytes")
    pairs = _parse_json(text)
    del text
    images = [value for name, value in pairs if name == _IMAGE_KEY]
    fields = [(name, _as_text(name, value)) for name, value in pairs if name != _IMAGE_KEY]
    if len(images) != 1 or not isinstance(images[0], str):
        if any(name == _URL_KEY for name, _ in fields):
            merge_options((), fields)
        found = ", ".join(sorted({name for name, _ in pairs})) or "none"
        raise MalformedRequestError(f"expected `{_IMAGE_KEY}` once and as a string, found the fields: {found[:200]}")
    image = _decode_base64(images[0])
    check_size(len(image), max_bytes)
    return image, fields


def _parse_json(text: bytes) -> list[tuple[str, object]]:
    try:
        found = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        # Of a decoding error the message quotes the whole document.
        reason = "bytes that are not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise MalformedRequestError(f"expected a JSON object, found invalid JSON: {reason}") from error
    if not isinstance(found, _Pairs):
        raise MalformedRequestError(f"expected a JSON object, found a {type(found).__name__}")
    return found


class _Pairs(list[tuple[str, object]]):
    """A JSON object that still knows of repeated names."""


def _as_text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    kind = "an object" if isinstance(value, _Pairs) else json.dumps(value)[:60]
    raise InvalidOptionError(f"{name[:60]}: expected a string or a whole number, found {kind}")


def _decode_base64(text: str) -> bytes:
    if text.startswith("data:"):
        head, separator, text = text.partition(",")
        if not separator or not head.endswith(";base64"):
            raise MalformedRequestError(f"{_IMAGE_KEY}: expected a data URL with ;base64, found {head[:60]!r}")
    try:
        image = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedRequestError(f"{_IMAGE_KEY}: expected standard base64 without line breaks: {error}") from error
    if not image:
        raise EmptyBodyError(f"expected an image, found an empty `{_IMAGE_KEY}`")
    return image


def _is_text(body: bytes) -> bool:
    """No image format begins with 64 printable characters without a space; urlencoded forms have nothing else."""
    return _PRINTABLE.issuperset(body[:64])
