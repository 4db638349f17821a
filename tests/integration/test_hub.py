"""Checkpoints by their Hugging Face id, from a real HTTP server on this machine: what is fetched, kept and refused."""

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download

from model_export.errors import SourceError
from model_export.hub import Hub
from tests.support.hub import COMMIT, StubHub, StubRepository, git_id, sha256, stub_hub
from tests.support.processes import PATIENCE_S, ROOT, clean_environment

ID = "someone/matte"
RIGHT = "hf_right"
WEIGHTS = bytes(range(256)) * 400
"""Not a network: this side only moves bytes."""


@pytest.fixture
def repository() -> StubRepository:
    return StubRepository({"model.safetensors": WEIGHTS, "config.json": b"{}", "birefnet.py": b"raise SystemExit"})


@pytest.fixture
def stub(repository: StubRepository) -> Iterator[StubHub]:
    with stub_hub(someone__matte=repository) as hub:
        yield hub


@pytest.fixture
def hub(stub: StubHub, tmp_path: Path) -> Hub:
    # False: no token of this machine's owner may reach a test.
    return Hub(stub.url, tmp_path / "cache", token=False)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library waits a second before it goes on after a cut, and writes 10 MB at a time."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)


def silent(_: str) -> None:
    """A report for nobody."""


def partials(hub: Hub) -> list[Path]:
    return list(hub.cache.rglob("*.incomplete"))


def test_the_weights_come_and_nothing_else(hub: Hub, stub: StubHub) -> None:
    said: list[str] = []
    located = hub.locate(ID, "main", said.append)
    assert located.path.read_bytes() == WEIGHTS
    assert located.name == "matte"
    assert located.hub is not None
    assert located.hub.to_mapping() == {"id": ID, "revision": "main", "commit": COMMIT, "file": "model.safetensors"}
    assert located.hub.licence == "mit"
    assert stub.sent == len(WEIGHTS)
    assert not any("birefnet.py" in seen.path for seen in stub.log)
    assert "model.safetensors, 0.1 MB" in said[0]
    assert partials(hub) == []


def test_the_cache_is_the_librarys_own(hub: Hub, stub: StubHub) -> None:
    located = hub.locate(ID, "main", silent)
    theirs = hf_hub_download(ID, "model.safetensors", cache_dir=hub.cache, endpoint=stub.url, local_files_only=True)
    assert Path(theirs) == located.path
    hub.locate(ID, "main", silent)
    assert len(stub.downloads) == 1


def test_what_another_tool_fetched_is_used(hub: Hub, stub: StubHub) -> None:
    theirs = hf_hub_download(ID, "model.safetensors", cache_dir=hub.cache, endpoint=stub.url, token=False)
    assert hub.locate(ID, "main", silent).path == Path(theirs)
    assert len(stub.downloads) == 1


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_offline_what_is_there_is_taken(hub: Hub, stub: StubHub, revision: str) -> None:
    fetched = hub.locate(ID, revision, silent)
    asked = len(stub.log)
    found = Hub(hub.endpoint, hub.cache, offline=True).locate(ID, revision, silent)
    assert found.path == fetched.path
    assert found.hub is not None
    assert found.hub.commit == COMMIT
    assert len(stub.log) == asked


def test_offline_what_is_not_there_is_an_error(hub: Hub, stub: StubHub) -> None:
    with pytest.raises(
        SourceError, match=r"HF_HUB_OFFLINE is set, and someone/matte@main is not in the cache \(.*cache"
    ):
        Hub(hub.endpoint, hub.cache, offline=True).locate(ID, "main", silent)
    assert stub.log == []


def test_without_a_connection_the_cache_serves_and_says_so(hub: Hub) -> None:
    fetched = hub.locate(ID, "main", silent)
    said: list[str] = []
    assert Hub(closed_port(), hub.cache).locate(ID, "main", said.append).path == fetched.path
    assert said[0].startswith("WARNING: no connection to http://127.0.0.1:")


def test_without_a_connection_and_a_cache(hub: Hub) -> None:
    with pytest.raises(
        SourceError, match=r"no connection to http://127.0.0.1:\d+ \(.*\), and someone/matte@main is not"
    ):
        Hub(closed_port(), hub.cache).locate(ID, "main", silent)


