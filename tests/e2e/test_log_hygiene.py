"""A live server at its most talkative, fed secrets in every place a client might put them: none reaches the log."""

import base64
import json

import grpc
import httpx
import numpy as np
import pytest

from protos.matting.v1 import matting_pb2 as pb
from protos.matting.v1 import matting_pb2_grpc
from server.access.keys import make_key, write_row
from tests.support.images import png
from tests.support.processes import live_server

KEY, WRONG = make_key(), make_key()
PASSWORD = "hunter2-in-a-url"  # noqa: S105 - of nobody
URL = f"https://user:{PASSWORD}@images.example/photo.png?token={PASSWORD}"
BROKEN = "brokenbrokenbroken"  # text within an image that cannot be read


def test_no_key_image_or_credential_reaches_the_log(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(write_row("shop", KEY))
    image = png(np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8))
    damaged = image[:60] + BROKEN.encode() + image[80:-30]
    flags = ("--backend", "fake", "--api-keys-file", str(keys), "--allow-urls", "--log-level", "debug")
    with live_server(*flags) as server:
        with httpx.Client(base_url=server.http, headers={"Authorization": f"Bearer {KEY}"}) as client:
            assert client.post("/segment", content=image).status_code == 200
            assert client.post("/segment", content=damaged).status_code == 422
            assert client.post("/segment", params={"image_url": URL}, content=image).status_code == 422
            for url in (URL, f"http://127.0.0.1/{PASSWORD}?{PASSWORD}"):
                assert client.post("/segment", json={"image_url": url}).json()["code"] == "url-not-allowed"
            wrong = {"image_base64": base64.b64encode(damaged).decode(), "output": PASSWORD}
            assert client.post("/segment", json=wrong).status_code == 422
            assert client.post(f"/segment?key={KEY}", content=image).status_code == 422
            assert client.get("/metrics").status_code == 200
        with httpx.Client(base_url=server.http) as client:
            for headers in ({"X-Api-Key": WRONG}, {"Authorization": f"Basic {PASSWORD}"}, {"X-Request-Id": "a b\n"}):
                headers = {name: value.replace("\n", "") for name, value in headers.items()}
                assert client.post("/segment", content=image, headers=headers).status_code == 401
        with grpc.insecure_channel(server.grpc) as channel:
            stub = matting_pb2_grpc.MattingStub(channel)
            stub.Segment(pb.SegmentRequest(image=image), metadata=(("x-api-key", KEY),))
            for metadata in ((("x-api-key", WRONG),), (("authorization", f"Bearer {KEY}x"),)):
                with pytest.raises(grpc.RpcError):
                    stub.Segment(pb.SegmentRequest(image=damaged), metadata=metadata)
        keys.write_text(f"shop {WRONG}")
        server.wait_for("the API keys stay as they were")
        server.signal()
        assert server.wait() == 0
        log = json.dumps(server.wait_for_records())
    assert log.count("request answered") >= 12
    assert '"account": "shop"' in log
    hashed = write_row("shop", KEY).split("sha256:")[1]
    encoded = base64.b64encode(image)[40:60].decode()
    for secret in (KEY, WRONG, KEY[4:24], hashed[:16], PASSWORD, "images.example", BROKEN, encoded, "IHDR", "a b"):
        assert secret not in log, secret
