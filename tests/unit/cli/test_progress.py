"""One moving line for people, few lines for logs."""

import io

import pytest

from server.cli.progress import Progress
from tests.support.clock import FakeClock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock():
    return FakeClock()


def test_the_line_says_how_far_how_fast_and_how_long(clock):
    progress = Progress(10, io.StringIO(), clock)
    clock.advance(4)
    for _ in range(2):
        progress.succeeded()
    assert progress.line() == "█████░░░░░░░░░░░░░░░░░░░ 2/10 images, 0.50/s, 0:00:16 left"
    progress.fail("a.jpg", "no reason")
    assert "3/10 images" in progress.line()
    assert progress.line().endswith("left, 1 failed")


def test_nothing_is_divided_by_zero(clock):
    assert "0/0 images, 0.00/s, ? left" in Progress(0, io.StringIO(), clock).line()


def test_a_terminal_sees_one_line_that_moves_and_is_cleared(clock):
    stream = Terminal()
    progress = Progress(3, stream, clock)
    clock.advance(1)
    progress.succeeded()
    clock.advance(0.01)
    progress.succeeded()
    assert stream.getvalue().count("\r") == 1
    clock.advance(1)
    progress.fail("b.jpg", "broken")
    progress.finish()
    text = stream.getvalue()
    assert "\rfailed: b.jpg: broken\n" in text
    assert text.endswith("\r")
    assert "\n" not in text.replace("failed: b.jpg: broken\n", "")


def test_a_log_sees_a_line_now_and_then(clock):
    stream = io.StringIO()
    progress = Progress(1000, stream, clock)
    for _ in range(30):
        clock.advance(1)
        progress.succeeded()
    progress.finish()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert "10/1000 images, 1.00/s" in lines[0]
