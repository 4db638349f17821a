"""What OpenAPI says: parameters, bodies and answers, made from the values that the code itself checks."""

from collections.abc import Mapping
from typing import Any

from server.api.rest.multipart import IMAGE_FIELDS, URL_FIELD
from server.api.rest.problems import MEDIA_TYPE, problem_schema
from server.api.status import CLIENT_CLOSED_REQUEST, STATUSES
from server.engine.batching import Priority
from server.pipeline.encode import MEDIA_TYPES, ZIP_ALPHA, ZIP_COLOUR
from server.pipeline.options import OPTIONS
from server.pipeline.request import Crop, Foreground, Output, OutputFormat, Refine

ADMIN_PREFIX = "/admin/"
"""What begins with it is for administrators."""

INFERENCE_PREFIX = "/v2"
"""Of the Open Inference Protocol."""

_BINARY = {"type": "string", "format": "binary"}

_OPTION_SCHEMAS: dict[str, dict[str, Any]] = {
    "output": {
        "type": "string",
        "enum": [str(output) for output in Output],
        "default": "matte",
        "description": "What comes back: the alpha matte, the cutout (straight alpha), the cutout over a "
        "colour, or a trimap (0 background, 128 unknown, 255 foreground).",
    },
    "format": {
        "type": "string",
        "enum": [*(str(file_format) for file_format in OutputFormat), "jpg"],
        "description": "Encoding of the answer. Without it the Accept header decides, else PNG. A cutout cannot be "
        f"jpeg; nothing else can be zip, which holds `{ZIP_COLOUR}`, the colours, and `{ZIP_ALPHA}`, the grey alpha. "
        "npy is what numpy.load reads: a matte as float32 from 0 to 1, everything else as bytes.",
    },
    "depth": {
        "type": "integer",
        "enum": [8, 16],
        "default": 8,
        "description": "Bits of a matte's samples; 16 as png or tiff.",
    },
    "background": {
        "type": "string",
        "description": "Colour behind a composite: `white`, `#1e90ff`, `rgb(30,144,255)`, `30,144,255`.",
        "examples": ["#1e90ff"],
    },
    "foreground": {
        "type": "string",
        "enum": [str(foreground) for foreground in Foreground],
        "default": "estimate",
        "description": "Colours of a cutout or composite where it is not opaque: estimated ones, free of the old "
        "background, or the image's own.",
    },
    "refine": {
        "type": "string",
        "enum": [str(refine) for refine in Refine],
        "default": "auto",
        "description": "Whether the matte is made sharp at the image's own resolution. auto: from 2048 pixels on, if "
        "this server has a refiner that was shown not to harm. on: always; without a refiner, by the guided filter.",
    },
    "crop": {
        "type": "string",
        "enum": [str(crop) for crop in Crop],
        "default": "off",
        "description": "auto: where the subject is small, the network sees it again, larger.",
    },
    "model": {"type": "string", "description": "A name of `/models`. Without it, the default model."},
    "priority": {
        "type": "string",
        "enum": [priority.name.lower() for priority in Priority],
        "default": "normal",
        "description": "Which of the waiting requests goes first.",
    },
    "timeout_ms": {
        "type": "integer",
        "minimum": 1,
        "description": "After this many milliseconds the answer is worthless: the work is dropped, 504.",
    },
}


def option_parameters() -> list[dict[str, Any]]:
    """The options as query parameters."""
    return [{"name": name, "in": "query", "required": False, "schema": _OPTION_SCHEMAS[name]} for name in OPTIONS]


def segment_body() -> dict[str, Any]:
    """The forms in which an image may be sent."""
    options = {name: _OPTION_SCHEMAS[name] for name in OPTIONS}
    parts = {"image": {**_BINARY, "description": f"The file; also as {' or '.join(IMAGE_FIELDS[1:])}."}}
    base64_image = {"type": "string", "contentEncoding": "base64", "description": "The file; a data URL is fine too."}
    url = {"type": "string", "format": "uri", "description": "Where the file is, if this server fetches images."}
    return {
        "required": True,
        "description": "An image: as a form field, as the body itself, or in JSON. Its content tells its format. An "
        "option may be given once, in the query or in the body. A server that is set to fetch images takes the URL of "
        "one instead.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "oneOf": [{"required": ["image"]}, {"required": [URL_FIELD]}],
                    "properties": {**parts, URL_FIELD: url, **options},
                }
            },
            "application/x-www-form-urlencoded": {
                "schema": {"type": "object", "required": [URL_FIELD], "properties": {URL_FIELD: url, **options}}
            },
            "image/*": {"schema": _BINARY},
            "application/octet-stream": {"schema": _BINARY},
            "application/json": {
                "schema": {
                    "type": "object",
                    "oneOf": [{"required": ["image_base64"]}, {"required": [URL_FIELD]}],
                    "additionalProperties": False,
                    "properties": {"image_base64": base64_image, URL_FIELD: url, **options},
                }
            },
        },
    }


