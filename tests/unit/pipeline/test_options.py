"""Every option, every wrong value, and the header that stands in for one."""

import pytest

from server.engine.batching import Priority
from server.errors import InvalidOptionError
from server.pipeline.accept import negotiate
from server.pipeline.encode import formats_of
from server.pipeline.options import OPTIONS, parse_colour, parse_options
from server.pipeline.request import Crop, Foreground, Output, OutputFormat, Refine, SegmentOptions

PNG, WEBP, JPEG = OutputFormat.PNG, OutputFormat.WEBP, OutputFormat.JPEG


def test_nothing_gives_the_defaults():
    assert parse_options({}) == SegmentOptions()


def test_every_option_is_read():
    values = {
        "output": "composite",
        "format": "jpeg",
        "background": "#102030",
        "foreground": "original",
        "depth": "8",
        "refine": "auto",
        "crop": "off",
        "model": "birefnet",
        "priority": "high",
        "timeout_ms": "1500",
    }
    assert set(values) == set(OPTIONS)
    assert parse_options(values) == SegmentOptions(
        Output.COMPOSITE, JPEG, (16, 32, 48), "birefnet", Priority.HIGH, 1.5, Foreground.ORIGINAL
    )


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [("output", text.value, "output", text) for text in Output]
    + [("format", text.value, "format", text) for text in formats_of(Output.MATTE)]
    + [("format", "JPG", "format", JPEG), ("format", " Png ", "format", PNG)]
    + [("priority", text.name.lower(), "priority", text) for text in Priority]
    + [("format", "TIF", "format", OutputFormat.TIFF), ("depth", "16", "depth", 16), ("depth", " 8 ", "depth", 8)]
    + [("refine", text.value, "refine", text) for text in Refine]
    + [("crop", text.value, "crop", text) for text in Crop]
    + [("timeout_ms", "1", "timeout_s", 0.001), ("timeout_ms", "600000", "timeout_s", 600.0)],
)
def test_values(name, text, field, value):
    assert getattr(parse_options({name: text}), field) == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("output", "mask", r"output: expected matte \| cutout \| composite \| trimap, found 'mask'"),
        ("output", "", r"output: expected matte \| cutout \| composite \| trimap, found ''"),
        ("format", "gif", r"format: expected png \| webp \| jpeg \| zip \| tiff \| npy, found 'gif'"),
        ("depth", "12", r"depth: expected 8 \| 16, found '12'"),
        ("priority", "1", r"priority: expected high \| normal \| low, found '1'"),
        ("model", "  ", "model: expected the name of a served model, found an empty value"),
        ("timeout_ms", "0", "timeout_ms: expected a whole number of milliseconds, at least 1, found '0'"),
        ("timeout_ms", "-5", "found '-5'"),
        ("timeout_ms", "1.5", "found '1.5'"),
        ("timeout_ms", "1e3", "found '1e3'"),
        ("timeout_ms", "٣", "found '٣'"),
        ("timeout_ms", "9" * 400, "at least 1, found '9999999999"),
        ("timeout_ms", "600001", "timeout_ms: expected 1 to 600000 milliseconds, found '600001'"),
    ],
)
def test_wrong_values_name_what_is_accepted(name, text, message):
    with pytest.raises(InvalidOptionError, match=message) as caught:
        parse_options({name: text})
    assert len(caught.value.detail) < 300


@pytest.mark.parametrize("name", ["box", "quality", "x" * 500, ""])
def test_unknown_names_are_refused_and_not_ignored(name):
    known = "output, format, background, foreground, depth, refine, crop, model, priority, timeout_ms"
    with pytest.raises(InvalidOptionError, match=f"expected the options {known}"):
        parse_options({"output": "matte", name: "1"})


def test_near_misses_are_named():
    with pytest.raises(InvalidOptionError, match=r"found 'backgroud' \(did you mean background\?\)"):
        parse_options({"backgroud": "white"})


def test_timeout_limit_is_the_servers():
    assert parse_options({"timeout_ms": "5000"}, max_timeout_s=5).timeout_s == 5
    with pytest.raises(InvalidOptionError, match="expected 1 to 5000 milliseconds"):
        parse_options({"timeout_ms": "5001"}, max_timeout_s=5)


def test_background_needs_a_composite():
    with pytest.raises(
        InvalidOptionError, match="background: expected only with output=composite, found with output=matte"
    ):
        parse_options({"background": "white"})


def test_foreground_needs_colours():
    with pytest.raises(
        InvalidOptionError,
        match="foreground: expected only with output=cutout or output=composite, found with output=matte",
    ):
        parse_options({"foreground": "original"})
    for output in ("cutout", "composite"):
        assert parse_options({"output": output}).foreground is Foreground.ESTIMATE
        assert parse_options({"output": output, "foreground": "original"}).foreground is Foreground.ORIGINAL


