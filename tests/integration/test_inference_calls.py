"""The Open Inference Protocol over gRPC: the same answers as `Segment`, in its own forms."""

import asyncio
import hashlib
import io
import struct
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from protos.inference.v2 import inference_pb2 as pb
from protos.inference.v2 import inference_pb2_grpc
from server.backends.fake import FakeOptions
from tests.support.backends import DeviceScript, counted
from tests.support.clients import RunningServer, marked_png, running_server, trailing
from tests.support.images import disc, jpeg, png, smooth

PIXELS = smooth(40, 50)
Parameter = pb.InferParameter


def stub(server: RunningServer) -> Any:
    return inference_pb2_grpc.GRPCInferenceServiceStub(server.channel)


def element(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def asked(*raw: bytes, datatype: str = "BYTES", shape: tuple[int, ...] = (1,), **fields: Any) -> pb.ModelInferRequest:
    """A request with its tensor behind it."""
    tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype=datatype, shape=shape)
    return pb.ModelInferRequest(**{"model_name": "fake", "inputs": [tensor], "raw_input_contents": raw, **fields})


def inside(image: bytes, **fields: Any) -> pb.ModelInferRequest:
    """A request with its image in it."""
    request = asked(**fields)
    request.inputs[0].contents.bytes_contents.append(image)
    return request


def wanted(name: str) -> list[pb.ModelInferRequest.InferRequestedOutputTensor]:
    return [pb.ModelInferRequest.InferRequestedOutputTensor(name=name)]


def alpha_of(answer: pb.ModelInferResponse) -> np.ndarray:
    (output,) = answer.outputs
    assert (output.name, output.datatype) == ("alpha", "FP32")
    assert not output.HasField("contents")
    (raw,) = answer.raw_output_contents
    return np.frombuffer(raw, "<f4").reshape(output.shape)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as found:
        await call
    return found.value


async def test_what_the_server_and_its_models_are():
    async with running_server() as server:
        calls = stub(server)
        about = await calls.ServerMetadata(pb.ServerMetadataRequest())
        model = await calls.ModelMetadata(pb.ModelMetadataRequest(name="fake"))
        same = await calls.ModelMetadata(pb.ModelMetadataRequest(name="fake", version=model.versions[0]))
        ready = [
            (await calls.ModelReady(pb.ModelReadyRequest(name=name, version=version))).ready
            for name, version in (("fake", ""), ("fake", model.versions[0]), ("fake", "7"), ("other", ""))
        ]
        unknown = [
            await failure(calls.ModelMetadata(pb.ModelMetadataRequest(name="other"))),
            await failure(calls.ModelMetadata(pb.ModelMetadataRequest(name="fake", version="7"))),
        ]
        rest = (await server.http.get("/v2/models/fake")).json()
    assert about.name == "birefnet-server"
    assert about.version
    assert same == model
    assert (model.name, list(model.versions), model.platform) == (rest["name"], rest["versions"], rest["platform"])
    for found, expected in ((model.inputs, rest["inputs"]), (model.outputs, rest["outputs"])):
        assert [(t.name, t.datatype, list(t.shape)) for t in found] == [
            (t["name"], t["datatype"], t["shape"]) for t in expected
        ]
    assert ready == [True, True, False, False]
    for error in unknown:
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert trailing(error)["x-error-code"] == "unknown-model"


async def test_every_form_gives_the_matte_of_segment():
    image = png(PIXELS)
    async with running_server() as server:
        expected = np.load(io.BytesIO((await server.post(image, format="npy")).content))
        answers = [
            await stub(server).ModelInfer(request)
            for request in (
                asked(element(image)),
                asked(element(image), shape=(1, 1), outputs=wanted("alpha")),
                inside(image),
                asked(PIXELS.tobytes(), datatype="UINT8", shape=PIXELS.shape),
                asked(PIXELS.tobytes(), datatype="UINT8", shape=(1, *PIXELS.shape), id="mine"),
            )
        ]
        counts = counted(server.metrics, "birefnet_requests_total", transport="grpc", outcome="ok")
    for answer in answers:
        np.testing.assert_array_equal(alpha_of(answer)[0], expected)
        assert answer.model_name == "fake"
    assert answers[-1].id == "mine"
    assert counts == len(answers)


async def test_the_output_image_is_what_segment_answers():
    image = jpeg(disc(60, 90).image)
    options = {"output": "cutout", "format": "webp", "foreground": "original"}
    parameters = {name: Parameter(string_param=value) for name, value in options.items()}
    async with running_server() as server:
        expected = await server.post(image, **options)
        answer = await stub(server).ModelInfer(inside(image, parameters=parameters, outputs=wanted("image")))
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("image", "BYTES", [1])
    assert output.parameters["content_type"].string_param == "image/webp"
    assert list(answer.raw_output_contents) == [element(expected.content)]
    assert answer.model_version == expected.headers["x-artifact"]


