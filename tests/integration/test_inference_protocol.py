"""The Open Inference Protocol over HTTP: the same answers as `/segment`, in its own forms."""

import asyncio
import base64
import io
import json
import struct

import httpx
import numpy as np
import pytest

from server.backends.fake import FakeOptions
from tests.support.backends import DeviceScript, counted
from tests.support.clients import RunningServer, marked_png, running_server
from tests.support.images import decoded, disc, jpeg, png, smooth

PIXELS = smooth(40, 50)
INFER = "/v2/models/fake/infer"


def json_request(image: bytes, **fields) -> dict[str, object]:
    data = [base64.b64encode(image).decode()]
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": data}], **fields}


def binary(document: dict[str, object], *tensors: bytes) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(document).encode()
    return b"".join((text, *tensors)), {"Inference-Header-Content-Length": str(len(text))}


def binary_request(tensor: bytes, datatype: str, shape: list[int], **fields) -> tuple[bytes, dict[str, str]]:
    entry = {
        "name": "image",
        "datatype": datatype,
        "shape": shape,
        "parameters": {"binary_data_size": len(tensor)},
    }
    return binary({"inputs": [entry], **fields}, tensor)


async def infer(server: RunningServer, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    return await server.http.post(INFER, content=body, headers=headers or {})


def alpha_of(response: httpx.Response) -> np.ndarray:
    """The tensor of an answer, whichever way it came."""
    assert response.status_code == 200, response.text
    length = response.headers.get("Inference-Header-Content-Length")
    document = json.loads(response.content[: int(length)] if length is not None else response.content)
    (output,) = document["outputs"]
    assert (output["name"], output["datatype"]) == ("alpha", "FP32")
    if length is None:
        values = np.array(output["data"], np.float32)
    else:
        raw = response.content[int(length) :]
        assert output["parameters"]["binary_data_size"] == len(raw)
        values = np.frombuffer(raw, "<f4")
    return values.reshape(output["shape"])


async def test_what_the_server_and_its_models_are():
    async with running_server() as server:
        found = [(await server.http.get(path)).json() for path in ("/v2", "/v2/models/fake", "/v2/models/fake/ready")]
        unknown = [await server.http.get(f"/v2/models/other{end}") for end in ("", "/ready")]
    assert found[0]["name"] == "birefnet-server"
    assert found[0]["extensions"] == ["binary_tensor_data"]
    assert found[1]["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [1]}]
    assert [(output["name"], output["datatype"]) for output in found[1]["outputs"]] == [
        ("alpha", "FP32"),
        ("image", "BYTES"),
    ]
    assert found[2] == {"name": "fake", "ready": True}
    assert [answer.status_code for answer in unknown] == [404, 404]
    assert all("other" in answer.json()["error"] for answer in unknown)


async def test_every_form_gives_the_matte_of_segment():
    image = png(PIXELS)
    wanted = {"outputs": [{"name": "alpha", "parameters": {"binary_data": True}}]}
    element = struct.pack("<I", len(image)) + image
    async with running_server() as server:
        expected = np.load(io.BytesIO((await server.post(image, format="npy")).content))
        answers = [
            await server.http.post(INFER, json=json_request(image)),
            await server.http.post(INFER, json=json_request(image, **wanted)),
            await infer(server, *binary_request(element, "BYTES", [1])),
            await infer(server, *binary_request(element, "BYTES", [1, 1], parameters={"binary_data_output": True})),
            await infer(server, *binary_request(PIXELS.tobytes(), "UINT8", [40, 50, 3], **wanted)),
            await infer(server, *binary_request(PIXELS.tobytes(), "UINT8", [1, 40, 50, 3], **wanted)),
        ]
        counts = counted(server.metrics, "birefnet_requests_total", transport="rest", outcome="ok")
    for answer in answers:
        np.testing.assert_array_equal(alpha_of(answer)[0], expected)
        assert "X-Request-Id" in answer.headers
    assert counts == 1 + len(answers)


async def test_the_output_image_is_what_segment_answers():
    image = jpeg(disc(60, 90).image)
    options = {"output": "cutout", "format": "webp", "foreground": "original"}
    async with running_server() as server:
        expected = await server.post(image, **options)
        document = json_request(image, id="mine", parameters=options, outputs=[{"name": "image"}])
        answer = (await server.http.post(INFER, json=document)).json()
        document["outputs"] = [{"name": "image", "parameters": {"binary_data": True}}]
        raw = await server.http.post(INFER, json=document)
    assert (answer["id"], answer["model_name"]) == ("mine", "fake")
    assert answer["model_version"] == expected.headers["x-artifact"]
    (output,) = answer["outputs"]
    assert output["parameters"]["content_type"] == "image/webp"
    assert base64.b64decode(output["data"][0]) == expected.content
    start = int(raw.headers["Inference-Header-Content-Length"])
    assert raw.content[start:] == struct.pack("<I", len(expected.content)) + expected.content
    assert decoded(expected.content).shape == (60, 90, 4)


WRONG = [
    (b"", "expected a JSON object"),
    (b"[]", "found list"),
    (b"[" * 5000, "expected a JSON object"),
    ({}, "inputs: expected one"),
    ({"inputs": [{}, {}]}, "inputs: expected one"),
    ({"inputs": 7}, "inputs: expected a list"),
    (json_request(b"x", outputs=[{"name": "alpha"}, {"name": "image"}]), "outputs: expected one"),
    (json_request(b"x", outputs=[{"name": "mask"}]), "outputs: expected one"),
    (json_request(b"x", id=7), "id: expected text"),
    (json_request(b"x", parameters=[]), "parameters: expected an object"),
    ({"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 3, 4, 4], "data": []}]}, "expected BYTES"),
    ({"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 1, 3], "data": [1, 2, 3]}]}, "expected BYTES"),
    ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [2], "data": ["", ""]}]}, "expected BYTES"),
    ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1], "data": [""]}]}, "positive numbers"),
    ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["?"]}]}, "expected base64"),
    ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [7]}]}, "one string in base64"),
    (b'{"inputs": [], "parameters": {"a": [' + b"1," * 2000 + b"1]}}", "and no numbers in it"),
    (binary({**json_request(b"x")}, b"more"), "expected nothing behind the JSON"),
    (binary_request(b"\x09\0\0\0short", "BYTES", [1]), "its length in four bytes"),
    (binary_request(b"123", "UINT8", [1, 2, 3]), "expected 6 bytes of pixels, found 3"),
    ((b"{}", {"Inference-Header-Content-Length": "99"}), "expected a JSON object"),
    ((b"{}", {"Inference-Header-Content-Length": "-1"}), "expected a number of bytes"),
    ((b'{"inputs": [{"name": "\\ud800"}]}', {}), "found ['\\ud800']"),
]


