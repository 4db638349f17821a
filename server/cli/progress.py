"""Progress of many images: one line that moves on a terminal, a line now and then elsewhere."""

import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TextIO

_BAR_CELLS = 24
_TERMINAL_INTERVAL_S = 0.1
_LOG_INTERVAL_S = 10.0


class Progress:
    """Counts what is done and shows it; failures get lines of their own."""

    def __init__(self, total: int, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.done = 0
        self.failed = 0
        self._total = total
        self._stream = stream
        self._clock = clock
        self._moving = stream.isatty()
        self._started = clock()
        self._shown = self._started
        self._width = 0

    def succeeded(self) -> None:
        """One more is done."""
        self.done += 1
        self._show()

    def fail(self, name: object, reason: str) -> None:
        """One more has failed, and why."""
        self.failed += 1
        self._clear()
        print(f"failed: {name}: {reason}", file=self._stream)
        self._show(force=self._moving)

    def finish(self) -> None:
        """Take the moving line away."""
        self._clear()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._started

    def line(self) -> str:
        """What is shown now."""
        finished = self.done + self.failed
        rate = finished / self.elapsed_s if self.elapsed_s > 0 else 0.0
        filled = round(_BAR_CELLS * finished / self._total) if self._total else _BAR_CELLS
        left = timedelta(seconds=round((self._total - finished) / rate)) if rate else "?"
        failures = f", {self.failed} failed" if self.failed else ""
        bar = "█" * filled + "░" * (_BAR_CELLS - filled)
        return f"{bar} {finished}/{self._total} images, {rate:.2f}/s, {left} left{failures}"

    def _show(self, *, force: bool = False) -> None:
        interval = _TERMINAL_INTERVAL_S if self._moving else _LOG_INTERVAL_S
        now = self._clock()
        if not force and now - self._shown < interval:
            return
        self._shown = now
        line = self.line()
        if not self._moving:
            print(line, file=self._stream, flush=True)
            return
        line = line[: shutil.get_terminal_size().columns - 1]
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = len(line)

    def _clear(self) -> None:
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
            self._width = 0
