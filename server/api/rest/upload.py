"""A request's body and query become one image and one set of options, whatever form they came in.

Declared media types are believed for JSON and multipart only: people send photographs as anything, and curl's
`--data-binary` calls every file a urlencoded form.
"""

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from python_multipart.multipart import parse_options_header

from server.api.rest.limits import Receive, check_size, read_chunks
from server.api.rest.multipart import URL_FIELD, MultipartReader
from server.errors import EmptyBodyError, InvalidOptionError, MalformedRequestError
from server.pipeline.request import ImageUrl

_ENVELOPE_BYTES = 1024 * 1024  # of a body beside its image: part headers, JSON punctuation, options
_JSON_BYTES = 64 * 1024  # of JSON that is parsed, in the event loop: 3 ms if it is all small objects
_IMAGE_KEY = "image_base64"
# A quotation mark after a backslash is within a string, and all others begin or end one: this can only be the key.
_IMAGE_START = re.compile(rb'(?<!\\)"%s"[ \t\r\n]*:[ \t\r\n]*"' % _IMAGE_KEY.encode())
# What JSON writers escape of base64, though they need not: PHP the slash, .NET the plus, Gson the equals sign.
_ESCAPES = {
    rb"\/": b"/",
    rb"\u002B": b"+",
    rb"\u002b": b"+",
    rb"\u002F": b"/",
    rb"\u002f": b"/",
    rb"\u003D": b"=",
    rb"\u003d": b"=",
}
_BASE64_PIECE = 1 << 20  # characters, a multiple of 4; about a millisecond each
_FORM_BYTES = 64 * 1024  # of a urlencoded form, which has a URL and options
_FORM_FIELDS = 32
_PRINTABLE = frozenset(range(0x21, 0x7F))

JSON_TYPE = "application/json"
MULTIPART_TYPE = "multipart/form-data"
URLENCODED_TYPE = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Upload:
    """What a client sent: an encoded image or where it is, and its options as text by their public names."""

    image: bytes | ImageUrl = field(repr=False)
    options: Mapping[str, str]


def longest_body(max_bytes: int) -> int:
    """Bytes of the longest body that can hold an image of so many: base64 makes four characters of three."""
    return max_bytes * 4 // 3 + _ENVELOPE_BYTES


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
    image: bytes | None
    if media_type == MULTIPART_TYPE:
        image, fields = await _read_multipart(receive, headers, parameters.get(b"boundary"), max_bytes)
    elif media_type == JSON_TYPE:
        image, fields = await _read_json(receive, headers, max_bytes)
    else:
        body = await _read_raw(receive, headers, max_bytes)
        is_form = media_type == URLENCODED_TYPE and _is_text(body)
        image, fields = (None, _parse_form(body)) if is_form else (body, [])
    return Upload(_choose_image(image, fields), merge_options(query, fields))


def _choose_image(image: bytes | None, fields: Iterable[tuple[str, str]]) -> bytes | ImageUrl:
    urls = [ImageUrl(value) for name, value in fields if name == URL_FIELD]
    if image is not None and not urls:
        return image
    if image is not None or len(urls) != 1:
        found = f"{len(urls)} of `{URL_FIELD}`" + ("" if image is None else " beside an image")
        raise MalformedRequestError(f"expected one image, found {found}")
    return urls[0]