async def test_what_is_wrong_is_told_in_the_protocols_form():
    async with running_server() as server:
        for request, problem in WRONG:
            body, headers = request if isinstance(request, tuple) else (request, {})
            text = body if isinstance(body, bytes) else json.dumps(body).encode()
            answer = await infer(server, text, headers)
            assert answer.status_code == 400, problem
            assert problem in answer.json()["error"]
            assert answer.json()["code"] == "malformed-request"
        refused = counted(server.metrics, "birefnet_requests_total", transport="rest", outcome="malformed-request")
    assert refused == len(WRONG)


@pytest.mark.parametrize(
    ("parameters", "outputs", "problem"),
    [
        ({"refien": "on"}, [], "did you mean refine?"),
        ({"output": "cutout"}, [], "expected only with the output `image`"),
        ({"model": "other"}, [], "expected in the path"),
        ({"timeout": "soon"}, [], "expected whole microseconds"),
        ({"timeout": 5, "timeout_ms": 5}, [], "and no timeout_ms"),
        ({"output": "cutout", "format": "jpeg"}, [{"name": "image"}], "jpeg"),
    ],
)
async def test_parameters_are_checked_as_options_are(parameters, outputs, problem):
    async with running_server() as server:
        document = json_request(marked_png(7), parameters=parameters, outputs=outputs)
        answer = await server.http.post(INFER, json=document)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-option")
    assert problem in answer.json()["error"]


async def test_a_large_alpha_is_not_written_as_json():
    image = png(smooth(300, 300))
    async with running_server() as server:
        answer = await server.http.post(INFER, json=json_request(image))
        document = json_request(image, parameters={"binary_data_output": True})
        assert alpha_of(await server.http.post(INFER, json=document)).shape == (1, 300, 300)
    assert answer.status_code == 422
    assert "ask for it with binary_data" in answer.json()["error"]


async def test_priority_and_timeout_are_those_of_tritons_clients():
    script = DeviceScript(gated=True)
    async with running_server(script, options=FakeOptions(max_batch=1)) as server:
        first = asyncio.create_task(server.post(marked_png(1)))
        await script.arrival()
        marks = []
        for mark, priority in ((2, 3), (3, 1)):
            document = json_request(marked_png(mark), parameters={"priority": priority})
            marks.append(asyncio.create_task(server.http.post(INFER, json=document)))
            await server.wait_until_waiting(len(marks))
        late = json_request(marked_png(4), parameters={"timeout": 1000})
        assert (await server.http.post(INFER, json=late)).status_code == 504
        script.open()
        await asyncio.gather(first, *marks)
    assert script.batches == [[1], [3], [2]]


async def test_refusals_and_probes_are_those_of_the_server():
    script = DeviceScript(gated=True)
    async with running_server(script, max_requests=1) as server:
        inside = asyncio.create_task(server.http.post(INFER, json=json_request(marked_png(1))))
        await script.arrival()
        refused = await server.http.post(INFER, json=json_request(marked_png(2)))
        script.open()
        assert (await inside).status_code == 200
        before = [await server.http.get(f"/v2/health/{name}") for name in ("live", "ready")]
        await server.process.parts.engine.drain()
        after = [
            await server.http.get(path) for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/fake/ready")
        ]
    assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert [(answer.status_code, answer.json()) for answer in before] == [(200, {"live": True}), (200, {"ready": True})]
    assert [answer.status_code for answer in after] == [200, 503, 503]


async def test_bodies_are_bounded():
    async with running_server(max_upload_mib=1) as server:
        answer = await infer(server, bytes(1200 * 1024))
        assert (answer.status_code, answer.json()["code"]) == (413, "body-too-large")
