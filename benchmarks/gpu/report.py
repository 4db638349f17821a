"""The result file: written anew after every row, so that whatever ends a run loses one row at most."""

import json
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.results import SCHEMA_VERSION

_LAST_LINES = 6


class Report:
    """Rows by section, each either measured or with the reason why not."""

    def __init__(self, out: Path, words: Sequence[str], machine: dict[str, Any]) -> None:
        """Begin a file.

        Args:
            out: Where the JSON goes.
            words: The arguments of this run.
            machine: Of `benchmarks.gpu.machine.describe_gpu`.
        """
        self._out = out
        self._result: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "command": shlex.join(["python", "-m", "benchmarks.gpu", *words]),
            "machine": machine,
            "sections": {},
        }
        self._began = time.monotonic()
        self._section = ""
        self.flush()

    @property
    def elapsed_s(self) -> float:
        """Since the file was begun."""
        return time.monotonic() - self._began

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """What is added inside belongs to a section; an error ends the section, and not the run."""
        self._section = name
        entry: dict[str, Any] = {"finished": False, "seconds": 0.0, "rows": []}
        self._result["sections"][name] = entry
        began = time.monotonic()
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a lent GPU's minutes: one failure must not lose the other sections
            self._fail({"name": "the whole section"}, error)
        else:
            entry["finished"] = True
        finally:
            entry["seconds"] = round(time.monotonic() - began, 1)
            self.flush()

    def skip(self, name: str, reason: str) -> None:
        """A section that is not begun."""
        row = {"name": "the whole section", "measured": False, "reason": reason}
        self._result["sections"][name] = {"finished": False, "seconds": 0.0, "rows": [row]}
        self.flush()

    def measure(self, row: dict[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Add a row with what `work` finds, or with what it failed of.

        Args:
            row: What is measured: names, sizes.
            work: Measures.

        Returns:
            What was found; None where it failed.
        """
        began = time.monotonic()
        try:
            found = work()
        except Exception as error:  # noqa: BLE001 - as above: out of memory at one batch size, say
            self._fail(row, error)
            return None
        self.add({**row, "measured": True, **found}, began)
        return found

    def unmeasured(self, row: dict[str, Any], reason: str) -> None:
        """Add a row that says why there is no figure."""
        self.add({**row, "measured": False, "reason": reason})

    def add(self, row: dict[str, Any], began: float | None = None) -> None:
        """Add a row as it is."""
        rows: list[dict[str, Any]] = self._result["sections"][self._section]["rows"]
        rows.append(row)
        took = "" if began is None else f" ({time.monotonic() - began:.1f} s)"
        print(f"[{self.elapsed_s:6.1f} s] {self._section}: {json.dumps(row)}{took}", file=sys.stderr, flush=True)
        self.flush()

    def flush(self) -> None:
        """Write the file, whole or not at all."""
        self._out.parent.mkdir(parents=True, exist_ok=True)
        draft = self._out.with_suffix(".partial")
        draft.write_text(json.dumps(self._result, indent=2) + "\n", encoding="utf-8")
        draft.replace(self._out)

    def _fail(self, row: dict[str, Any], error: Exception) -> None:
        lines = traceback.format_exc().strip().splitlines()
        traceback.print_exc(file=sys.stderr)
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:500]
        self.add({**row, "measured": False, "reason": reason, "where": lines[-_LAST_LINES:]})
