"""Resolve the tags of the base images to digests, where their registries are reachable: `python docker/digests.py`.

It asks the registries themselves (OCI distribution specification), so that no Docker engine is needed, and prints how
to build with the Dockerfile's image pinned, and the images of docker-compose.yml as they may be pinned there.
"""

import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPMessage
from pathlib import Path

ROOT = Path(__file__).parents[1]
_INDEX_TYPES = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json"
_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Image:
    """An image by its tag.

    Attributes:
        registry: Host, and port if there is one.
        repository: Within it.
        tag: That is to be resolved.
        text: As it was written.
    """

    registry: str
    repository: str
    tag: str
    text: str


def parse_image(text: str) -> Image:
    """`python:3.11`, `prom/prometheus:v3`, `ghcr.io/owner/name:tag`: without a host it is Docker Hub's.

    Raises:
        ValueError: There is no tag.
    """
    name, _, tag = text.rpartition(":")
    if not name or "/" in tag:
        raise ValueError(f"{text}: expected NAME:TAG")
    first, _, rest = name.partition("/")
    if rest and ("." in first or ":" in first or first == "localhost"):
        return Image(first, rest, tag, text)
    return Image("registry-1.docker.io", name if rest else f"library/{name}", tag, text)


def resolve(image: Image, scheme: str = "https") -> str:
    """The digest of the index behind a tag, for all platforms.

    Raises:
        OSError: The registry is not reachable, or refuses.
    """
    url = f"{scheme}://{image.registry}/v2/{image.repository}/manifests/{image.tag}"
    headers = {"Accept": _INDEX_TYPES}
    try:
        found = _ask(url, headers, "HEAD")[0]
    except urllib.error.HTTPError as error:
        if error.code != 401:
            raise
        token = _token(error.headers.get("WWW-Authenticate", ""))
        found = _ask(url, headers | {"Authorization": f"Bearer {token}"}, "HEAD")[0]
    digest = found.get("Docker-Content-Digest", "")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise OSError(f"{image.registry}: expected a digest, found {digest!r}")
    return digest


def _token(challenge: str) -> str:
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    if "realm" not in fields:
        raise OSError(f"expected a challenge with a realm, found {challenge!r}")
    query = urllib.parse.urlencode({name: fields[name] for name in ("service", "scope") if name in fields})
    answer = json.loads(_ask(f"{fields['realm']}?{query}", {}, "GET")[1])
    return str(answer.get("token") or answer["access_token"])


def _ask(url: str, headers: Mapping[str, str], method: str) -> tuple[HTTPMessage, bytes]:
    request = urllib.request.Request(url, headers=dict(headers), method=method)  # noqa: S310 - a registry's
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
        return answer.headers, answer.read()


def main() -> int:
    """Print what can be resolved; 1 if something cannot."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    bases = {text: name for name, text in re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", dockerfile, re.M)}
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    others = [name for name in re.findall(r"^\s+image: (\S+)$", compose, re.M) if not name.startswith("birefnet-")]
    failed = 0
    for text in (*bases, *others):
        try:
            pinned = f"{text}@{resolve(parse_image(text))}"
        except OSError as error:
            print(f"{text}: its registry gives no digest: {error}", file=sys.stderr)
            failed = 1
        else:
            print(f"docker build --build-arg {bases[text]}={pinned} ." if text in bases else f"image: {pinned}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
