"""`inference.GRPCInferenceService`: the Open Inference Protocol over gRPC. `server.api.oip` has its forms."""

import asyncio
from collections.abc import Mapping, Sized
from typing import Any, TypeAlias, cast

import grpc

from protos.inference.v2 import inference_pb2 as pb
from protos.inference.v2 import inference_pb2_grpc
from server.api import oip
from server.api.oip_answers import output_tensor
from server.api.oip_models import SERVER_NAME, describe_model, find_version
from server.api.rpc.boundary import abort, account
from server.api.rpc.messages import cut_to_deadline
from server.api.service import Service, choose_request_id
from server.errors import BodyTooLargeError, MalformedRequestError, UnknownModelError
from server.observability.logs import request_id
from server.observability.metrics import package_version
from server.pipeline.options import parse_options
from server.pipeline.request import SegmentRequest, SegmentResult

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class InferenceServicer(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers the calls of the protocol; `ModelInfer` passes the boundary of `Segment`, the others ask for little."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:  # noqa: N802
        """Whether this process is of use."""
        return pb.ServerLiveResponse(live=self._service.live())

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:  # noqa: N802
        """Whether requests are taken."""
        return pb.ServerReadyResponse(ready=self._service.unready_reason() is None)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:  # noqa: N802
        """Whether a model is served and requests are taken."""
        try:
            _find(self._service, request.name, request.version)
        except UnknownModelError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._service.unready_reason() is None)

    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """What this server is."""
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=package_version())

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """What a model takes and gives; one that is not served is NOT_FOUND."""
        try:
            _find(self._service, request.name, request.version)
        except UnknownModelError as error:
            await abort(self._service, context, error, choose_request_id(None))
        return pb.ModelMetadataResponse(**describe_model(self._service, request.name))

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:  # noqa: N802
        """Answer one image; cancelling the call cancels this task, and with it the work."""
        limits = self._service.limits
        _find(self._service, request.model_name, request.model_version)
        image, given, reply = await asyncio.to_thread(read_message, request, limits.max_upload_bytes)
        options = parse_options({**given, "model": request.model_name}, max_timeout_s=limits.max_timeout_s)
        asked = SegmentRequest(image, options, request_id.get(), account.get())
        del image, request  # the pipeline frees the upload as soon as it is decoded
        # The stubs deny it, but a call without a deadline has no remaining time.
        remaining_s = cast("float | None", context.time_remaining())
        work = self._service.pipeline.segment(cut_to_deadline(asked, remaining_s))
        del asked
        return await asyncio.to_thread(write_message, reply, await work)


def read_message(message: pb.ModelInferRequest, max_bytes: int) -> tuple[bytes, dict[str, str], oip.Reply]:
    """Read an inference request: its image, encoded, and its options as text, by the names of `/segment`.

    Args:
        message: As it came.
        max_bytes: Of an encoded image.

    Raises:
        MalformedRequestError: It is no such request, or not one of one image.
        InvalidOptionError: A parameter is none of ours, or contradicts another.
        BodyTooLargeError: The image has more bytes than the limit.
    """
    _check_members(message.inputs, message.outputs)
    raw: list[bytes] = []
    inputs = [_input(tensor) for tensor in message.inputs]
    if len(inputs) == 1:
        behind, elements = message.raw_input_contents, message.inputs[0].contents.bytes_contents
        if len(behind) == 1 and not elements:
            raw = [behind[0]]
        elif not behind and len(elements) == 1:
            raw = [oip.element(elements[0])]
        else:
            raise MalformedRequestError(
                "image: expected one tensor in raw_input_contents, or bytes_contents of one element"
            )
        inputs[0]["parameters"]["binary_data_size"] = len(raw[0])
    document = {
        "id": message.id,
        "parameters": _values(message.parameters),
        "inputs": inputs,
        "outputs": [{"name": output.name, "parameters": _values(output.parameters)} for output in message.outputs],
    }
    image, options, reply = oip.read_document(document, memoryview(raw[0] if raw else b""))
    if inputs[0]["datatype"] == "BYTES" and len(image) > max_bytes:
        raise BodyTooLargeError(f"expected at most {max_bytes} bytes, found {len(image)}")
    return image, options, reply


def write_message(reply: oip.Reply, result: SegmentResult) -> pb.ModelInferResponse:
    """The message of an answer, its tensor in `raw_output_contents`."""
    tensor = output_tensor(reply.output, result)
    parameters = {name: pb.InferParameter(string_param=value) for name, value in tensor.parameters.items()}
    output = pb.ModelInferResponse.InferOutputTensor(
        name=reply.output, datatype=tensor.datatype, shape=tensor.shape, parameters=parameters
    )
    return pb.ModelInferResponse(
        model_name=result.model,
        model_version=result.artifact,
        id=reply.request_id,
        outputs=[output],
        raw_output_contents=[tensor.raw],
    )


def _check_members(*members: Sized) -> None:
    """Refuse what only a hostile client sends, before there is an object of each."""
    if (found := max(map(len, members))) > oip.MAX_MEMBERS:
        raise MalformedRequestError(f"expected at most {oip.MAX_MEMBERS} members, found {found}")


def _input(tensor: pb.ModelInferRequest.InferInputTensor) -> dict[str, Any]:
    _check_members(tensor.shape)
    parameters = _values(tensor.parameters)
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape), "parameters": parameters}


def _values(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    _check_members(parameters)
    chosen = {name: parameter.WhichOneof("parameter_choice") for name, parameter in parameters.items()}
    if empty := sorted(name for name, choice in chosen.items() if choice is None):
        raise MalformedRequestError(f"parameters: expected a value of {empty[0][:60]!r}, found none")
    return {name: getattr(parameters[name], str(choice)) for name, choice in chosen.items()}


def _find(service: Service, name: str, version: str) -> None:
    """Insist on a model, and on the one version that it has, if one is asked for.

    Raises:
        UnknownModelError: It is not served, or not in this version.
    """
    found = find_version(service, name)
    if version not in ("", found):
        raise UnknownModelError(f"expected version {found!r} of {name[:200]!r}, found {version[:60]!r}")
