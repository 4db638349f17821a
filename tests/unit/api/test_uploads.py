"""Bodies and queries become uploads; no socket is involved."""

import base64
import binascii
import itertools
import random
import threading
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api.rest.limits import Receive
from server.api.rest.upload import Upload, merge_options, read_upload
from server.errors import (
    BodyTooLargeError,
    CancelledByClientError,
    EmptyBodyError,
    InvalidOptionError,
    MalformedRequestError,
)

IMAGE = bytes(range(256)) * 4
LIMIT = 4096
BOUNDARY = "b0undary"


def receiver(chunks: Iterable[bytes], *, complete: bool = True) -> Receive:
    """An ASGI `receive` that hands out a body; without `complete` the client then leaves."""
    parts = list(chunks)

    async def receive() -> dict[str, object]:
        if not parts:
            return {"type": "http.disconnect"}
        chunk = parts.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(parts) or not complete}

    return receive


def multipart(*parts: tuple[str, bytes]) -> bytes:
    """A body of parts, each given by its Content-Disposition parameters and its content."""
    body = b""
    for disposition, content in parts:
        head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\nContent-Type: text/plain\r\n\r\n"
        body += head.encode() + content + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


async def read(
    body: bytes,
    content_type: str = "",
    query: Iterable[tuple[str, str]] = (),
    step: int = 1 << 16,
    max_bytes: int = LIMIT,
) -> Upload:
    chunks = [body[start : start + step] for start in range(0, len(body), step)] or [b""]
    headers = {"content-type": content_type} if content_type else {}
    return await read_upload(receiver(chunks), headers, query, max_bytes)


async def read_form(*parts: tuple[str, bytes], step: int = 1 << 16) -> Upload:
    return await read(multipart(*parts), f"multipart/form-data; boundary={BOUNDARY}", step=step)


@pytest.mark.parametrize("step", [1, 3, 7, 100, 1 << 16])
async def test_a_form_is_read_alike_in_pieces_of_any_size(step: int):
    upload = await read_form(('name="output"', b"cutout"), ('name="image"; filename="a.jpg"', IMAGE), step=step)
    assert upload == Upload(IMAGE, {"output": "cutout"})


@settings(max_examples=60, deadline=None)
@given(image=st.binary(min_size=1, max_size=300), cuts=st.lists(st.integers(0, 600), max_size=6))
async def test_any_bytes_survive_a_form_cut_anywhere(image: bytes, cuts: list[int]):
    image = b"\r\n--" + image + b"\r\n--b0undar"  # near misses of the boundary
    body = multipart(('name="file"', image))
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    chunks = [body[start:end] for start, end in itertools.pairwise(edges)]
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    upload = await read_upload(receiver(chunks), headers, (), LIMIT)
    assert upload.image == image


@pytest.mark.parametrize("declared", ["", "image/png", "video/mp4", "application/x-www-form-urlencoded", "nonsense"])
async def test_a_raw_image_is_taken_whatever_it_is_called(declared: str):
    assert (await read(IMAGE, declared)).image == IMAGE


async def test_json_with_base64_is_read():
    text = base64.b64encode(IMAGE).decode()
    body = f'{{"image_base64": "{text}", "output": "cutout", "timeout_ms": 1500}}'.encode()
    assert await read(body, "application/json; charset=utf-8") == Upload(
        IMAGE, {"output": "cutout", "timeout_ms": "1500"}
    )


async def read_json(body: str | bytes, max_bytes: int = LIMIT) -> Upload:
    return await read(body.encode() if isinstance(body, str) else body, "application/json", max_bytes=max_bytes)


LETTERS = base64.b64encode(b"\xfb\xff\xbf" * 40 + b"\xfb").decode()  # of pluses and slashes, and padded
ESCAPED = [
    pytest.param({"/": r"\/"}, id="PHP"),
    pytest.param({"+": r"\u002B"}, id=".NET"),
    pytest.param({"=": r"\u003d"}, id="Gson"),
    pytest.param({"/": r"\u002f", "+": r"\u002b", "=": r"\u003D"}, id="all"),
]


