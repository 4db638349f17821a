"""Results of several calls as one: `python -m benchmarks.gpu.merge FIRST SECOND … -o FILE`.

A lent machine's calls end after minutes, so that the sections of one measurement lie in several files. Later files win.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def merged(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The last result with the sections of all.

    Raises:
        ValueError: They are of different GPUs or commits.
    """
    if not results:
        raise ValueError("expected at least one result, found none")
    for name, of in (("GPU", lambda each: each["machine"]["gpu"]["name"]), ("commit", _commit)):
        found = sorted({of(each) for each in results})
        if len(found) > 1:
            raise ValueError(f"expected results of one {name}, found {', '.join(found)}")
    sections: dict[str, Any] = {}
    for each in results:
        # A section that was only skipped this time does not replace one that was measured.
        sections |= {name: entry for name, entry in each["sections"].items() if name not in sections or _ran(entry)}
    with_official(sections)
    return {**results[-1], "command": " && ".join(each["command"] for each in results), "sections": sections}


def with_official(sections: Mapping[str, Any]) -> None:
    """Write into every row of the throughput what the official code reached at its best batch, eager and compiled.

    None where it was not measured for that network and size.
    """
    best: dict[tuple[str, tuple[int, ...], str], float] = {}
    for row in sections.get("official", {}).get("rows", ()):
        if row["measured"] and "images_per_second" in row:
            key = (row["backbone"], tuple(row["size"]), row["backend"])
            best[key] = max(best.get(key, 0.0), row["images_per_second"])
    for row in sections.get("throughput", {}).get("rows", ()):
        if row["measured"]:
            network = (row["backbone"], tuple(row["size"]))
            row["official_images_per_second"] = best.get((*network, "official-eager"))
            row["official_compiled_images_per_second"] = best.get((*network, "official-compiled"))


def _commit(result: dict[str, Any]) -> str:
    return str(result["machine"]["commit"]["sha"])


def _ran(entry: dict[str, Any]) -> bool:
    return any(row["measured"] for row in entry["rows"])


def main(argv: Sequence[str] | None = None) -> int:
    """Read, merge, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.merge", description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--commit", metavar="SHA", help="that was measured, where the machine had no git to ask")
    arguments = parser.parse_args(argv)
    found = merged([json.loads(path.read_text(encoding="utf-8")) for path in arguments.results])
    if arguments.commit is not None:
        if _commit(found) not in {"unknown", arguments.commit}:
            raise ValueError(f"expected results of {arguments.commit}, found {_commit(found)}")
        found["machine"]["commit"] = {"sha": arguments.commit, "dirty": False}
    arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
