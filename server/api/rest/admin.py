"""`/admin`: models come, go and are compared while the server runs. There is none without keys of administrators.

What may be done, and what it means, is in `server.pipeline.roster` and `server.pipeline.shadow`; here it is read and
answered. Every body is JSON, every error a problem document.
"""

from typing import Any, TypeVar

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse

from server.api.rest import schemas
from server.api.rest.limits import read_chunks
from server.api.service import Admin
from server.engine.quotas import ModelLimits
from server.errors import InvalidOptionError
from server.pipeline.study import ShadowPlan

_MAX_BODY_BYTES = 64 * 1024

B = TypeVar("B", bound=BaseModel)


class _Body(BaseModel):
    # Strict: "5" for 5 is a mistake of the caller's, and should be told.
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class LimitsBody(_Body):
    """Limits of one model; what is absent or null has none beside the server's."""

    max_requests: int | None = Field(None, gt=0, description="Requests for it inside at once.")
    max_megapixels: float | None = Field(None, gt=0, description="Megapixels of their images together.")
    max_batch: int | None = Field(None, gt=0, description="Largest batch on the device.")
    timeout_s: float | None = Field(None, gt=0, description="Longest time of a request for it, whatever it asks for.")
    share: float | None = Field(None, gt=0, le=1, description="Of the server's requests, megapixels and memory.")


class ModelBody(_Body):
    """An artifact that is to be served."""

    directory: str = Field(min_length=1, max_length=1000, description="Of the artifact, relative to models_dir.")
    limits: LimitsBody | None = Field(None, description="Without them those of the name stay as they are.")


class DefaultBody(_Body):
    """The model of requests that name none."""

    model: str


class ShadowBody(_Body):
    """Two models that are to be compared."""

    model: str = Field(description="Whose requests are answered again.")
    shadow: str = Field(description="Which model answers them again.")
    share: float = Field(ge=0, le=1, description="Of the requests for `model`.")
    threshold: float = Field(0.01, ge=0, le=1, description="Mean difference above which an image counts as different.")


def add_admin(app: FastAPI, admin: Admin) -> None:
    """Add the routes to an application."""
    _add_models(app, admin)
    _add_shadow(app, admin)


def _add_models(app: FastAPI, admin: Admin) -> None:
    @app.get(f"{schemas.ADMIN_PREFIX}models", summary="The models: loading, warm, draining or failed", tags=["admin"])
    async def list_models() -> dict[str, Any]:
        return {"models": await admin.models()}

    @app.put(
        schemas.ADMIN_PREFIX + "models/{name:path}",
        summary="Add a model, or exchange the one of that name; answers when it is served",
        tags=["admin"],
        responses=schemas.admin_problems(),
        openapi_extra=_body_schema(ModelBody),
    )
    async def put_model(name: str, request: Request) -> JSONResponse:
        body = await _read(request, ModelBody)
        limits = ModelLimits(**body.limits.model_dump()) if body.limits is not None else None
        found = await admin.put_model(name, body.directory, limits)
        return JSONResponse(dict(found), 201 if found["done"] == "added" else 200)

    @app.delete(
        schemas.ADMIN_PREFIX + "models/{name:path}",
        summary="Serve a model no more; what was let in for it is answered",
        tags=["admin"],
        responses=schemas.admin_problems(),
    )
    async def delete_model(name: str) -> dict[str, Any]:
        return {"done": "removed", "model": dict(await admin.remove_model(name))}

    @app.put(
        f"{schemas.ADMIN_PREFIX}default",
        summary="Choose the model of requests that name none",
        tags=["admin"],
        responses=schemas.admin_problems(),
        openapi_extra=_body_schema(DefaultBody),
    )
    async def put_default(request: Request) -> dict[str, Any]:
        body = await _read(request, DefaultBody)
        await admin.make_default(body.model)
        return {"default": body.model}


def _add_shadow(app: FastAPI, admin: Admin) -> None:
    path = f"{schemas.ADMIN_PREFIX}shadow"

    @app.get(path, summary="How far two models are apart, on the requests that came", tags=["admin"])
    async def get_shadow() -> dict[str, Any]:
        return {"shadow": await admin.shadow_report()}

    @app.put(
        path,
        summary="Compare two models from now on, with figures from zero",
        tags=["admin"],
        responses=schemas.admin_problems(),
        openapi_extra=_body_schema(ShadowBody),
    )
    async def put_shadow(request: Request) -> dict[str, Any]:
        body = await _read(request, ShadowBody)
        await admin.begin_shadow(ShadowPlan(**body.model_dump()))
        return {"shadow": await admin.shadow_report()}

    @app.delete(path, summary="Compare no more", tags=["admin"])
    async def delete_shadow() -> dict[str, Any]:
        await admin.begin_shadow(None)
        return {"shadow": None}


async def _read(request: Request, kind: type[B]) -> B:
    headers = {name.lower(): value for name, value in request.headers.items()}
    chunks = [chunk async for chunk in read_chunks(request.receive, headers, _MAX_BODY_BYTES)]
    try:
        return kind.model_validate_json(b"".join(chunks))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, problem["loc"])) or "body"
        raise InvalidOptionError(f"{where}: {problem['msg']}") from None


def _body_schema(kind: type[BaseModel]) -> dict[str, Any]:
    schema = kind.model_json_schema()
    # OpenAPI looks definitions up elsewhere: the one that there is goes where it is used.
    for name, definition in schema.pop("$defs", {}).items():
        reference = {"$ref": f"#/$defs/{name}"}
        for field in schema["properties"].values():
            field["anyOf"] = [definition if option == reference else option for option in field.get("anyOf", [])]
            if not field["anyOf"]:
                del field["anyOf"]
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