def test_cutout_as_jpeg():
    with pytest.raises(InvalidOptionError, match=r"expected format=png or format=webp .* found format=jpeg"):
        parse_options({"output": "cutout", "format": "jpeg"})


@pytest.mark.parametrize(
    ("text", "colour"),
    [
        ("white", (255, 255, 255)),
        ("RebeccaPurple", (102, 51, 153)),
        ("#1e90ff", (30, 144, 255)),
        ("#fff", (255, 255, 255)),
        ("1e90ff", (30, 144, 255)),
        ("0a0", (0, 170, 0)),
        ("rgb(30, 144, 255)", (30, 144, 255)),
        ("rgb(100%, 0%, 0%)", (255, 0, 0)),
        ("30,144,255", (30, 144, 255)),
        (" 0, 0 ,0 ", (0, 0, 0)),
        ("hsl(120, 100%, 50%)", (0, 255, 0)),
        ("#1e90ffff", (30, 144, 255)),
    ],
)
def test_colours(text, colour):
    assert parse_colour("background", text) == colour


@pytest.mark.parametrize(
    "text",
    ["", "whit", "#12", "#1e90ff80", "rgba(1,2,3,4)", "300,0,0", "1,2", "1,2,3,4", "rgb(256,0,0)", "-1,0,0", "w" * 999],
)
def test_what_is_no_opaque_colour(text):
    with pytest.raises(InvalidOptionError, match=r"background: expected an opaque colour such as white, #1e90ff"):
        parse_colour("background", text)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", PNG),
        ("*/*", PNG),
        ("image/*", PNG),
        ("image/webp", WEBP),
        ("IMAGE/JPEG", JPEG),
        ("image/jpg", JPEG),
        ("image/webp;q=0.8, image/jpeg;q=0.9", JPEG),
        ("image/webp;q=0.8, image/jpeg;q=0.8", WEBP),
        ("image/*;q=0.1, image/webp", WEBP),
        ("*/*;q=0.1, image/jpeg", JPEG),
        ("image/png;q=0, */*", WEBP),
        ("image/avif, image/webp, */*;q=0.8", WEBP),
        ("application/json", PNG),
        ("application/json, text/plain, */*", PNG),
        ("text/html, image/jpeg; q=0.5", JPEG),
        ("image/webp;q=high, image/jpeg;q=0.1", JPEG),
        ("image/webp;level=1", WEBP),
        (",,", PNG),
    ],
)
def test_accept_chooses_the_format(accept, expected):
    assert negotiate(accept, (PNG, WEBP, JPEG)) is expected
    assert parse_options({}, accept=accept).format is expected


@pytest.mark.parametrize("accept", ["image/tiff", "image/png;q=0, image/webp;q=0, image/jpeg;q=0", "image/*;q=0"])
def test_images_that_cannot_be_made(accept):
    with pytest.raises(
        InvalidOptionError, match=r"Accept: expected one of image/png, image/webp, image/jpeg or \*/\*, found"
    ):
        negotiate(accept, (PNG, WEBP, JPEG))


def test_accept_is_heeded_within_what_the_output_allows():
    assert parse_options({"output": "cutout"}, accept="image/jpeg, image/webp;q=0.5").format is WEBP
    with pytest.raises(
        InvalidOptionError,
        match=r"Accept: expected one of image/png, image/webp, application/zip, image/tiff, .* or \*/\*",
    ):
        parse_options({"output": "cutout"}, accept="image/jpeg")


def test_sixteen_bits_choose_a_format_that_has_them():
    assert parse_options({"depth": "16"}).format is PNG
    assert parse_options({"depth": "16"}, accept="image/webp, image/tiff;q=0.5").format is OutputFormat.TIFF
    assert parse_options({"depth": "8"}, accept="image/tiff").format is OutputFormat.TIFF
    for values in ({"format": "webp"}, {"format": "npy"}, {"output": "cutout"}, {"output": "trimap"}):
        with pytest.raises(InvalidOptionError, match="depth=16: expected output=matte and format=png or format=tiff"):
            parse_options({"depth": "16", **values})


def test_the_option_wins_over_the_header():
    assert parse_options({"format": "png"}, accept="image/webp").format is PNG


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/zip", OutputFormat.ZIP),
        ("application/zip, image/*;q=0.5", OutputFormat.ZIP),
        ("image/webp, application/zip;q=0.9", WEBP),
        ("*/*", PNG),
        ("image/*", PNG),
        ("application/json, */*;q=0.1", PNG),
    ],
)
def test_accept_may_ask_for_a_zip_of_a_cutout(accept, expected):
    assert parse_options({"output": "cutout"}, accept=accept).format is expected
    assert parse_options({"output": "matte"}, accept="application/zip").format is PNG