def closed_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_cut_download_goes_on_by_itself(hub: Hub, stub: StubHub) -> None:
    stub.cuts = [30_000, 20_000]
    assert hub.locate(ID, "main", silent).path.read_bytes() == WEIGHTS
    assert [seen.range for seen in stub.downloads] == [None, "bytes=30000-", "bytes=50000-"]


def test_the_next_run_fetches_the_rest_alone(hub: Hub, stub: StubHub) -> None:
    """The library gives up after five failures in a row; what came stays, and nothing takes it for the file."""
    stub.cuts = [30_000, 0, 0, 0, 0, 0]
    with pytest.raises(SourceError, match=r"broke \(.*\); what came is kept, the next run continues there"):
        hub.locate(ID, "main", silent)
    (partial,) = partials(hub)
    assert partial.read_bytes() == WEIGHTS[:30_000]
    assert not list((hub.cache / "models--someone--matte" / "blobs").glob(sha256(WEIGHTS)))
    stub.log.clear()
    said: list[str] = []
    assert hub.locate(ID, "main", said.append).path.read_bytes() == WEIGHTS
    assert [seen.range for seen in stub.downloads] == ["bytes=30000-"]
    assert "continuing at 0.0 MB" in said
    assert partials(hub) == []


def test_a_server_that_knows_no_ranges_begins_again(hub: Hub, stub: StubHub) -> None:
    stub.cuts, stub.ignores_ranges = [30_000], True
    assert hub.locate(ID, "main", silent).path.read_bytes() == WEIGHTS
    assert len(stub.downloads) == 2


@pytest.mark.parametrize(
    "altered",
    [WEIGHTS[:-1] + b"\0", WEIGHTS[:50_000], WEIGHTS + b"more", b"<html>log in</html>" * 300],
    ids=["a bit", "truncated", "longer", "a page"],
)
def test_other_bytes_are_never_the_model(hub: Hub, stub: StubHub, altered: bytes) -> None:
    stub.altered = {sha256(WEIGHTS): altered}
    with pytest.raises(
        SourceError, match=rf"expected {len(WEIGHTS)} bytes with hash {sha256(WEIGHTS)} .* nothing was kept"
    ):
        hub.locate(ID, "main", silent)
    left = [path for path in (hub.cache / "models--someone--matte").rglob("*") if path.is_file()]
    assert left == []
    stub.altered = {}
    assert hub.locate(ID, "main", silent).path.read_bytes() == WEIGHTS


def test_a_partial_file_of_other_bytes_is_found_out(hub: Hub, stub: StubHub) -> None:
    blobs = hub.cache / "models--someone--matte" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{sha256(WEIGHTS)}.birefnet.incomplete").write_bytes(b"x" * 1000)
    with pytest.raises(SourceError, match="nothing was kept"):
        hub.locate(ID, "main", silent)
    (blobs / f"{sha256(WEIGHTS)}.birefnet.incomplete").write_bytes(b"x" * (len(WEIGHTS) + 1))
    assert hub.locate(ID, "main", silent).path.read_bytes() == WEIGHTS
    assert stub.downloads[-1].range is None


def test_a_damaged_cache_is_mended_online_and_refused_offline(hub: Hub) -> None:
    located = hub.locate(ID, "main", silent)
    located.path.write_bytes(WEIGHTS[:-1] + b"\0")
    with pytest.raises(SourceError, match=f"is damaged: expected hash {sha256(WEIGHTS)}"):
        Hub(hub.endpoint, hub.cache, offline=True).locate(ID, "main", silent)
    said: list[str] = []
    assert hub.locate(ID, "main", said.append).path.read_bytes() == WEIGHTS
    assert any("is damaged; fetching it again" in message for message in said)


def test_small_files_are_checked_by_their_git_id(hub: Hub, repository: StubRepository) -> None:
    repository.files["model.safetensors"] = b"small"
    located = hub.locate(ID, "main", silent)
    assert located.path.read_bytes() == b"small"
    # As `printf small | git hash-object --stdin` has it.
    assert located.path.resolve().name == git_id(b"small") == "64c3ecd7abb014643a372e0155b41cfca014c01f"


