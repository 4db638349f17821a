"""Structured logs on standard error: one JSON object per line, or text for people.

Every record carries the id of the request it was written for, and where traces are on the id of its trace, from context
variables that the transports set; tasks and threads started with a copied context inherit them. Extra fields go in by
`extra={...}`. Bytes are never written, only their number.
"""

import json
import logging
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal, TextIO

LogFormat = Literal["json", "text"]

request_id: ContextVar[str] = ContextVar("request_id", default="")

trace_id: ContextVar[str] = ContextVar("trace_id", default="")
"""Of the current request where traces are on, as 32 hexadecimal digits."""

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")

# What every record has anyway: the rest of its attributes came from `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_FOREIGN = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "asyncio", "py.warnings")


def configure_logging(log_format: LogFormat = "json", level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send all logs of the process through one handler. A second call replaces the first.

    uvicorn's own handlers are taken away, so that its records come out in the same form: start it with
    `log_config=None`.

    Args:
        log_format: `json` for machines, `text` for people.
        level: Least level that is written: DEBUG, INFO, WARNING, ERROR.
        stream: Where to; standard error by default.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    handler.addFilter(_add_ids)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for name in _FOREIGN:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)  # ours decides, whatever an earlier uvicorn in this process has set


class JsonFormatter(logging.Formatter):
    """One JSON object per record."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": _instant(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """Time, level, logger, message, then the fields as `name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        line = f"{_instant(record)} {record.levelname:<7} {record.name}: {record.getMessage()} {fields}".rstrip()
        # Text from outside must not forge a second line, nor command the terminal that shows it.
        line = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), line)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _add_ids(record: logging.LogRecord) -> bool:
    # At the handler, in the thread and context of the caller: a formatter may run later.
    if not hasattr(record, "request_id"):
        record.request_id = request_id.get()
    if found := trace_id.get():
        record.trace_id = found
    return True


def _instant(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, object]:
    extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    if not extra.get("request_id"):
        extra.pop("request_id", None)
    return {name: _printable(value) for name, value in extra.items() if name != "color_message"}


def _printable(value: object) -> object:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, Mapping):
        return {str(name): _printable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_printable(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)
