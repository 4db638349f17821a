"""How the runners write what they found."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1


def write_result(path: Path, module: str, words: Sequence[str], found: Mapping[str, Any]) -> None:
    """Write a result with the command that gives it.

    Args:
        path: The JSON file.
        module: The runner, as `python -m` takes it.
        words: The arguments it was given.
        found: The rest of the result.
    """
    result = {"schema_version": SCHEMA_VERSION, "command": shlex.join(["python", "-m", module, *words]), **found}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column is text, the others are figures."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
