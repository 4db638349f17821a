"""What dashboards and scalers ask, asked of a Prometheus that scrapes a live server."""

import json
import re
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

POD = {"namespace": "birefnet", "pod": "birefnet-server-0"}
"""Labels that the operator gives what it scrapes."""

_SCRAPES = 4  # a rate takes two
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Query:
    """A query, and what is made of its answer.

    Attributes:
        where: Whose it is.
        expression: As Prometheus takes it.
        labels: That its series must have, because a legend or a scaler names them.
    """

    where: str
    expression: str
    labels: frozenset[str] = frozenset()


def of_dashboard(path: Path) -> Iterator[Query]:
    """The queries of a Grafana dashboard, with its variables filled in."""
    for panel in json.loads(path.read_text())["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "1m").replace("$job", ".*")
            legend = frozenset(re.findall(r"{{ *(\w+) *}}", target.get("legendFormat", "")))
            yield Query(f"dashboard, {panel['title']}", expression, legend)


def of_scaler(resource: Mapping[str, Any]) -> Iterator[Query]:
    """The queries of a ScaledObject; those of a gateway are none of ours."""
    for trigger in resource["spec"]["triggers"]:
        if "birefnet_" in trigger["metadata"]["query"]:
            yield Query(f"ScaledObject, {trigger['name']}", trigger["metadata"]["query"])


def of_adapter(path: Path) -> Iterator[Query]:
    """What prometheus-adapter asks for each metric of a pod, and how it finds them."""
    for rule in yaml.safe_load(path.read_text())["rules"]["custom"]:
        series = rule["name"]["matches"]
        matchers = ",".join(f'{name}="{value}"' for name, value in POD.items())
        asked = rule["metricsQuery"]
        for word, meant in (("Series", series), ("LabelMatchers", matchers), ("GroupBy", "pod")):
            asked = asked.replace(f"<<.{word}>>", meant)
        yield Query(f"adapter, {series}", asked, frozenset({"pod"}))
        yield Query(f"adapter, {series}", rule["seriesQuery"], frozenset(POD))


def unanswered(queries: Sequence[Query], ask: Callable[[str], Sequence[Mapping[str, Any]]]) -> list[str]:
    """The queries without a series, or without a label that they must have."""
    wrong = []
    for query in queries:
        series = [set(entry["metric"]) for entry in ask(query.expression)]
        if not series:
            wrong.append(f"{query.where}: no series for {query.expression}")
        wrong += [f"{query.where}: no label {name} in its series" for name in query.labels - set().union(*series)]
    return wrong


@contextmanager
def scraping(prometheus: str, server: str, folder: Path) -> Iterator[Callable[[str], Sequence[Mapping[str, Any]]]]:
    """A Prometheus that scrapes a server every second, as the operator would; what asks it.

    Args:
        prometheus: The program.
        server: Address of the server.
        folder: For its configuration and its data.

    Raises:
        TimeoutError: It does not scrape.
    """
    target = {"targets": [urllib.parse.urlsplit(server).netloc], "labels": POD}
    job = {"job_name": "birefnet/birefnet-server", "scrape_interval": "1s", "static_configs": [target]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [job]}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [prometheus, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address={address}", "--log.level=error"]
    process = subprocess.Popen(command)

    def ask(expression: str) -> Sequence[Mapping[str, Any]]:
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://{address}/api/v1/query?{query}", timeout=10) as answer:
            found: Sequence[Mapping[str, Any]] = json.loads(answer.read())["data"]["result"]
        return found

    try:
        _wait(ask, process)
        yield ask
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_for_scrapes(ask: Callable[[str], Sequence[Mapping[str, Any]]]) -> None:
    """Until so many scrapes more have come that every rate has a value."""
    before = _scrapes(ask)
    end = time.monotonic() + _PATIENCE_S
    while _scrapes(ask) < before + _SCRAPES:
        if time.monotonic() > end:
            raise TimeoutError("Prometheus scrapes no more")
        time.sleep(0.2)


def _scrapes(ask: Callable[[str], Sequence[Mapping[str, Any]]]) -> int:
    found = ask("count_over_time(up[1h])")
    return int(found[0]["value"][1]) if found else 0


def _wait(ask: Callable[[str], Sequence[Mapping[str, Any]]], process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if _scrapes(ask):
                return
        except OSError:  # it does not listen yet
            pass
        time.sleep(0.2)
    raise TimeoutError("Prometheus does not scrape the server")
