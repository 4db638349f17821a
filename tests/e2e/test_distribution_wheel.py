"""The wheel: what is in it, what is not, and that it serves from an empty folder."""

import subprocess
import sys
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from tests.support.integrity import PACKAGES, damaged_files
from tests.support.processes import ROOT, clean_environment


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the checkout."""
    target = tmp_path_factory.mktemp("wheel")
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), str(ROOT))
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the unpacked wheel."""
    target = tmp_path_factory.mktemp("installed")
    # A prefix, not a target folder: with that one the paths of the scripts in RECORD lead nowhere.
    _pip("install", "--no-deps", "--no-compile", "--ignore-installed", "--prefix", str(target), str(wheel))
    (info,) = target.rglob("birefnet_server-*.dist-info")
    return info.parent


def test_the_wheel_has_our_packages_and_nothing_of_the_checkout(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".pt", ".ckpt"))]
    for needed in (
        "server/__main__.py",
        "server/app/lifecycle.py",
        "server/api/rest/index.html",
        "protos/matting/v1/matting.proto",
        "protos/matting/v1/matting_pb2.py",
        "server/default_model/model.json",
        "server/default_model/model.onnx",
        "server/default_model/refine/model.json",
        "server/default_model/refine/model.onnx",
        "server/default_model/refine/self_test.npz",
    ):
        assert needed in names


def test_the_wheel_is_small(wheel: Path):
    """The embedded model is the most of it: 20 MB with everything."""
    assert wheel.stat().st_size < 25e6


def test_an_installation_is_intact_until_somebody_overwrites_it(installed: Path):
    (info,) = installed.glob("*.dist-info")
    distribution = PathDistribution(info)
    assert damaged_files(distribution) == []
    victim = installed / "server" / "__init__.py"
    original = victim.read_bytes()
    try:
        victim.write_bytes(b'"""Another distribution\'s server."""\n')
        assert damaged_files(distribution) == ["server/__init__.py: not the file that was installed"]
        victim.unlink()
        assert damaged_files(distribution) == ["server/__init__.py: missing"]
    finally:
        victim.write_bytes(original)


def test_the_installed_wheel_finds_its_model(installed: Path, tmp_path: Path):
    """Run from elsewhere, with the installation in front of the checkout."""
    result = subprocess.run(
        [sys.executable, "-m", "server", "models"],
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(installed)),
        capture_output=True,
        text=True,
        check=True,
    )
    where = subprocess.run(
        [sys.executable, "-c", "import server; print(server.__file__)"],
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(installed)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()) == installed / "server" / "__init__.py"
    assert "(default)" in result.stdout


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
