"""The FastAPI application: its routes, and the layers around them."""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from server.api.rest import schemas
from server.api.rest.admin import add_admin
from server.api.rest.boundary import SEGMENT_PATH, RequestBoundary
from server.api.rest.gatekeeper import Gatekeeper
from server.api.rest.inference import add_inference
from server.api.rest.problems import install_problem_handlers
from server.api.rest.segment import segment
from server.api.service import Service
from server.errors import DeviceLostError, NotReadyError
from server.observability.metrics import package_version

_DESCRIPTION = "Removes image backgrounds with BiRefNet: an image in, an alpha matte, a cutout or a composite out."

_PAGE_POLICY = (
    "default-src 'none'; img-src blob:; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


_EXPOSED = (
    "X-Request-Id",
    "Server-Timing",
    "X-Model",
    "X-Artifact",
    "X-Batch-Size",
    "Retry-After",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
)
"""What pages of other origins may read of an answer's headers."""


def create_app(service: Service, cors_origins: Sequence[str] = ()) -> ASGIApp:
    """The whole REST interface as one ASGI application.

    Args:
        service: What stands behind it.
        cors_origins: Of pages that may call it; `*` is every page. Without any, no page of another origin may.
    """
    app = FastAPI(title="BiRefNet server", description=_DESCRIPTION, version=package_version(), redoc_url=None)
    install_problem_handlers(app)
    _add_segment(app, service)
    _add_probes(app, service)
    _add_descriptions(app, service)
    _add_page(app)
    add_inference(app, service)
    if service.admin is not None:
        add_admin(app, service.admin)
    if service.gate.keys is not None or service.admin is not None:
        schemas.describe_keys(app.openapi(), everywhere=service.gate.keys is not None)
    layered: ASGIApp = Gatekeeper(app, service.gate)
    if cors_origins:
        # Outside of the gatekeeper: a preflight has no key, and a page should be able to read why it was refused.
        layered = CORSMiddleware(
            layered,
            allow_origins=cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type", "X-Api-Key", "X-Request-Id"),
            expose_headers=_EXPOSED,
        )
    return RequestBoundary(layered, service)


def _add_segment(app: FastAPI, service: Service) -> None:
    @app.post(
        SEGMENT_PATH,
        summary="Separate the subject of an image from its background",
        response_class=Response,
        responses=schemas.segment_responses(),
        openapi_extra={"parameters": schemas.option_parameters(), "requestBody": schemas.segment_body()},
    )
    async def post_segment(request: Request) -> Response:
        return await segment(request, service)


def _add_probes(app: FastAPI, service: Service) -> None:
    @app.get(
        "/livez",
        summary="Whether this process can still serve; false when only a new one helps",
        response_class=PlainTextResponse,
        responses=schemas.probe_problem("The device is lost."),
    )
    async def livez() -> PlainTextResponse:
        if not service.live():
            raise DeviceLostError(service.unready_reason() or "the device is lost")
        return PlainTextResponse("live\n")

    @app.get(
        "/readyz",
        summary="Whether requests are taken: models are warm, and the process is not about to exit",
        response_class=PlainTextResponse,
        responses=schemas.probe_problem("The reason why not."),
    )
    async def readyz() -> PlainTextResponse:
        if (reason := service.unready_reason()) is not None:
            raise NotReadyError(reason)
        return PlainTextResponse("ready\n")

    @app.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        body, content_type = await service.metrics.page()
        return Response(body, headers={"Content-Type": content_type})


def _add_descriptions(app: FastAPI, service: Service) -> None:
    @app.get("/models", summary="The models that are served, the default one first")
    async def models() -> dict[str, Any]:
        return {"models": [dict(model) for model in service.models()]}

    @app.get("/version", summary="What this server is")
    async def version() -> dict[str, str]:
        return {"name": "birefnet-server", "version": package_version(), "python": platform.python_version()}


def _add_page(app: FastAPI) -> None:
    """For people who open the address in a browser. Everything is in the one file: no network beyond this server."""
    page = (Path(__file__).parent / "index.html").read_bytes()

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": _PAGE_POLICY})
