"""`/v2`: the Open Inference Protocol over HTTP, for KServe and for Triton's clients. `server.api.oip` has its forms."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api import oip
from server.api.oip_answers import write_inference
from server.api.oip_models import SERVER_NAME, describe_model, find_version
from server.api.rest import schemas
from server.api.rest.disconnect import run_while_connected
from server.api.rest.limits import Receive, read_chunks
from server.api.rest.problems import answer_server_error
from server.api.rest.segment import Answer, read_arriving
from server.api.service import Service
from server.errors import MalformedRequestError, NotReadyError, ServerError
from server.observability.logs import request_id
from server.observability.metrics import package_version
from server.pipeline.options import parse_options
from server.pipeline.request import SegmentRequest

_JSON_BYTES = 64 * 1024  # beside a tensor
_PASSED_ON = ("Retry-After", "Connection")  # of a problem document's headers


class _Route(APIRoute):
    """Answers errors in the form of the protocol, with the status that every other interface gives them."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except ServerError as error:
                problem = answer_server_error(request, error)
                headers = {name: problem.headers[name] for name in _PASSED_ON if name in problem.headers}
                found = json.loads(bytes(problem.body))
                body = {"error": found["detail"], "code": found["code"]}
                return JSONResponse(body, problem.status_code, headers=headers)

        return answer


def add_inference(app: FastAPI, service: Service) -> None:
    """Add the routes to an application."""
    router = APIRouter(prefix=schemas.INFERENCE_PREFIX, route_class=_Route, tags=["open inference protocol"])
    _add_descriptions(router, service)

    @router.post(
        "/models/{name:path}/infer",
        summary="Separate the subject of an image from its background; see docs/inference-protocol.md",
        response_class=Response,
        responses=schemas.inference_problems(),
        openapi_extra=schemas.inference_body(),
    )
    async def infer(name: str, request: Request) -> Response:
        return await _infer(name, request, service)

    app.include_router(router)


def _add_descriptions(router: APIRouter, service: Service) -> None:
    @router.get("", summary="What this server is")
    async def server() -> dict[str, Any]:
        return {"name": SERVER_NAME, "version": package_version(), "extensions": ["binary_tensor_data"]}

    @router.get("/health/live", summary="As /livez", responses=schemas.inference_problems())
    async def live() -> JSONResponse:
        return JSONResponse({"live": service.live()}, 200 if service.live() else 503)

    @router.get("/health/ready", summary="As /readyz", responses=schemas.inference_problems())
    async def ready() -> JSONResponse:
        reason = service.unready_reason()
        found = {"ready": True} if reason is None else {"ready": False, "reason": reason}
        return JSONResponse(found, 200 if reason is None else 503)

    @router.get(
        "/models/{name:path}/ready", summary="Whether a model is served", responses=schemas.inference_problems()
    )
    async def model_ready(name: str) -> dict[str, Any]:
        find_version(service, name)
        if (reason := service.unready_reason()) is not None:
            raise NotReadyError(reason)
        return {"name": name, "ready": True}

    @router.get("/models/{name:path}", summary="What a model takes and gives", responses=schemas.inference_problems())
    async def model(name: str) -> dict[str, Any]:
        return describe_model(service, name)


async def _infer(name: str, request: Request, service: Service) -> Response:
    headers = {key.lower(): value for key, value in request.headers.items()}
    header_bytes = _header_bytes(headers.get(oip.HEADER_LENGTH.lower()))
    most = service.limits.max_upload_bytes + _JSON_BYTES

    async def read(receive: Receive) -> tuple[bytes, dict[str, str], oip.Reply]:
        body = b"".join([chunk async for chunk in read_chunks(receive, headers, most)])
        return await asyncio.to_thread(oip.read_inference, body, header_bytes)

    image, given, reply = await read_arriving(request, service, most, read)
    options = parse_options({**given, "model": name}, max_timeout_s=service.limits.max_timeout_s)
    account = getattr(request.state, "account", None)
    work = service.pipeline.segment(SegmentRequest(image, options, request_id.get(), account))
    del image  # the pipeline frees the upload as soon as it is decoded
    result = await run_while_connected(request.receive, work)
    answer, header_length = await asyncio.to_thread(write_inference, reply, result)
    sent = {"X-Artifact": result.artifact, "X-Batch-Size": str(result.batch_size)}
    if header_length is not None:
        sent[oip.HEADER_LENGTH] = str(header_length)
    media_type = "application/json" if header_length is None else "application/octet-stream"
    return Answer(answer, media_type, sent, service.hold)


def _header_bytes(text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise MalformedRequestError(f"{oip.HEADER_LENGTH}: expected a number of bytes, found {text[:60]!r}")
    return int(text)