TWO = [pb.ModelInferRequest.InferInputTensor(name="image")] * 2
MANY = {str(number): Parameter(bool_param=True) for number in range(1001)}
WRONG = [
    (pb.ModelInferRequest(model_name="fake"), "malformed-request", "inputs: expected one"),
    (asked(element(b"x"), inputs=TWO), "malformed-request", "inputs: expected one"),
    (asked(), "malformed-request", "expected one tensor in raw_input_contents"),
    (asked(b"x", b"y"), "malformed-request", "expected one tensor in raw_input_contents"),
    (asked(b"\x09\0\0\0short"), "malformed-request", "its length in four bytes"),
    (asked(b"123", datatype="UINT8", shape=(1, 2, 3)), "malformed-request", "expected 6 bytes of pixels, found 3"),
    (asked(b"1234", datatype="FP32"), "malformed-request", "expected BYTES [1], or UINT8"),
    (asked(element(b"x"), shape=(-1,)), "malformed-request", "positive numbers"),
    (asked(element(b"x"), shape=(1,) * 1001), "malformed-request", "at most 1000 members, found 1001"),
    (asked(element(b"x"), parameters=MANY), "malformed-request", "at most 1000 members, found 1001"),
    (asked(element(b"x"), parameters={"refine": Parameter()}), "malformed-request", "expected a value of 'refine'"),
    (asked(element(b"x"), outputs=wanted("mask")), "malformed-request", "outputs: expected one"),
    (asked(element(b"x")), "not-an-image", ""),
    (asked(element(b"")), "empty-body", ""),
    (asked(element(b"x"), model_name="other"), "unknown-model", "no model 'other'"),
    (asked(element(b"x"), model_name=""), "unknown-model", "no model ''"),
    (asked(element(b"x"), model_version="7"), "unknown-model", "found '7'"),
    (
        asked(element(b"x"), parameters={"refien": Parameter(string_param="on")}),
        "invalid-option",
        "did you mean refine?",
    ),
    (asked(element(b"x"), parameters={"model": Parameter(string_param="a")}), "invalid-option", "expected in the path"),
]


@pytest.mark.parametrize(("request_", "code", "problem"), WRONG)
async def test_what_is_wrong_is_told_as_everywhere(request_, code, problem):
    async with running_server() as server:
        error = await failure(stub(server).ModelInfer(request_))
        counts = counted(server.metrics, "birefnet_requests_total", transport="grpc", outcome=code)
    assert trailing(error)["x-error-code"] == code
    assert "x-request-id" in trailing(error)
    assert problem in str(error.details())
    assert counts == 1


async def test_images_are_bounded():
    async with running_server(max_upload_mib=1) as server:
        error = await failure(stub(server).ModelInfer(inside(bytes((1 << 20) + 1))))
    assert trailing(error)["x-error-code"] == "body-too-large"


async def test_priority_and_timeout_are_those_of_tritons_clients():
    script = DeviceScript(gated=True)
    async with running_server(script, options=FakeOptions(max_batch=1)) as server:
        first = asyncio.create_task(server.post(marked_png(1)))
        await script.arrival()
        marks = []
        for mark, priority in ((2, 3), (3, 1)):
            parameters = {"priority": Parameter(uint64_param=priority)}
            marks.append(
                asyncio.ensure_future(stub(server).ModelInfer(inside(marked_png(mark), parameters=parameters)))
            )
            await server.wait_until_waiting(len(marks))
        late = inside(marked_png(4), parameters={"timeout": Parameter(int64_param=1000)})
        error = await failure(stub(server).ModelInfer(late))
        script.open()
        await asyncio.gather(first, *marks)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert script.batches == [[1], [3], [2]]


async def test_refusals_and_probes_are_those_of_the_server():
    script = DeviceScript(gated=True)
    async with running_server(script, max_requests=1) as server:
        calls = stub(server)
        taken = asyncio.ensure_future(calls.ModelInfer(inside(marked_png(1))))
        await script.arrival()
        refused = await failure(calls.ModelInfer(inside(marked_png(2))))
        before = await calls.ServerLive(pb.ServerLiveRequest()), await calls.ServerReady(pb.ServerReadyRequest())
        script.open()
        await taken
        await server.process.parts.engine.drain()
        after = (
            await calls.ServerLive(pb.ServerLiveRequest()),
            await calls.ServerReady(pb.ServerReadyRequest()),
            await calls.ModelReady(pb.ModelReadyRequest(name="fake")),
        )
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(trailing(refused)["retry-after"]) >= 1
    assert (before[0].live, before[1].ready) == (True, True)
    assert (after[0].live, after[1].ready, after[2].ready) == (True, False, False)


async def test_a_call_that_its_client_leaves_is_dropped():
    script = DeviceScript(gated=True)
    async with running_server(script) as server:
        call = stub(server).ModelInfer(inside(marked_png(1)))
        leaving = asyncio.ensure_future(call)
        await script.arrival()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        script.open()
        await server.wait_until_inside(0)


async def test_keys_are_asked_for_as_over_rest(tmp_path: Path):
    key = "brf_" + "a" * 40
    keys = tmp_path / "keys"
    keys.write_text(f"shop sha256:{hashlib.sha256(key.encode()).hexdigest()}\n")
    async with running_server(api_keys_file=keys) as server:
        calls = stub(server)
        assert (await calls.ServerLive(pb.ServerLiveRequest())).live
        assert (await calls.ServerReady(pb.ServerReadyRequest())).ready
        closed = [
            await failure(calls.ServerMetadata(pb.ServerMetadataRequest())),
            await failure(calls.ModelReady(pb.ModelReadyRequest(name="fake"))),
            await failure(calls.ModelMetadata(pb.ModelMetadataRequest(name="fake"))),
            await failure(calls.ModelInfer(inside(marked_png(1)))),
        ]
        shown = (("x-api-key", key),)
        assert (await calls.ModelReady(pb.ModelReadyRequest(name="fake"), metadata=shown)).ready
        assert alpha_of(await calls.ModelInfer(inside(marked_png(1)), metadata=shown)).shape == (1, 16, 16)
    assert [error.code() for error in closed] == [grpc.StatusCode.UNAUTHENTICATED] * 4