@pytest.mark.parametrize("escapes", ESCAPED)
@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
async def test_base64_may_be_escaped_as_json_writers_do(escapes: dict[str, str | int | None], head: str):
    text = (head + LETTERS).translate(str.maketrans(escapes))
    assert (await read_json(f'{{"image_base64":"{text}"}}')).image == base64.b64decode(LETTERS)


@pytest.mark.parametrize(
    "body",
    [
        '{"image_base64"\n:\t"YWJj", "output": "cutout"}',
        '{"output": "cutout", "image\\u005fbase64": "YWJj"}',
    ],
)
async def test_the_image_is_found_however_its_key_is_written(body: str):
    assert await read_json(body) == Upload(b"abc", {"output": "cutout"})


@pytest.mark.parametrize("name", ['a\\"image_base64', '\\\\\\"image_base64', "image_base64 "])
async def test_a_key_that_ends_alike_is_an_option(name: str):
    with pytest.raises(MalformedRequestError, match="once and as a string, found the fields: "):
        await read_json(f'{{"{name}": "YWJj"}}')
    upload = await read_json(f'{{"{name}": "xyz", "image_base64": "YWJj"}}')
    assert (upload.image, list(upload.options.values())) == (b"abc", ["xyz"])


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ('{"image_base64": "YWJj', MalformedRequestError, "invalid JSON: Unterminated string"),
        ('{"x"image_base64": "YWJj"}', MalformedRequestError, "invalid JSON"),
        ('{"image_base64": "YWJj"]', MalformedRequestError, "invalid JSON"),
        ('{"image_base64": "YW\\"Jj"}', MalformedRequestError, "without line breaks, found a backslash"),
        ('{"image_base64": "YW\\nJj"}', MalformedRequestError, "without line breaks: Only base64 data"),
        ('{"image_base64": "data:image/png,YWJj"}', MalformedRequestError, "with ;base64, found 'data:image/png'"),
        ('{"image_base64": ""}', EmptyBodyError, "an empty `image_base64`"),
        ('{"image_base64": "YWJj", "image_base64": "YWJj"}', MalformedRequestError, "once and as a string"),
        ('{"image_base64": ["YWJj"]}', MalformedRequestError, "once and as a string|whole number"),
        ('{"x": {"image_base64": "YWJj"}}', InvalidOptionError, "x: expected a string.*found an object"),
        ('{"x": {"image_base64": "YWJj"}, "image_base64": "YWJj"}', InvalidOptionError, "x: expected a string"),
        ('{"image_base64": "YWJj", "output": "matte", "output": "matte"}', InvalidOptionError, "found twice"),
    ],
)
async def test_impossible_json_says_why(body: str, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        await read_json(body)


@pytest.mark.parametrize(
    "body", ['{"x": [%s]}', '{"image_base64": "YWJj", "x": [%s]}', '{"x": [%s], "image_base64": "YWJj"}']
)
async def test_nothing_but_the_image_may_be_large_in_json(body: str, monkeypatch: pytest.MonkeyPatch):
    """Parsing holds the event loop: 30 MiB of small objects held it for ten seconds."""
    monkeypatch.setattr("json.loads", lambda *arguments, **options: pytest.fail("it was parsed"))
    with pytest.raises(MalformedRequestError, match="at most 65536 bytes of JSON beside one `image_base64`"):
        await read_json(body % ",".join(["{}"] * 30_000))


async def test_base64_is_decoded_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch):
    threads = []

    def decode(text: bytes, validate: bool) -> bytes:
        threads.append(threading.current_thread())
        return binascii.a2b_base64(text, strict_mode=validate)

    monkeypatch.setattr("base64.b64decode", decode)
    await read_json('{"image_base64": "YWJj"}')
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


@pytest.mark.parametrize("value", ["1.5", "true", "null", "[1]", "{}"])
async def test_json_options_are_text_or_whole_numbers(value: str):
    with pytest.raises(InvalidOptionError, match="output: expected a string or a whole number"):
        await read(f'{{"image_base64": "aaaa", "output": {value}}}'.encode(), "application/json")


