"""One line per record, the request's id in it, and no image bytes."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from server.observability.logs import configure_logging, request_id


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_json_object():
    stream = io.StringIO()
    configure_logging("json", "INFO", stream)
    logging.getLogger("server.test").info("answered %s", "it", extra={"seconds": 0.25, "model": "general"})
    (entry,) = lines(stream)
    assert str(entry.pop("time")).endswith("Z")
    assert entry == {
        "level": "INFO",
        "logger": "server.test",
        "message": "answered it",
        "seconds": 0.25,
        "model": "general",
    }


async def test_every_record_of_a_request_carries_its_id_even_from_a_thread():
    stream = io.StringIO()
    configure_logging("json", "INFO", stream)
    log = logging.getLogger("server.test")

    async def serve(identity: str) -> None:
        request_id.set(identity)
        await asyncio.sleep(0)
        log.info("in the loop")
        await asyncio.to_thread(log.info, "in a thread")

    await asyncio.gather(serve("one"), serve("two"))
    log.info("outside")
    found = {(entry.get("request_id"), entry["message"]) for entry in lines(stream)}
    assert found == {
        ("one", "in the loop"),
        ("one", "in a thread"),
        ("two", "in the loop"),
        ("two", "in a thread"),
        (None, "outside"),
    }


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_image_bytes_are_never_written(log_format):
    stream = io.StringIO()
    configure_logging(log_format, "INFO", stream)
    secret = b"\xff\xd8 secret pixels"
    extra = {"body": secret, "parts": [secret], "nested": {"image": bytearray(secret)}, "view": memoryview(secret)}
    logging.getLogger("server.test").info("got it", extra=extra)
    assert "secret" not in stream.getvalue()
    assert stream.getvalue().count(f"<{len(secret)} bytes>") == 4


def test_exceptions_are_part_of_the_record():
    stream = io.StringIO()
    configure_logging("json", "INFO", stream)
    try:
        int("the reason")
    except ValueError:
        logging.getLogger("server.test").exception("it failed")
    (entry,) = lines(stream)
    assert "ValueError: invalid literal" in str(entry["exception"])


def test_text_from_outside_cannot_forge_a_line():
    stream = io.StringIO()
    configure_logging("text", "INFO", stream)
    logging.getLogger("server.test").info("name %s", "a\n2026-01-01 CRITICAL forged", extra={"path": "b\r\nforged"})
    assert len(stream.getvalue().splitlines()) == 1


def test_text_is_for_people():
    stream = io.StringIO()
    configure_logging("text", "INFO", stream)
    request_id.set("r1")
    logging.getLogger("server.test").warning("slow", extra={"seconds": 2})
    assert stream.getvalue().endswith("WARNING server.test: slow seconds=2 request_id=r1\n")


def test_configuring_twice_does_not_write_twice():
    stream = io.StringIO()
    configure_logging("json", "INFO", io.StringIO())
    configure_logging("json", "WARNING", stream)
    logging.getLogger("server.test").info("too small")
    logging.getLogger("server.test").warning("once")
    assert [entry["message"] for entry in lines(stream)] == ["once"]


def test_uvicorn_speaks_through_the_same_handler():
    logger = logging.getLogger("uvicorn.error")
    logger.addHandler(logging.StreamHandler(io.StringIO()))
    logger.propagate = False
    logger.setLevel(logging.ERROR)
    stream = io.StringIO()
    configure_logging("json", "INFO", stream)
    logger.info("Started server process", extra={"color_message": "\x1b[36mStarted"})
    (entry,) = lines(stream)
    assert entry["logger"] == "uvicorn.error"
    assert "color_message" not in entry
    assert logger.handlers == []


def test_text_from_outside_cannot_command_a_terminal():
    stream = io.StringIO()
    configure_logging("text", "INFO", stream)
    logging.getLogger("server.test").info("\x1b[2Jgone", extra={"path": "\x9b31m\x7f\u2028 ünïcode\t."})
    assert "\\x1b[2Jgone path=\\x9b31m\\x7f\\u2028 ünïcode\t." in stream.getvalue()
