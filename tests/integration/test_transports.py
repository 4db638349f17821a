"""Both transports in one process, over real sockets, on a fake device."""

import asyncio
import io
import re
import zipfile

import grpc
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from protos.matting.v1 import matting_pb2 as pb
from server.backends.fake import FakeOptions
from tests.support.backends import DeviceScript
from tests.support.clients import marked_png, running_server
from tests.support.images import decoded, disc, jpeg, noise, png, rotated_jpeg

OPTIONS = [
    ({}, {}),
    ({"output": "cutout"}, {"output": pb.OUTPUT_CUTOUT}),
    ({"output": "cutout", "format": "webp"}, {"output": pb.OUTPUT_CUTOUT, "format": pb.FORMAT_WEBP}),
    ({"output": "cutout", "format": "zip"}, {"output": pb.OUTPUT_CUTOUT, "format": pb.FORMAT_ZIP}),
    (
        {"output": "composite", "format": "jpeg", "background": "#102030"},
        {"output": pb.OUTPUT_COMPOSITE, "format": pb.FORMAT_JPEG, "background": "#102030"},
    ),
    (
        {"output": "cutout", "foreground": "original"},
        {"output": pb.OUTPUT_CUTOUT, "foreground": pb.FOREGROUND_ORIGINAL},
    ),
    ({"output": "trimap"}, {"output": pb.OUTPUT_TRIMAP}),
    ({"depth": "16", "format": "tiff"}, {"depth": 16, "format": pb.FORMAT_TIFF}),
]


def luminous_disc(height: int, width: int) -> bytes:
    """A white disc on black, whose matte, from the fake device, is itself."""
    return png(np.rint(disc(height, width).alpha * 255).astype(np.uint8))


def parts_of(body: bytes) -> list[bytes]:
    """The images in an answer: itself, or what it holds."""
    if not body.startswith(b"PK"):
        return [body]
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        return [archive.read(name) for name in archive.namelist()]


@pytest.mark.parametrize(
    ("rest", "rpc"), OPTIONS, ids=["matte", "cutout", "webp", "zip", "composite", "original", "trimap", "deep"]
)
async def test_the_same_image_gives_the_same_bytes_over_both_transports(rest, rpc):
    image = rotated_jpeg(disc(60, 90).image, 6)
    async with running_server() as server:
        response = await server.post(image, **rest)
        answer = await server.call(image, **rpc)
    assert response.status_code == 200, response.text
    assert response.content == answer.image
    assert response.headers["content-type"] == answer.media_type
    assert (answer.width, answer.height) == (60, 90)
    for part in parts_of(answer.image):
        with Image.open(io.BytesIO(part)) as opened:
            assert opened.size == (60, 90)
    assert response.headers["x-model"] == answer.model == "fake"


async def test_refinement_is_the_same_over_both_transports_and_says_what_it_did():
    image = luminous_disc(1200, 800)
    async with running_server() as server:
        response = await server.post(image, refine="on")
        answer = await server.call(image, refine=pb.REFINE_ON)
        plain = await server.post(image)
    assert response.content == answer.image == plain.content  # the fake refiner changes nothing
    stages = answer.refinement.stages
    assert [(stage.width, stage.height) for stage in stages] == [(400, 600), (800, 1200)]
    tiles = sum(stage.tiles for stage in stages)
    assert response.headers["x-refine"] == f"stages=2, tiles={tiles}, dropped=0"
    assert tiles > 4
    assert all(0 < stage.band_share < 0.35 and not stage.dropped for stage in stages)
    assert "refine;dur=" in response.headers["server-timing"]
    assert "x-refine" not in plain.headers


async def test_large_images_are_refined_unless_nobody_wants_it():
    image = luminous_disc(512, 2048)
    async with running_server() as server:
        assert "x-refine" in (await server.post(image)).headers
        assert "x-refine" not in (await server.post(image, refine="off")).headers
    async with running_server(refiner="none") as server:
        assert "x-refine" not in (await server.post(image)).headers
        assert "x-refine" in (await server.post(image, refine="on")).headers


async def test_every_form_of_upload_gives_the_same_matte():
    image = png(disc(40, 50).image)
    text = base64_text(image)
    async with running_server() as server:
        answers = [
            await server.post(image),
            await server.http.post("/segment", content=image, headers={"Content-Type": "text/plain"}),
            # What curl --data-binary declares.
            await server.http.post(
                "/segment", content=image, headers={"Content-Type": "application/x-www-form-urlencoded"}
            ),
            *[await server.http.post("/segment", files={name: image}) for name in ("image", "file", "image_file")],
            await server.http.post("/segment", files={"image": ("no.txt", image, "text/plain")}),
            await server.http.post("/segment", json={"image_base64": text}),
            await server.http.post("/segment", json={"image_base64": f"data:image/png;base64,{text}"}),
            await server.http.post("/segment", files={"image": image}, data={"output": "matte", "format": "png"}),
            await server.http.post("/segment?output=matte", files={"image": image}, data={"timeout_ms": "5000"}),
            await server.http.post("/segment", json={"image_base64": text, "timeout_ms": 5000}),
        ]
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    assert len({answer.content for answer in answers}) == 1
    assert decoded(answers[0].content).shape == (40, 50)


