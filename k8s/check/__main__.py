"""Run all validators, say what each found, and fail if one did: `python -m k8s.check --server PYTHON`.

It runs in the environment of the validators (`make check-k8s` makes it), with `kubectl`, `node` and `promtool` beside
it, and starts a server of PYTHON's to hold its metrics against promtool's rules.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from k8s.check.alerts import survivors, write_mutants
from k8s.check.dashboard import problems
from k8s.check.kserve import Models, as_pod, kind_of
from k8s.check.page import ROUTING, check_envoy, documents
from k8s.check.queries import of_adapter, of_dashboard, of_scaler, scraping, unanswered, wait_for_scrapes

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
TOOLS = Path(sys.prefix)
MONITORING = ROOT / "k8s" / "components" / "monitoring"
PAGE = ROOT / "docs" / "deploy.md"
CUSTOM = ("keda.sh/", "monitoring.coreos.com/")
KSERVE = "serving.kserve.io/"

Objects = list[dict[str, Any]]


class CheckFailedError(Exception):
    """A validator found something; the message is what it said."""


def run(*command: str | Path, stdin: str | None = None, cwd: Path = ROOT) -> str:
    """What a command prints.

    Raises:
        CheckFailedError: It fails.
    """
    done = subprocess.run(list(map(str, command)), input=stdin, capture_output=True, text=True, cwd=cwd, check=False)
    if done.returncode != 0:
        raise CheckFailedError(f"{Path(command[0]).name}: exit {done.returncode}\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout + done.stderr


def tool(name: str, package: str) -> str:
    """A program on PATH, or of a Debian package that was unpacked.

    Raises:
        CheckFailedError: It is not here.
    """
    unpacked = ROOT / "build" / "debian" / "usr" / "bin" / name
    found = shutil.which(name) or (str(unpacked) if unpacked.exists() else None)
    if found is None:
        raise CheckFailedError(f"{name}: expected it on PATH ({package}), found none")
    return found


class Checks:
    """The validators, and what they are held against."""

    def __init__(self, folder: Path, server: str) -> None:
        """Render every overlay into a folder.

        Args:
            folder: Empty.
            server: Python that has the server installed.
        """
        self._server = server
        self._files: dict[str, Path] = {}
        kubectl = tool("kubectl", "Kubernetes' command line")
        for overlay in sorted(path.parent for path in ROOT.glob("k8s/overlays/*/kustomization.yaml")):
            self._files[overlay.name] = folder / f"{overlay.name}.yaml"
            self._files[overlay.name].write_text(run(kubectl, "kustomize", overlay))
        # What KServe makes of its overlay: the pod, among the other objects of Kubernetes' own kinds.
        objects = self._objects(self._files["kserve"])
        kinds = {entry["kind"]: entry for entry in objects if str(entry["apiVersion"]).startswith(KSERVE)}
        self._kserve = list(kinds.values())
        self._made = folder / "kserve-pod.yaml"
        pod = as_pod(kinds["ServingRuntime"], kinds["InferenceService"])
        own = [entry for entry in objects if not str(entry["apiVersion"]).startswith((*CUSTOM, KSERVE))]
        self._made.write_text(yaml.safe_dump_all([*own, pod]))

    def yamllint(self) -> str:
        """The files as they were written."""
        paths = ("k8s", "docker", "docker-compose.yml")
        return run(TOOLS / "bin/yamllint", "--strict", "--config-file", HERE / "yamllint.yaml", *paths)

    def kubernetes(self) -> str:
        """Kubernetes' own kinds, with unknown fields as errors; a kind without a schema is a warning there."""
        passed = 0
        for name, path in self._files.items():
            said = validate(path)
            unknown = [line for line in said.splitlines() if "WARN" in line]
            if wrong := [line for line in unknown if not any(group in line for group in (*CUSTOM, KSERVE))]:
                raise CheckFailedError(f"{name}: " + "\n".join(wrong))
            passed += len(re.findall("^INFO .* passed", said, re.M))
        return f"{passed} objects of {len(self._files)} overlays"

    def custom_resources(self) -> str:
        """The kinds of KEDA and the Prometheus operator, and those of gateways on the page."""
        found = [entry for entry in self._all() if str(entry["apiVersion"]).startswith(CUSTOM)]
        found += [entry for entry in documents(PAGE) if str(entry.get("apiVersion")).startswith(ROUTING)]
        kinds = {entry["kind"] for entry in found}
        expected = {"ScaledObject", "PodMonitor", "PrometheusRule", "HTTPRoute", "GRPCRoute", "BackendTrafficPolicy"}
        if not expected <= kinds:
            raise CheckFailedError(f"expected {sorted(expected)}, found {sorted(kinds)}")
        return run(tool("node", "nodejs"), HERE / "custom.mjs", TOOLS, stdin=json.dumps(found))

    def envoy(self) -> str:
        """The page's configuration of Envoy, by Envoy's own messages."""
        (configuration,) = [entry for entry in documents(PAGE) if "static_resources" in entry]
        try:
            return check_envoy(configuration)
        except ValueError as error:
            raise CheckFailedError(str(error)) from error

    def kserve(self) -> str:
        """KServe's kinds, and the pod that it makes of them."""
        (folder,) = TOOLS.glob("lib/python3*/site-packages/kserve/models")
        models = Models(folder)
        problems = [problem for entry in self._kserve for problem in self._kserve_problems(models, entry)]
        if problems:
            raise CheckFailedError("\n".join(problems))
        if "WARN" in (said := validate(self._made)):
            raise CheckFailedError(said)
        return "ServingRuntime, InferenceService, and their pod"

    def checkov(self) -> str:
        """Policies for manifests and the Dockerfile; what is skipped has a reason."""
        # Of KServe's overlay, whose kinds checkov does not know, the pod.
        paths = [self._made if name == "kserve" else path for name, path in self._files.items()]
        counts = [policies("kubernetes", path) for path in paths]
        counts.append(policies("dockerfile", ROOT / "Dockerfile"))
        return f"{sum(passed for passed, _ in counts)} passed, {sum(skipped for _, skipped in counts)} skipped"

    def hadolint(self) -> str:
        """The Dockerfile."""
        return run(TOOLS / "bin/hadolint", "Dockerfile")

    def alerts(self) -> str:
        """The rules, their unit tests, and that these notice a rule with one number changed."""
        promtool = tool("promtool", "Debian's package prometheus")
        said = run(promtool, "check", "rules", "alerts.yaml", cwd=MONITORING)
        said += run(promtool, "test", "rules", "alerts.test.yaml", cwd=MONITORING)
        with tempfile.TemporaryDirectory() as folder:
            written = write_mutants(Path(folder), MONITORING / "alerts.yaml", MONITORING / "alerts.test.yaml")
            command = [promtool, "test", "rules", *written]
            # Both streams as one, for the name of a file comes by the one, and that it failed by the other.
            out, err = subprocess.PIPE, subprocess.STDOUT
            done = subprocess.run(command, stdout=out, stderr=err, text=True, cwd=folder, check=False)
        if unnoticed := survivors(done.stdout, written):
            raise CheckFailedError("the tests of the alerts do not notice\n" + "\n".join(unnoticed))
        return f"{said}{len(written)} changed rules, each noticed by a test"

    def dashboard(self) -> str:
        """The dashboard, in Grafana's own types."""
        document = json.loads((MONITORING / "dashboard.json").read_text())
        if wrong := list(problems(document)):
            raise CheckFailedError("\n".join(wrong))
        return f"{len(document['panels'])} panels"

    def metrics(self) -> str:
        """What a live server says at /metrics, after it has answered an image."""
        promtool = tool("promtool", "Debian's package prometheus")
        with live_server(self._server) as address:
            segment(address)
            with urllib.request.urlopen(f"{address}/metrics", timeout=60) as answer:  # noqa: S310
                text = answer.read().decode()
        said = run(promtool, "check", "metrics", stdin=text).strip()
        if said:  # of what it only advises it does not fail
            raise CheckFailedError(said)
        return f"{len(re.findall('^# TYPE', text, re.M))} metrics"

    def queries(self) -> str:
        """The queries of dashboard, scalers and adapter, of a Prometheus that scrapes a live server."""
        prometheus = tool("prometheus", "Debian's package")
        scaled = [entry for entry in self._objects(self._files["keda-zero"]) if entry["kind"] == "ScaledObject"]
        asked = [*of_dashboard(MONITORING / "dashboard.json"), *of_scaler(scaled[0])]
        asked += of_adapter(ROOT / "k8s" / "components" / "hpa" / "prometheus-adapter-values.yaml")
        with (
            tempfile.TemporaryDirectory() as folder,
            live_server(self._server, "--allow-urls") as address,
            scraping(prometheus, address, Path(folder)) as ask,
        ):
            segment(address)
            fetch(address)
            wait_for_scrapes(ask)
            if wrong := unanswered(asked, ask):
                raise CheckFailedError("\n".join(wrong))
        return f"{len(asked)} queries, each with series"

    @staticmethod
    def _kserve_problems(models: Models, entry: dict[str, Any]) -> Iterator[str]:
        kind = kind_of(entry)
        if models.find(kind) is None:
            yield f"{kind}: KServe has no such kind"
        yield from models.problems(entry, kind, kind)

    @staticmethod
    def _objects(path: Path) -> Objects:
        return [entry for entry in yaml.safe_load_all(path.read_text()) if entry]

    def _all(self) -> Objects:
        return [entry for path in self._files.values() for entry in self._objects(path)]