def segment_responses() -> dict[int | str, dict[str, Any]]:
    """The image, and every problem that the status table knows."""
    headers = {
        "X-Request-Id": "Id of this request in the server's log; the client's own if it sent a sane one.",
        "X-Model": "Name of the model that made the answer.",
        "X-Artifact": "Which artifact was served under that name then: name, `@`, and the beginning of its SHA-256.",
        "X-Batch-Size": "How many images shared the device with this one.",
        "Server-Timing": "Milliseconds in fetch (of a URL), decode, queue, infer, refine, finish, encode.",
        "X-Refine": "Stages and tiles that were refined, and stages that were not used; absent without refinement.",
        "X-RateLimit-Limit": "Megapixels per minute of this API key's account; absent without a limit.",
        "X-RateLimit-Remaining": "Megapixels that are left now.",
        "X-RateLimit-Reset": "Seconds until all of them are there again.",
    }
    answer = {
        "description": "The encoded answer, of the size of the upload after EXIF orientation.",
        "headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()},
        "content": {media_type: {"schema": _BINARY} for media_type in MEDIA_TYPES.values()},
    }
    return {200: answer, **_problems()}


def probe_problem(description: str) -> dict[int | str, dict[str, Any]]:
    """The 503 of a probe."""
    return {503: {"description": description, "content": {MEDIA_TYPE: {"schema": problem_schema()}}}}


def admin_problems() -> dict[int | str, dict[str, Any]]:
    """What is answered to administrators where it is no success."""
    texts = {
        401: "No key of an administrator.",
        404: "No model of that name is served.",
        409: "It does not go together with what is served, or the model is being changed.",
        422: "The body is not what it should be, or the artifact cannot be served: everything is as it was.",
        503: "The server is starting or about to exit.",
    }
    content = {MEDIA_TYPE: {"schema": problem_schema()}}
    return {status: {"description": text, "content": content} for status, text in texts.items()}


def inference_body() -> dict[str, Any]:
    """An inference request: JSON, with tensors in it or behind it."""
    text = {"type": "string"}
    options = {name: _OPTION_SCHEMAS[name] for name in OPTIONS if name != "model"}
    tensor = {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {**text, "enum": ["image"]},
            "datatype": {**text, "enum": ["BYTES", "UINT8"]},
            "shape": {"type": "array", "items": {"type": "integer"}},
            "data": {"type": "array", "items": text, "description": "The file in base64; not for UINT8."},
            "parameters": {"type": "object", "properties": {"binary_data_size": {"type": "integer"}}},
        },
    }
    wanted = {"type": "object", "required": ["name"], "properties": {"name": {**text, "enum": ["alpha", "image"]}}}
    schema = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": text,
            "parameters": {"type": "object", "properties": options},
            "inputs": {"type": "array", "items": tensor, "minItems": 1, "maxItems": 1},
            "outputs": {"type": "array", "items": wanted, "maxItems": 1},
        },
    }
    content = {"application/json": {"schema": schema}, "application/octet-stream": {"schema": _BINARY}}
    return {"requestBody": {"required": True, "content": content}}


def inference_problems() -> dict[int | str, dict[str, Any]]:
    """What `/v2` answers where it is no success, with the status of every other interface."""
    schema = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    return {
        status: {**problem, "content": {"application/json": {"schema": schema}}}
        for status, problem in _problems().items()
    }


def describe_keys(document: dict[str, Any], *, everywhere: bool) -> None:
    """Say in an OpenAPI document that a key is asked for; the page at `/docs` then lets one be entered.

    Args:
        document: To be changed.
        everywhere: Not by `/admin` alone.
    """
    document["components"] = document.get("components", {}) | {
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
        }
    }
    asked: list[dict[str, list[str]]] = [{"bearer": []}, {"key": []}]
    if everywhere:
        document["security"] = asked
    for path, operations in document["paths"].items():
        if path.startswith(ADMIN_PREFIX):
            for operation in operations.values():
                operation["security"] = asked


def _problems() -> Mapping[int | str, dict[str, Any]]:
    titles: dict[int, list[str]] = {}
    for error, status in STATUSES.items():
        if status.http != CLIENT_CLOSED_REQUEST:
            titles.setdefault(int(status.http), []).append(f"`{error.code}`: {error.title}.")
    retry = {
        "Retry-After": {"description": "Seconds until a retry is likely to succeed.", "schema": {"type": "integer"}}
    }
    return {
        status: {
            "description": " ".join(texts),
            "content": {MEDIA_TYPE: {"schema": problem_schema()}},
            **({"headers": retry} if status in (429, 503) else {}),
        }
        for status, texts in sorted(titles.items())
    }
