"""A live process whose model is exchanged under requests of both transports, and compared with itself."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import grpc
import httpx

from protos.matting.v1 import matting_pb2 as pb
from protos.matting.v1 import matting_pb2_grpc
from server import default_model
from server.access.keys import make_key, write_row
from tests.support.images import jpeg, photographs
from tests.support.processes import PATIENCE_S, live_server


def copy_embedded(directory: Path) -> None:
    shutil.copytree(default_model.directory(), directory, ignore=shutil.ignore_patterns("*.py", "__pycache__"))


async def test_models_come_and_go_under_requests(tmp_path):
    models, key = tmp_path / "models", make_key()
    copy_embedded(models / "main")
    copy_embedded(models / "staged" / "next")
    (tmp_path / "admins").write_text(write_row("root", key))
    image = jpeg(photographs()["coffee"])
    admin = {"X-Api-Key": key}
    with live_server("--models-dir", str(models), "--admin-keys-file", str(tmp_path / "admins")) as live:
        async with (
            httpx.AsyncClient(base_url=live.http, timeout=PATIENCE_S) as http,
            grpc.aio.insecure_channel(live.grpc) as channel,
        ):
            stub: Any = matting_pb2_grpc.MattingStub(channel)
            posts = [http.post("/segment", content=image) for _ in range(6)]
            calls = [stub.Segment(pb.SegmentRequest(image=image)) for _ in range(6)]
            # Another largest batch, so that the same network is loaded beside itself.
            body = {"directory": "staged/next", "limits": {"max_batch": 1}}
            replacing = asyncio.create_task(http.put("/admin/models/main", json=body, headers=admin))
            answers, messages = await asyncio.gather(asyncio.gather(*posts), asyncio.gather(*calls))
            replaced = await replacing
            added = await http.put("/admin/models/again", json={"directory": "main"}, headers=admin)
            plan = {"model": "main", "shadow": "again", "share": 1}
            assert (await http.put("/admin/shadow", json=plan, headers=admin)).status_code == 200
            last = await http.post("/segment", content=image)
            report: dict[str, Any] = {"difference": None}
            async with asyncio.timeout(PATIENCE_S):
                while report["difference"] is None:
                    report = (await http.get("/admin/shadow", headers=admin)).json()["shadow"]
        live.signal()
        assert live.wait() == 0
    old, new = added.json()["model"]["artifact"].replace("again@", "main@"), replaced.json()["model"]["artifact"]
    assert (replaced.json()["done"], added.json()["done"]) == ("replaced", "added")
    assert new == f"{old}.2"
    assert {answer.status_code for answer in answers} == {200}
    artifacts = [answer.headers["x-artifact"] for answer in answers] + [message.artifact for message in messages]
    assert set(artifacts) <= {old, new}
    assert last.headers["x-artifact"] == new
    assert {answer.content for answer in (*answers, last)} == {answers[0].content}, "one network, whoever ran it"
    assert report["samples"]["compared"] == 1
    assert report["difference"]["largest"] < 1e-6