def validate(path: Path) -> str:
    """What kubernetes-validate says of a file.

    Raises:
        CheckFailedError: A field is wrong, or is none.
    """
    return run(TOOLS / "bin/kubernetes-validate", "--strict", path)


def policies(framework: str, path: Path) -> tuple[int, int]:
    """How many of checkov's checks a file passes, and how many it skips with a reason.

    Raises:
        CheckFailedError: One fails, one is skipped without a reason, or nothing was checked.
    """
    options = ("--compact", "--skip-download", "--soft-fail", "--output", "json")
    report = json.loads(run(TOOLS / "bin/checkov", *options, "--framework", framework, "--file", path))
    results = report["results"]
    wrong = [
        f"{path.name}: {entry['check_id']} {entry['check_name']}: {entry['resource']}"
        for entry in results["failed_checks"]
    ]
    wrong += [
        f"{path.name}: {entry['check_id']} is skipped without a reason"
        for entry in results["skipped_checks"]
        if len(entry["check_result"].get("suppress_comment", "")) < 20
    ]
    if results["parsing_errors"] or not results["passed_checks"]:
        wrong.append(f"{path.name}: nothing was checked")
    if wrong:
        raise CheckFailedError("\n".join(wrong))
    return len(results["passed_checks"]), len(results["skipped_checks"])


