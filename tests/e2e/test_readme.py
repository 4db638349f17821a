"""What the README tells a new user to type works when typed."""

import io
import re
import shlex
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tests.support.images import jpeg, photograph
from tests.support.processes import ROOT, live_server

README = (ROOT / "README.md").read_text()
CURLS = re.findall(r"^\$ (curl .*)$", README, flags=re.M)


@pytest.fixture(scope="module")
def server():
    with live_server("--backend", "fake") as live:
        yield live


def test_the_readme_shows_how_to_call_it():
    assert len(CURLS) >= 3


@pytest.mark.parametrize("command", CURLS)
def test_each_curl_line_writes_an_image_of_the_photographs_size(command, server, tmp_path):
    photo = photograph("coffee")
    (tmp_path / "photo.jpg").write_bytes(jpeg(photo))
    words = [word.replace("localhost:8000", urlsplit(server.http).netloc) for word in shlex.split(command)]
    assert words[-2] == "-o"
    done = subprocess.run([*words, "--fail-with-body", "-sS"], cwd=tmp_path, capture_output=True, timeout=60)
    body = (tmp_path / words[-1]).read_bytes()
    assert done.returncode == 0, (done.stderr, body)
    image = Image.open(io.BytesIO(body))
    assert image.size == photo.shape[1::-1]
    assert image.format == {".png": "PNG", ".jpg": "JPEG"}[Path(words[-1]).suffix]


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_each_link_and_picture_exists(target):
    assert (ROOT / target).exists()


@pytest.mark.parametrize("target", re.findall(r"^\$ make (\S+)", README, flags=re.M))
def test_each_make_target_exists(target):
    assert re.search(rf"^{re.escape(target.split('=')[0])}:", (ROOT / "Makefile").read_text(), flags=re.M)