def merge_options(query: Iterable[tuple[str, str]], fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Options from the query and from the body, each at most once.

    Raises:
        InvalidOptionError: An option was given twice, even with equal values: one of the two would be ignored.
    """
    options: dict[str, str] = {}
    origins: dict[str, str] = {}
    for origin, pairs in (("the query", query), ("the body", fields)):
        for name, value in pairs:
            if name == URL_FIELD:
                if origin == "the body":
                    continue  # it is the image
                raise InvalidOptionError(f"{URL_FIELD}: expected in the body, found in the query, which proxies log")
            if name in options:
                both = origin if origins[name] == origin else f"{origins[name]} and {origin}"
                raise InvalidOptionError(f"{name[:60]}: expected once, found twice, in {both}")
            options[name], origins[name] = value, origin
    return options


async def _read_multipart(
    receive: Receive, headers: Mapping[str, str], boundary: bytes | None, max_bytes: int
) -> tuple[bytes | None, list[tuple[str, str]]]:
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
) -> tuple[bytes | None, list[tuple[str, str]]]:
    text = b"".join([chunk async for chunk in read_chunks(receive, headers, longest_body(max_bytes))])
    if not text:
        raise EmptyBodyError(f"expected a JSON object with `{_IMAGE_KEY}`, found a body of 0 bytes")
    text, encoded = _cut_image(text)
    pairs = _parse_json(text)
    images = [value for name, value in pairs if name == _IMAGE_KEY]
    fields = [(name, _as_text(name, value)) for name, value in pairs if name != _IMAGE_KEY]
    if not images and any(name == URL_FIELD for name, _ in fields):
        return None, fields
    if len(images) != 1 or not isinstance(images[0], str):
        found = ", ".join(sorted({name for name, _ in pairs})) or "none"
        raise MalformedRequestError(f"expected `{_IMAGE_KEY}` once and as a string, found the fields: {found[:200]}")
    # Without a cut the key itself was written with escapes; a cut within another field was refused with that field.
    image = await asyncio.to_thread(_decode_base64, images[0].encode(errors="replace") if encoded is None else encoded)
    check_size(len(image), max_bytes)
    return image, fields


def _cut_image(text: bytes) -> tuple[bytes, bytes | None]:
    """The JSON with an empty string for its image, and what stood there; None if that was nothing.

    Only the image may be large, and it needs no parser.

    Raises:
        MalformedRequestError: What is left is more than options can be.
    """
    image = None
    if start := _IMAGE_START.search(text, 0, _JSON_BYTES):
        end = text.find(b'"', start.end())
        end = len(text) if end < 0 else end
        image = text[start.end() : end]
        if image.endswith(b"\\"):
            raise MalformedRequestError(
                f"{_IMAGE_KEY}: expected standard base64 without line breaks, found a backslash"
            )
        text = text[: start.end()] + text[end : end + _JSON_BYTES + 1]
    if len(text) > _JSON_BYTES:
        raise MalformedRequestError(
            f"expected at most {_JSON_BYTES} bytes of JSON beside one `{_IMAGE_KEY}` that is a string, found more"
        )
    return text, image


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


def _decode_base64(text: bytes) -> bytes:
    if b"\\" in text:
        for escape, letter in _ESCAPES.items():
            text = text.replace(escape, letter)
    if text.startswith(b"data:"):
        head, separator, text = text.partition(b",")
        if not separator or not head.endswith(b";base64"):
            found = head[:60].decode("utf-8", "replace")
            raise MalformedRequestError(f"{_IMAGE_KEY}: expected a data URL with ;base64, found {found!r}")
    pieces = range(0, len(text), _BASE64_PIECE)
    try:
        # In pieces, because the decoder holds the interpreter, and with it the event loop.
        image = b"".join([base64.b64decode(_piece(text, start), validate=True) for start in pieces])
    except binascii.Error as error:
        raise MalformedRequestError(f"{_IMAGE_KEY}: expected standard base64 without line breaks: {error}") from error
    if not image:
        raise EmptyBodyError(f"expected an image, found an empty `{_IMAGE_KEY}`")
    return image


def _piece(text: bytes, start: int) -> bytes:
    """Padding ends the text, or the next piece would begin a new one."""
    piece = text[start : start + _BASE64_PIECE]
    if piece.endswith(b"=") and start + _BASE64_PIECE < len(text):
        raise binascii.Error("padding before the end")
    return piece


def _parse_form(body: bytes) -> list[tuple[str, str]]:
    """The fields of a urlencoded form, which must name an image."""
    try:
        check_size(len(body), _FORM_BYTES)
        fields = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_FORM_FIELDS)
    except ValueError as error:
        raise MalformedRequestError(
            f"expected a urlencoded form of at most {_FORM_FIELDS} fields in UTF-8, found something else"
        ) from error
    if not any(name == URL_FIELD for name, _ in fields):
        raise MalformedRequestError(
            f"expected an image, found a urlencoded form without `{URL_FIELD}`: send an image as multipart/form-data "
            "(curl -F image=@photo.jpg), or as the body itself (curl --data-binary @photo.jpg)"
        )
    return fields


def _is_text(body: bytes) -> bool:
    """No image format begins with 64 printable characters without a space; urlencoded forms have nothing else."""
    return _PRINTABLE.issuperset(body[:64])