async def test_options_count_wherever_they_are_given():
    image = png(disc(40, 50).image)
    async with running_server() as server:
        answers = [
            await server.post(image, output="cutout"),
            await server.http.post("/segment", files={"image": image}, data={"output": "cutout"}),
            await server.http.post("/segment", json={"image_base64": base64_text(image), "output": "cutout"}),
        ]
        webp = await server.http.post("/segment", content=image, headers={"Accept": "image/webp"})
    assert len({answer.content for answer in answers}) == 1
    assert decoded(answers[0].content).shape == (40, 50, 4)
    assert webp.headers["content-type"] == "image/webp"


async def test_an_answer_says_where_it_came_from():
    async with running_server() as server:
        response = await server.http.post(
            "/segment", content=marked_png(7), headers={"X-Request-Id": "order-66/photo-1"}
        )
        insane = await server.http.post("/segment", content=marked_png(7), headers={"X-Request-Id": "a b;<c>"})
        call = server.stub.Segment(pb.SegmentRequest(image=marked_png(7)), metadata=(("x-request-id", "call-1"),))
        answer = await call
        metadata = dict(await call.initial_metadata())
    assert response.headers["x-request-id"] == "order-66/photo-1"
    assert insane.headers["x-request-id"] not in ("", "a b;<c>")
    assert metadata["x-request-id"] == "call-1"
    stages = [part.split(";dur=") for part in response.headers["server-timing"].split(", ")]
    assert [stage for stage, _ in stages] == ["decode", "queue", "infer", "encode"]
    assert all(float(milliseconds) >= 0 for _, milliseconds in stages)
    assert [time.stage for time in answer.stages] == ["decode", "queue", "infer", "encode"]
    assert response.headers["x-batch-size"] == "1"
    assert answer.batch_size == 1


async def test_concurrent_requests_form_batches_and_each_gets_its_own_matte():
    """32 different images at once, half over each transport: none may get another's matte."""
    marks = list(range(10, 234, 7))
    assert len(marks) == 32
    script = DeviceScript(gated=True)
    async with running_server(script, options=FakeOptions(max_batch=8)) as server:
        first = asyncio.create_task(server.post(marked_png(1)))
        await script.arrival()  # the device is busy: from here on requests gather
        posts = [asyncio.create_task(server.post(marked_png(mark))) for mark in marks[:16]]
        calls = [asyncio.create_task(server.call(marked_png(mark))) for mark in marks[16:]]
        await server.wait_until_waiting(32)
        script.open()
        mattes = [(await post).content for post in posts] + [(await call).image for call in calls]
        await first
        families = parsed_metrics((await server.http.get("/metrics")).text)
    assert [int(decoded(matte).min()) for matte in mattes] == marks
    assert [int(decoded(matte).max()) for matte in mattes] == marks
    assert sorted(map(len, script.batches)) == [1, 8, 8, 8, 8]
    assert families["birefnet_batch_size_count"] == 5
    assert families["birefnet_batch_size_sum"] == 33
    assert families["birefnet_requests_total{outcome=ok,transport=rest}"] == 17
    assert families["birefnet_requests_total{outcome=ok,transport=grpc}"] == 16
    assert families["birefnet_request_seconds_count{outcome=ok,transport=rest}"] == 17
    assert families["birefnet_request_seconds_count{outcome=ok,transport=grpc}"] == 16


async def test_messages_up_to_the_byte_limit_pass_over_grpc():
    """A PNG of noise does not compress: 30 MB in, and as many out."""
    image = png(noise(3200, 3200), compress_level=0)
    assert 30e6 < len(image) < 32e6
    async with running_server() as server:
        answer = await server.call(image, output=pb.OUTPUT_CUTOUT)
        response = await server.post(image, output="cutout")
    assert len(answer.image) > 30e6
    assert (answer.height, answer.width) == (3200, 3200)
    assert response.content == answer.image


async def test_a_stream_answers_every_image_by_its_id_and_survives_bad_ones():
    marks = [20, 40, 60, 80]

    async def messages():
        for mark in marks:
            yield pb.SegmentRequest(image=marked_png(mark), id=f"image-{mark}")
        yield pb.SegmentRequest(image=b"no image at all", id="bad")
        yield pb.SegmentRequest(image=marked_png(1), options=pb.SegmentOptions(model="nobody"), id="unknown")

    async with running_server() as server:
        answers = {answer.id: answer async for answer in server.stub.SegmentStream(messages())}
        families = parsed_metrics((await server.http.get("/metrics")).text)
    assert set(answers) == {"bad", "unknown", *(f"image-{mark}" for mark in marks)}
    for mark in marks:
        assert int(decoded(answers[f"image-{mark}"].answer.image).max()) == mark
    assert answers["bad"].error.code == "not-an-image"
    assert answers["bad"].error.status == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert answers["unknown"].error.code == "unknown-model"
    assert families["birefnet_requests_total{outcome=ok,transport=grpc}"] == 4
    assert families["birefnet_request_seconds_count{outcome=ok,transport=grpc}"] == 4
    assert families["birefnet_requests_total{outcome=not-an-image,transport=grpc}"] == 1