def test_an_unknown_id(hub: Hub) -> None:
    with pytest.raises(
        SourceError, match=r"expected a repository no/body on http.*, found none; for a private one set HF_TOKEN"
    ):
        hub.locate("no/body", "main", silent)


def test_an_unknown_revision(hub: Hub) -> None:
    with pytest.raises(SourceError, match="expected a revision v9 of someone/matte"):
        hub.locate(ID, "v9", silent)


def test_a_private_repository(hub: Hub, stub: StubHub, repository: StubRepository) -> None:
    repository.token = RIGHT
    with pytest.raises(SourceError, match="for a private one set HF_TOKEN"):
        hub.locate(ID, "main", silent)
    allowed = Hub(hub.endpoint, hub.cache, token=RIGHT)
    assert allowed.locate(ID, "main", silent).path.read_bytes() == WEIGHTS
    assert {seen.token for seen in stub.log if not seen.path.startswith("/cdn/")} == {None, RIGHT}
    assert [seen.token for seen in stub.downloads] == [None]


def test_a_gated_repository(hub: Hub, repository: StubRepository) -> None:
    repository.token, repository.gated = RIGHT, True
    with pytest.raises(
        SourceError, match=rf"someone/matte is gated: accept its terms on {re.escape(hub.endpoint)}/someone"
    ):
        hub.locate(ID, "main", silent)
    assert Hub(hub.endpoint, hub.cache, token=RIGHT).locate(ID, "main", silent).path.read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["pytorch_model.bin", "model.safetensors"], "model.safetensors"),
        (["pytorch_model.bin", "training_args.bin"], "pytorch_model.bin"),
        (["weights/general.pth", "README.md"], "weights/general.pth"),
    ],
)
def test_which_file_is_taken(hub: Hub, repository: StubRepository, names: list[str], chosen: str) -> None:
    repository.files = {name: WEIGHTS + name.encode() for name in names}
    located = hub.locate(ID, "main", silent)
    assert located.path.read_bytes() == WEIGHTS + chosen.encode()
    assert located.hub is not None
    assert located.hub.file == chosen


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["README.md", "onnx/model.onnx"], "found none"),
        (["a.pth", "b.pth"], "found a.pth, b.pth; name the file"),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], "found one in shards"),
    ],
)
def test_repositories_without_one_checkpoint(hub: Hub, repository: StubRepository, names, found) -> None:
    repository.files = dict.fromkeys(names, WEIGHTS)
    with pytest.raises(SourceError, match=rf"expected one checkpoint in someone/matte at http.*{found}"):
        hub.locate(ID, "main", silent)


def test_a_server_that_is_no_hub(hub: Hub, stub: StubHub) -> None:
    stub.page = b"<html>welcome</html>"
    with pytest.raises(SourceError, match="expected a hub at http"):
        hub.locate(ID, "main", silent)


ASK = """
from model_export.hub import Hub
try:
    print(Hub.from_environment().locate("someone/matte", "main", lambda _: None).path)
except Exception as error:
    print(type(error).__name__, error)
"""


def asked(**environment: str) -> str:
    """What a process answers whose environment is this one's with changes: huggingface_hub reads it once, on import."""
    own = {name: value for name, value in clean_environment().items() if not name.startswith("HF_")}
    command = [sys.executable, "-c", ASK]
    result = subprocess.run(
        command, cwd=ROOT, env={**own, **environment}, capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    return result.stdout.strip()


def test_the_librarys_environment_is_honoured(stub: StubHub, repository: StubRepository, tmp_path: Path) -> None:
    repository.token = RIGHT
    place = {"HF_ENDPOINT": stub.url, "HF_HOME": str(tmp_path / "home")}
    assert asked(**place).startswith("SourceError expected a repository someone/matte")
    fetched = asked(**place, HF_TOKEN=RIGHT)
    assert Path(fetched).is_relative_to(tmp_path / "home" / "hub")
    assert Path(fetched).read_bytes() == WEIGHTS
    requests = len(stub.log)
    assert asked(**place, HF_HUB_OFFLINE="1") == fetched
    assert asked(HF_HOME=str(tmp_path / "empty"), HF_HUB_OFFLINE="1").startswith("SourceError HF_HUB_OFFLINE is set")
    assert len(stub.log) == requests