@contextmanager
def live_server(python: str, *flags: str) -> Iterator[str]:
    """The server as it is out of the box but for some flags, on free ports; its address."""
    command = [python, "-m", "server", "serve", "--port", "0", "--grpc-port", "0", "--log-format", "json", *flags]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    said = []
    try:
        for line in process.stderr or ():
            said.append(line)
            record = json.loads(line) if line.startswith("{") else {}
            if record.get("message") == "ready":
                yield record["http"]
                return
        raise CheckFailedError("the server did not get ready:\n" + "".join(said))
    finally:
        process.terminate()
        process.communicate(timeout=60)


def segment(address: str) -> None:
    """Have an image answered, by all stages."""
    image = (ROOT / "docs" / "images" / "chelsea.jpg").read_bytes()
    urllib.request.urlopen(f"{address}/segment?refine=on", data=image, timeout=60).close()  # noqa: S310


def fetch(address: str) -> None:
    """Have an image fetched, from an address that is refused."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/segment", b'{"image_url": "http://127.0.0.1/"}', headers)  # noqa: S310
    try:
        urllib.request.urlopen(request, timeout=60).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for, all by default; 1 if something was found."""
    names = tuple(name for name in vars(Checks) if not name.startswith("_"))
    parser = argparse.ArgumentParser(prog="python -m k8s.check", description=__doc__)
    parser.add_argument("--server", default=sys.executable, metavar="PYTHON", help="has the server installed")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"{', '.join(names)}; all by default")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.checks) - set(names):
        parser.error(f"expected checks among {', '.join(names)}; found {', '.join(sorted(unknown))}")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        checks = Checks(Path(folder), arguments.server)
        for name in arguments.checks or names:
            check: Callable[[], str] = getattr(checks, name)
            try:
                said = check()
            except CheckFailedError as error:
                failed.append(name)
                said = f"FAILED\n{error}"
            print(
                f"{name}: {(check.__doc__ or '').splitlines()[0]}\n"
                + "\n".join(f"  {line}" for line in said.splitlines()),
                flush=True,
            )
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
