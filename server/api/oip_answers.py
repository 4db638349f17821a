"""The Open Inference Protocol, version 2: a result to the bytes of an answer, for `server.api.oip`."""

import base64
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from server.api.oip import Reply, element
from server.errors import InvalidOptionError
from server.pipeline.request import SegmentResult

MAX_VALUES = 1 << 16  # numbers of an answer in JSON


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of an answer; `raw` is its elements, little-endian, those of BYTES behind their lengths."""

    datatype: str
    shape: list[int]
    parameters: dict[str, str]
    raw: bytes


def write_inference(reply: Reply, result: SegmentResult) -> tuple[bytes, int | None]:
    """The body of the answer, and how much of it is JSON where there is more.

    Raises:
        InvalidOptionError: It has too many numbers for JSON.
    """
    tensor = output_tensor(reply.output, result)
    output: dict[str, Any] = {"name": reply.output, "datatype": tensor.datatype, "shape": tensor.shape}
    if reply.binary:
        output["parameters"] = {**tensor.parameters, "binary_data_size": len(tensor.raw)}
    elif reply.output == "image":
        output |= {"parameters": tensor.parameters, "data": [base64.b64encode(result.body).decode()]}
    else:
        alpha = np.frombuffer(tensor.raw, "<f4")
        if alpha.size > MAX_VALUES:
            raise InvalidOptionError(
                f"alpha: expected at most {MAX_VALUES} numbers in JSON, found {alpha.size}; ask for it with "
                "binary_data, or for the output `image`"
            )
        output |= {"parameters": tensor.parameters, "data": alpha.tolist()}
    named = {"id": reply.request_id} if reply.request_id else {}
    document = {"model_name": result.model, "model_version": result.artifact, **named, "outputs": [output]}
    text = json.dumps(document).encode()
    return (text + tensor.raw, len(text)) if reply.binary else (text, None)


def output_tensor(name: str, result: SegmentResult) -> Tensor:
    """What is answered, `alpha` or `image`, as a tensor."""
    if name == "image":
        return Tensor("BYTES", [1], {"content_type": result.media_type}, element(result.body))
    alpha = np.load(io.BytesIO(result.body), allow_pickle=False).astype("<f4", copy=False)
    return Tensor("FP32", [1, *alpha.shape], {}, alpha.tobytes())