@pytest.mark.parametrize(
    ("query", "fields", "where"),
    [
        ([("output", "matte"), ("output", "cutout")], [], "the query"),
        ([], [("output", "matte"), ("output", "matte")], "the body"),
        ([("output", "matte")], [("output", "matte")], "the query and the body"),
    ],
)
def test_an_option_given_twice_is_refused(query, fields, where):
    with pytest.raises(InvalidOptionError, match=f"found twice, in {where}$"):
        merge_options(query, fields)


def test_options_from_both_places_are_joined():
    assert merge_options([("output", "matte")], [("format", "png")]) == {"output": "matte", "format": "png"}


async def test_no_more_than_the_limit_is_read():
    taken = 0

    async def endless() -> dict[str, object]:
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": bytes(1000), "more_body": True}

    with pytest.raises(BodyTooLargeError, match="at most 4096 bytes, found 5000 or more"):
        await read_upload(endless, {}, (), LIMIT)
    assert taken == 5


async def test_an_announced_length_is_believed_before_anything_is_read():
    async def untouched() -> dict[str, object]:
        raise AssertionError("nothing may be read")

    with pytest.raises(BodyTooLargeError):
        await read_upload(untouched, {"content-length": "4097"}, (), LIMIT)


async def test_the_limit_is_of_the_image_not_of_its_envelope():
    full = bytes(LIMIT)
    assert (await read(full)).image == full
    assert (await read_form(('name="image"', full))).image == full
    text = base64.b64encode(full)
    assert (await read(b'{"image_base64": "' + text + b'"}', "application/json")).image == full
    for body, content_type in (
        (full + b"x", ""),
        (multipart(('name="image"', full + b"x")), f"multipart/form-data; boundary={BOUNDARY}"),
        (b'{"image_base64": "' + base64.b64encode(full + b"x") + b'"}', "application/json"),
    ):
        with pytest.raises(BodyTooLargeError):
            await read(body, content_type)


@pytest.mark.parametrize("content_type", ["", "application/json", f"multipart/form-data; boundary={BOUNDARY}"])
async def test_a_client_that_leaves_is_no_bad_request(content_type: str):
    with pytest.raises(CancelledByClientError):
        await read_upload(receiver([b"--"], complete=False), {"content-type": content_type}, (), LIMIT)


async def test_every_cut_of_a_form_is_malformed():
    body = multipart(('name="image"', IMAGE), ('name="output"', b"matte"))
    for end in range(0, len(body) - 3, 13):
        with pytest.raises((MalformedRequestError, EmptyBodyError)):
            await read(body[:end], f"multipart/form-data; boundary={BOUNDARY}")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "cannot be read|ends before|expected a field"),
        ([('name="output"', b"matte")], "expected a field image or file or image_file, found the fields: output"),
        ([('filename="x"', IMAGE)], "expected a name"),
        ([('name="image"', IMAGE), ('name="image"', IMAGE)], "a second one"),
        ([('name="output"', bytes(5000)), ('name="image"', IMAGE)], "output: expected at most 4096 bytes"),
        ([('name="output"', b"\xff\xfe"), ('name="image"', IMAGE)], "expected text in UTF-8"),
        ([(f'name="o{number}"', b"1") for number in range(40)], "at most 32 fields"),
    ],
)
async def test_impossible_forms_say_why(parts, message: str):
    with pytest.raises(MalformedRequestError, match=message):
        await read_form(*parts)


async def test_a_field_called_image_may_be_a_plain_field():
    assert (await read_form(('name="image"', IMAGE))).image == IMAGE


async def test_base64_is_decoded_in_pieces_that_fit_together():
    image = random.Random(5).randbytes((3 << 20) + 1)  # noqa: S311 - no secret
    text = base64.b64encode(image).decode()
    assert (await read_json(f'{{"image_base64": "{text}"}}', max_bytes=4 << 20)).image == image


async def test_padding_between_the_pieces_of_base64_is_refused():
    piece = "A" * ((1 << 20) - 2) + "=="
    with pytest.raises(MalformedRequestError, match="padding before the end"):
        await read_json(f'{{"image_base64": "{piece}YWJj"}}', max_bytes=4 << 20)
