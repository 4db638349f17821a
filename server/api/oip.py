"""The Open Inference Protocol, version 2: its bytes to one image and its options; `oip_answers` has the way back.

A model takes `image`: a file as BYTES or, behind the JSON, its pixels as UINT8, (H, W, 3) RGB. It gives `alpha`, the
matte at image size as FP32 in [0, 1], or `image`, the file that `/segment` would answer with, as BYTES. Options of
`/segment` are parameters of the request. Tensors stand in the JSON, BYTES in base64, or behind it (binary extension).

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md; the extension is Triton's.
"""

import base64
import binascii
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.errors import InvalidOptionError, MalformedRequestError
from server.pipeline.raw import raw_image

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Header that says how much of a body is JSON; what follows is tensors."""

MAX_JSON_BYTES = 16 << 20  # of a request: it is parsed at once, and the interpreter does nothing else meanwhile
MAX_MEMBERS = 1000  # of the JSON of a request, which has a dozen
_PRIORITIES = {"1": "high", "2": "normal", "3": "low"}  # Triton's clients number them, 1 is the highest
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Reply:
    """How an answer is to be written: with the client's id, `alpha` or `image`, in the JSON or behind it."""

    request_id: str
    output: str
    binary: bool


def element(data: bytes) -> bytes:
    """A tensor of BYTES of one element."""
    return _LENGTH.pack(len(data)) + data


def read_inference(body: bytes, header_bytes: int | None) -> tuple[bytes, dict[str, str], Reply]:
    """Read the body of an inference request: its image, encoded, and its options as text, by the names of `/segment`.

    Args:
        body: All of it.
        header_bytes: How much of it is JSON; None is all.

    Raises:
        MalformedRequestError: It is no such request, or not one of one image.
        InvalidOptionError: A parameter is none of ours, or contradicts another.
    """
    length = len(body) if header_bytes is None else header_bytes
    document = _parse(body[:length] if length <= len(body) else b"")
    return read_document(document, memoryview(body)[length:])


def read_document(document: Mapping[str, Any], behind: memoryview) -> tuple[bytes, dict[str, str], Reply]:
    """Read an inference request of which the JSON is parsed; `behind` is the tensor that stands behind it, if any.

    Raises:
        MalformedRequestError: It is no such request, or not one of one image.
        InvalidOptionError: A parameter is none of ours, or contradicts another.
    """
    inputs = _entries(document, "inputs")
    if len(inputs) != 1 or inputs[0].get("name") != "image":
        names = [entry.get("name") for entry in inputs]
        raise MalformedRequestError(f"inputs: expected one, `image` (batches are formed here), found {names!r:.200}")
    image = _image(inputs[0], behind)
    parameters = _parameters(document)
    reply = _reply(document, parameters)
    return image, _options(parameters, reply.output), reply


def _parse(text: bytes) -> dict[str, Any]:
    if len(text) > MAX_JSON_BYTES or text.count(b",") > MAX_MEMBERS:
        found = f"expected at most {MAX_JSON_BYTES} bytes of JSON, and no numbers in it"
        raise MalformedRequestError(f"{found}; found more: send the tensor behind the JSON, with {HEADER_LENGTH}")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedRequestError(f"expected a JSON object, found: {error!s:.200}") from None
    if not isinstance(document, dict):
        raise MalformedRequestError(f"expected a JSON object, found {type(document).__name__}")
    return document


def _entries(document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = document.get(name, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise MalformedRequestError(f"{name}: expected a list of objects")
    return found


def _parameters(of: Mapping[str, Any]) -> dict[str, Any]:
    found = of.get("parameters", {})
    if not isinstance(found, dict):
        raise MalformedRequestError("parameters: expected an object")
    return dict(found)


def _image(entry: Mapping[str, Any], behind: memoryview) -> bytes:
    """The image of an input, encoded."""
    datatype, shape = entry.get("datatype"), entry.get("shape")
    if not isinstance(shape, list) or not all(type(side) is int and side > 0 for side in shape):
        raise MalformedRequestError(f"image: expected a shape of positive numbers, found {shape!r:.200}")
    size = _parameters(entry).get("binary_data_size")
    if size is not None and (type(size) is not int or size != len(behind)):
        raise MalformedRequestError(f"image: expected binary_data_size of {len(behind)}, found {size!r:.60}")
    if size is None and behind:
        raise MalformedRequestError(
            f"image: expected nothing behind the JSON without binary_data_size, found {len(behind)}"
        )
    if datatype == "BYTES" and shape in ([1], [1, 1]):
        return _single(behind) if size is not None else _from_base64(entry.get("data"))
    if datatype == "UINT8" and size is not None and len(shape) in (3, 4) and shape[-1] == 3 and shape[:-3] in ([], [1]):
        if size != math.prod(shape):
            raise MalformedRequestError(f"image: expected {math.prod(shape)} bytes of pixels, found {size}")
        return raw_image(behind, shape[-3], shape[-2])
    raise MalformedRequestError(
        "image: expected BYTES [1], or UINT8 [height, width, 3] with binary_data_size, found "
        f"{datatype!r:.60} {shape!r:.200}"
    )


def _single(behind: memoryview) -> bytes:
    """The one element of a tensor of BYTES, behind its length."""
    if len(behind) < _LENGTH.size or _LENGTH.unpack_from(behind)[0] != len(behind) - _LENGTH.size:
        raise MalformedRequestError("image: expected one element, its length in four bytes before it")
    return bytes(behind[_LENGTH.size :])


def _from_base64(data: object) -> bytes:
    text = data
    while isinstance(text, list) and len(text) == 1:
        text = text[0]
    if not isinstance(text, str):
        raise MalformedRequestError("image: expected `data` of one string in base64, or binary_data_size")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedRequestError(f"image: expected base64, found: {error}") from None


def _reply(document: Mapping[str, Any], parameters: Mapping[str, Any]) -> Reply:
    outputs: Sequence[Mapping[str, Any]] = _entries(document, "outputs") or [{"name": "alpha"}]
    names = [entry.get("name") for entry in outputs]
    if names not in (["alpha"], ["image"]):
        raise MalformedRequestError(f"outputs: expected one, `alpha` or `image`, found {names!r:.200}")
    binary = _parameters(outputs[0]).get("binary_data", parameters.get("binary_data_output", False))
    request_id = document.get("id", "")
    if not isinstance(request_id, str):
        raise MalformedRequestError("id: expected text")
    return Reply(request_id, str(names[0]), binary is True)


def _options(parameters: Mapping[str, Any], output: str) -> dict[str, str]:
    options = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in parameters.items()
        if name != "binary_data_output"
    }
    if "model" in options:
        raise InvalidOptionError("model: expected in the path, found among the parameters")
    if (microseconds := options.pop("timeout", None)) is not None:
        if not microseconds.isdecimal() or "timeout_ms" in options:
            raise InvalidOptionError("timeout: expected whole microseconds, and no timeout_ms beside it")
        options["timeout_ms"] = str(max(1, int(microseconds[:12]) // 1000))
    if (priority := options.get("priority")) is not None:
        options["priority"] = _PRIORITIES.get(priority, priority)
    if output == "alpha":
        if given := sorted({"output", "format", "depth"} & options.keys()):
            raise InvalidOptionError(f"{given[0]}: expected only with the output `image`, found with `alpha`")
        options |= {"output": "matte", "format": "npy"}
    return options
