"""Which format a client wants, by its `Accept` header (RFC 9110, 12.5.1)."""

from collections.abc import Sequence

from server.errors import InvalidOptionError
from server.pipeline.encode import MEDIA_TYPES
from server.pipeline.request import OutputFormat


def negotiate(accept: str, offered: Sequence[OutputFormat]) -> OutputFormat:
    """Choose the offered format that the header prefers; of equals, the first offered.

    Ranges that are neither offered nor images are disregarded: clients name `application/json` for the sake of errors.

    Args:
        accept: Value of the header; empty where there was none.
        offered: What can be made, the preferred one first.

    Raises:
        InvalidOptionError: The header names images, and none that can be made.
    """
    ranges = [_range(part) for part in accept.split(",") if part.strip()]
    known = ("*/*", *(MEDIA_TYPES[candidate] for candidate in offered))
    ranges = [(name, quality) for name, quality in ranges if name in known or name.startswith("image/")]
    if not ranges:
        return offered[0]
    best = max(offered, key=lambda candidate: _quality(MEDIA_TYPES[candidate], ranges))
    if _quality(MEDIA_TYPES[best], ranges) == 0:
        possible = ", ".join(MEDIA_TYPES[candidate] for candidate in offered)
        raise InvalidOptionError(f"Accept: expected one of {possible} or */*, found {accept!r}")
    return best


def _quality(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Quality of the most specific range that covers a media type, 0 where none does."""
    for name in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
        found = [quality for candidate, quality in ranges if candidate == name]
        if found:
            return max(found)
    return 0.0


def _range(part: str) -> tuple[str, float]:
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                return _canonical(name), min(1.0, max(0.0, float(value)))
            except ValueError:
                return _canonical(name), 0.0  # a damaged weight is no wish for this type
    return _canonical(name), 1.0


def _canonical(name: str) -> str:
    return "image/jpeg" if name == "image/jpg" else name
