"""The hostile corpus over both transports: no 5xx, no hang, and every refusal a problem with a stable code."""

import grpc
import pytest

from server.api.status import STATUSES
from server.errors import RequestError
from tests.support.clients import RunningServer, marked_png, running_server, trailing
from tests.support.hostile import corpus

CODES = {error.code for error in STATUSES if issubclass(error, RequestError)}
STEP = 3  # the decoder has seen all of them in `tests/unit/pipeline/test_hostile.py`


async def call(server: RunningServer, data: bytes) -> tuple[grpc.StatusCode, str]:
    """Status and public code that an upload gets over gRPC."""
    try:
        await server.call(data)
    except grpc.aio.AioRpcError as error:
        return error.code(), trailing(error)["x-error-code"]
    return grpc.StatusCode.OK, ""


@pytest.mark.filterwarnings("ignore")
async def test_hostile_uploads_are_answered_alike_over_both_transports():
    sample = list(corpus().items())[::STEP]
    async with running_server() as server:
        for name, data in sample:
            response = await server.post(data)
            status, code = await call(server, data)
            if response.status_code == 200:
                assert status is grpc.StatusCode.OK, name
                continue
            assert (status, code) == (grpc.StatusCode.INVALID_ARGUMENT, response.json()["code"]), name
            assert code in CODES, name
            assert 400 <= response.status_code < 500, name
            assert response.headers["content-type"] == "application/problem+json", name
        assert server.process.parts.admission.inside == 0
        assert server.process.parts.uploads.number == 0
        assert (await server.post(marked_png(7))).status_code == 200
