"""Alerts with one number changed: what their unit tests must notice."""

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Rules = dict[str, Any]

_MINUTES = re.compile(r"(\d+)m")
# A label's text is matched first, so that a number in it is none of ours; so is the name of a metric.
_NUMBER = re.compile(r'"[^"]*"|[a-z_][a-z_0-9]*|\[(?P<range>\d+)m\]|(?P<limit>\d+(?:\.\d+)?)')


def mutants(rules: Rules) -> Iterator[tuple[str, Rules]]:
    """The same rules with one limit, one range or one waiting time changed; and in words, what was.

    Limits are changed by a quarter, whole ones by one, none to two; ranges are doubled and halved; waiting times get a
    minute more and less.
    """
    for at, group in enumerate(rules["groups"]):
        for index, rule in enumerate(group["rules"]):
            for said, changed in _changes(rule):
                found = copy.deepcopy(rules)
                found["groups"][at]["rules"][index] |= changed
                yield f"{rule['alert']}: {said}", found


def _changes(rule: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    if "for" in rule:
        minutes = _MINUTES.fullmatch(rule["for"])
        if minutes is None:
            raise ValueError(f"for: expected whole minutes, found {rule['for']}")
        for other in _other_limits(minutes[1]):
            yield f"for {other}m instead of {minutes[0]}", {"for": f"{other}m"}
    expression: str = rule["expr"]
    for found in _NUMBER.finditer(expression):
        if found["range"] is not None:
            others = [f"[{60 * int(found['range']) * factor // 2}s]" for factor in (4, 1)]
        elif found["limit"] is not None:
            others = _other_limits(found["limit"])
        else:
            continue
        for other in others:
            changed = expression[: found.start()] + other + expression[found.end() :]
            yield f"{other} instead of {found[0]}", {"expr": changed}


def _other_limits(text: str) -> list[str]:
    if "." in text:
        return [f"{float(text) * factor:g}" for factor in (1.25, 0.8)]
    # One event within a range counts as somewhat more than one: it is above 1 as well as above 0.
    return ["2"] if text == "0" else [str(int(text) + 1), str(int(text) - 1)]


def write_mutants(folder: Path, rules: Path, tests: Path) -> dict[str, str]:
    """Write each mutant with the unit tests beside it, as promtool wants them.

    Args:
        folder: Empty.
        rules: The rules.
        tests: Their unit tests, which name the rules by the name of that file.

    Returns:
        What was changed, by the path of the unit tests, relative to the folder.
    """
    found = {}
    for number, (said, changed) in enumerate(mutants(yaml.safe_load(rules.read_text()))):
        place = folder / str(number)
        place.mkdir()
        (place / rules.name).write_text(yaml.safe_dump(changed))
        (place / tests.name).write_text(tests.read_text())
        found[f"{number}/{tests.name}"] = said
    return found


def survivors(said: str, written: Mapping[str, str]) -> list[str]:
    """The mutants of which promtool says that their tests pass, or says nothing.

    Args:
        said: By promtool, of all of them.
        written: By `write_mutants`.
    """
    verdicts = dict(re.findall(r"Unit Testing: +(\S+)\n +(SUCCESS|FAILED)", said))
    return [what for path, what in written.items() if verdicts.get(path) != "FAILED"]
