"""Triton's own client talks to the server, unchanged, over HTTP and over gRPC.

`python -m pytest -m peers` runs it: the client is installed from the package index into an environment of its own.
"""

import io
import subprocess
import venv
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.images import photographs
from tests.support.processes import live_server

pytestmark = [pytest.mark.peers, pytest.mark.timeout(1200)]

SCRIPT = """
import sys
import numpy as np
import importlib
transport, address, image, pixels, folder = sys.argv[1:]
triton = importlib.import_module(f"tritonclient.{transport}")
client = triton.InferenceServerClient(address)
name = "default"
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(name)
assert not client.is_model_ready("other")
as_json = {"as_json": True} if transport == "grpc" else {}
assert client.get_server_metadata(**as_json)["name"] == "birefnet-server"
assert client.get_model_metadata(name, **as_json)["inputs"][0]["datatype"] == "BYTES"
file = triton.InferInput("image", [1], "BYTES")
file.set_data_from_numpy(np.array([open(image, "rb").read()], object))
array = np.load(pixels)
tensor = triton.InferInput("image", array.shape, "UINT8")
tensor.set_data_from_numpy(array)
first = client.infer(name, [file], priority=1, timeout=60_000_000, request_id="7")
np.save(f"{folder}/file.npy", first.as_numpy("alpha"))
np.save(f"{folder}/pixels.npy", client.infer(name, [tensor]).as_numpy("alpha"))
cutout = client.infer(name, [file], outputs=[triton.InferRequestedOutput("image")], parameters={"output": "cutout"})
open(f"{folder}/cutout.png", "wb").write(cutout.as_numpy("image")[0])
try:
    client.infer(name, [file], parameters={"output": "cutout"})
except Exception as error:
    assert "expected only with the output" in str(error), error
else:
    raise SystemExit("an impossible request was answered")
"""


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has Triton's client."""
    folder = tmp_path_factory.mktemp("triton")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "tritonclient[http,grpc]>=2.60,<3"], check=True)
    return python


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_tritons_client_gets_the_mattes_of_segment(triton: Path, transport: str, tmp_path: Path) -> None:
    pixels = photographs()["chelsea"]
    Image.fromarray(pixels).save(tmp_path / "image.png")
    np.save(tmp_path / "image.npy", pixels)
    with live_server() as server:
        address = server.http.removeprefix("http://") if transport == "http" else server.grpc
        command: list[str | Path] = [
            triton,
            "-c",
            SCRIPT,
            transport,
            address,
            str(tmp_path / "image.png"),
            str(tmp_path / "image.npy"),
            str(tmp_path),
        ]
        subprocess.run(command, check=True)
        image = (tmp_path / "image.png").read_bytes()
        answer = httpx.post(f"{server.http}/segment?format=npy", content=image, timeout=60)
        cutout = httpx.post(f"{server.http}/segment?output=cutout", content=image, timeout=60).content
    expected = np.load(io.BytesIO(answer.content))
    for name in ("file", "pixels"):
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy")[0], expected)
    assert (tmp_path / "cutout.png").read_bytes() == cutout
