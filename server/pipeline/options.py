"""Options as text, as query, form or command line carry them, become one checked value."""

import contextlib
import difflib
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

from PIL import ImageColor

from server.engine.batching import Priority
from server.errors import InvalidOptionError
from server.pipeline.accept import negotiate
from server.pipeline.encode import check_combination, formats_of
from server.pipeline.request import Crop, Foreground, Output, OutputFormat, Refine, SegmentOptions

E = TypeVar("E", bound=Enum)

_FORMAT_ALIASES = {"jpg": "jpeg", "tif": "tiff"}
_HEX = re.compile(r"[0-9a-fA-F]{3}|[0-9a-fA-F]{6}")
_MAX_LENGTH = 200


def parse_options(values: Mapping[str, str], *, accept: str = "", max_timeout_s: float = 600.0) -> SegmentOptions:
    """Read options by their public names; nothing is ignored.

    Args:
        values: By name, as OPTIONS lists them.
        accept: Value of the `Accept` header, which chooses the format where no option does.
        max_timeout_s: Longest time a client may ask for.

    Raises:
        InvalidOptionError: An unknown name, a value outside its set, or an impossible combination; the message says
            what is accepted.
    """
    fields: dict[str, Any] = {}
    for name, value in values.items():
        parser = _PARSERS.get(name)
        if parser is None:
            raise InvalidOptionError(_unknown(name))
        fields["timeout_s" if name == "timeout_ms" else name] = parser(name, value)
    output = fields.get("output", SegmentOptions().output)
    if "background" in fields and output is not Output.COMPOSITE:
        raise InvalidOptionError(f"background: expected only with output=composite, found with output={output}")
    if "foreground" in fields and output not in (Output.CUTOUT, Output.COMPOSITE):
        raise InvalidOptionError(
            f"foreground: expected only with output=cutout or output=composite, found with output={output}"
        )
    if fields.get("timeout_s", 0.0) > max_timeout_s:
        most, found = round(max_timeout_s * 1000), values["timeout_ms"]
        raise InvalidOptionError(f"timeout_ms: expected 1 to {most} milliseconds, found {found!r}")
    depth = fields.get("depth", 8)
    if "format" not in fields:
        fields["format"] = negotiate(accept, formats_of(output, depth) or formats_of(output))
    check_combination(output, fields["format"], depth)
    return SegmentOptions(**fields)


def parse_colour(name: str, text: str) -> tuple[int, int, int]:
    """Read an opaque colour: `white`, `#1e90ff`, `1e90ff`, `rgb(30,144,255)`, `30,144,255`, `hsl(…)`.

    Raises:
        InvalidOptionError: It is no colour, or a translucent one.
    """
    written = text.strip()
    if _HEX.fullmatch(written):
        written = f"#{written}"
    elif re.fullmatch(r"\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3}", written):
        written = f"rgb({written})"
    colour: tuple[int, ...] = ()
    with contextlib.suppress(ValueError):
        colour = ImageColor.getrgb(written) if len(written) <= _MAX_LENGTH else ()
    if len(colour) not in (3, 4) or max(colour) > 255 or colour[3:] not in ((), (255,)):
        raise InvalidOptionError(
            f"{name}: expected an opaque colour such as white, #1e90ff, rgb(30,144,255) or 30,144,255, "
            f"found {_short(text)}"
        )
    return colour[0], colour[1], colour[2]


def _choice(choices: type[E], aliases: Mapping[str, str]) -> Callable[[str, str], E]:
    by_name = {(member.name if choices is Priority else str(member.value)).lower(): member for member in choices}

    def parse(name: str, text: str) -> E:
        written = text.strip().lower()
        member = by_name.get(aliases.get(written, written))
        if member is None:
            raise InvalidOptionError(f"{name}: expected {' | '.join(by_name)}, found {_short(text)}")
        return member

    return parse


def _parse_timeout(name: str, text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,10}", text.strip()) or int(text) < 1:
        raise InvalidOptionError(f"{name}: expected a whole number of milliseconds, at least 1, found {_short(text)}")
    return int(text) / 1000


def _parse_depth(name: str, text: str) -> int:
    if text.strip() not in ("8", "16"):
        raise InvalidOptionError(f"{name}: expected 8 | 16, found {_short(text)}")
    return int(text)


def _parse_model(name: str, text: str) -> str:
    written = text.strip()
    if not written:
        raise InvalidOptionError(f"{name}: expected the name of a served model, found an empty value")
    return written


_PARSERS: dict[str, Callable[[str, str], Any]] = {
    "output": _choice(Output, {}),
    "format": _choice(OutputFormat, _FORMAT_ALIASES),
    "background": parse_colour,
    "foreground": _choice(Foreground, {}),
    "depth": _parse_depth,
    "refine": _choice(Refine, {}),
    "crop": _choice(Crop, {}),
    "model": _parse_model,
    "priority": _choice(Priority, {}),
    "timeout_ms": _parse_timeout,
}

OPTIONS = tuple(_PARSERS)
"""Public names of the options, in the order of the documentation."""


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), OPTIONS, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"expected the options {', '.join(OPTIONS)}, found {_short(name)}{hint}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