async def test_a_stream_answers_as_images_finish_not_in_their_order():
    """The image at the gate is waited for while one that fails in decoding overtakes it."""
    script = DeviceScript(gated=True)
    async with running_server(script) as server:
        call = server.stub.SegmentStream()
        await call.write(pb.SegmentRequest(image=marked_png(50), id="slow"))
        await script.arrival()
        await call.write(pb.SegmentRequest(image=b"broken", id="quick"))
        first = await call.read()
        script.open()
        await call.done_writing()
        second = await call.read()
        assert await call.read() is grpc.aio.EOF
    assert (first.id, second.id) == ("quick", "slow")


async def test_a_stream_reads_ahead_only_as_far_as_its_window():
    script = DeviceScript(gated=True)

    async def messages():
        for mark in range(40):
            yield pb.SegmentRequest(image=marked_png(mark), id=str(mark))

    async with running_server(script) as server:
        call = server.stub.SegmentStream(messages())
        await script.arrival()
        await server.wait_until_inside(16)
        for _ in range(10):  # a server that read on would have done so by the time these are answered
            await server.http.get("/livez")
        assert server.process.parts.admission.inside == 16
        script.open()
        answers = [answer.id async for answer in call]
    assert sorted(answers, key=int) == [str(mark) for mark in range(40)]


async def test_metrics_are_valid_and_count_what_clients_saw():
    seen: dict[str, int] = {}
    async with running_server() as server:
        for image in (marked_png(3), jpeg(disc().image), b"x", b"", marked_png(3)[:60]):
            response = await server.post(image)
            outcome = "ok" if response.status_code == 200 else response.json()["code"]
            seen[outcome] = seen.get(outcome, 0) + 1
        families = parsed_metrics((await server.http.get("/metrics")).text)
    assert seen == {"ok": 2, "not-an-image": 1, "empty-body": 1, "corrupt-image": 1}
    for outcome, count in seen.items():
        assert families[f"birefnet_requests_total{{outcome={outcome},transport=rest}}"] == count
    assert families["birefnet_stage_seconds_count{stage=decode}"] >= 2
    assert families["birefnet_queue_depth"] == 0


async def test_the_self_description_is_complete():
    async with running_server() as server:
        models = (await server.http.get("/models")).json()["models"]
        version = (await server.http.get("/version")).json()
        docs = await server.http.get("/docs")
        openapi = (await server.http.get("/openapi.json")).json()
    assert [(model["name"], model["default"], model["size"]) for model in models] == [("fake", True, [512, 512])]
    assert version["name"] == "birefnet-server"
    assert docs.status_code == 200
    post = openapi["paths"]["/segment"]["post"]
    assert {parameter["name"] for parameter in post["parameters"]} == {
        *("output", "format", "background", "foreground", "depth", "refine", "crop", "model", "priority", "timeout_ms")
    }
    assert {"200", "400", "404", "413", "415", "422", "429", "500", "503", "504"} <= set(post["responses"])
    assert set(post["responses"]["429"]["content"]) == {"application/problem+json"}
    assert {"multipart/form-data", "application/json", "image/*"} <= set(post["requestBody"]["content"])


async def test_the_page_for_people_needs_nothing_but_this_server():
    async with running_server() as server:
        page = await server.http.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text
    assert "https://" not in page.text
    for path in re.findall(r'href="([^"]+)"', page.text):
        assert path in ("docs", "models", "metrics")
    assert 'find("photo").onerror = ' in page.text, "a file that no browser can show leaves a broken frame"


async def test_reflection_and_health_are_there():
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    async with running_server() as server:
        health = health_pb2_grpc.HealthStub(server.channel)
        for name in ("", "matting.v1.Matting"):
            watch = health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=10)
            while (await watch.read()).status != health_pb2.HealthCheckResponse.SERVING:
                pass
            watch.cancel()
        stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = [answer async for answer in stub.ServerReflectionInfo(iter([request]))]
    names = {service.name for service in answers[0].list_services_response.service}
    assert "matting.v1.Matting" in names
    assert "grpc.health.v1.Health" in names


def base64_text(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode()


def parsed_metrics(text: str) -> dict[str, float]:
    """Samples by name and labels, `name{a=b,…}`; fails on text that is no valid exposition."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found
