"""The committed generated code says what the .proto says."""

from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

from protos.inference.v2 import inference_pb2, inference_pb2_grpc
from protos.matting.v1 import matting_pb2, matting_pb2_grpc
from server.engine.batching import Priority
from server.pipeline.options import OPTIONS
from server.pipeline.request import Crop, Output, OutputFormat, Refine

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("generated", [matting_pb2, inference_pb2])
def test_the_generated_copy_is_in_step(generated, tmp_path: Path):
    """Descriptors, not text: so the generator's version does not matter."""
    target = tmp_path / "set.bin"
    arguments = ["protoc", f"-I{ROOT}", f"--descriptor_set_out={target}", str(ROOT / generated.DESCRIPTOR.name)]
    assert protoc.main(arguments) == 0
    (fresh,) = FileDescriptorSet.FromString(target.read_bytes()).file
    committed = FileDescriptorProto()
    generated.DESCRIPTOR.CopyToProto(committed)
    assert _without_json_names(fresh) == _without_json_names(committed)


def test_the_service_has_its_calls():
    service = matting_pb2.DESCRIPTOR.services_by_name["Matting"]
    assert {method.name for method in service.methods} == {"Segment", "SegmentStream"}
    assert all(hasattr(matting_pb2_grpc.MattingServicer, method.name) for method in service.methods)


def test_the_open_inference_protocol_has_the_names_and_numbers_that_its_clients_know():
    """From its specification; a client has a copy of its own, and none of ours."""
    service = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert service.full_name == "inference.GRPCInferenceService"
    calls = ["ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"]
    assert [method.name for method in service.methods] == calls
    assert all(hasattr(inference_pb2_grpc.GRPCInferenceServiceServicer, name) for name in calls)
    request = {field.name: field.number for field in inference_pb2.ModelInferRequest.DESCRIPTOR.fields}
    names = ["model_name", "model_version", "id", "parameters", "inputs", "outputs", "raw_input_contents"]
    assert request == {name: number for number, name in enumerate(names, 1)}
    answer = {field.name: field.number for field in inference_pb2.ModelInferResponse.DESCRIPTOR.fields}
    names = ["model_name", "model_version", "id", "parameters", "outputs", "raw_output_contents"]
    assert answer == {name: number for number, name in enumerate(names, 1)}
    tensor = {field.name: field.number for field in inference_pb2.ModelInferRequest.InferInputTensor.DESCRIPTOR.fields}
    assert tensor == {"name": 1, "datatype": 2, "shape": 3, "parameters": 4, "contents": 5}
    assert inference_pb2.InferTensorContents.DESCRIPTOR.fields_by_name["bytes_contents"].number == 8


def test_the_wire_offers_exactly_what_the_pipeline_knows():
    assert set(matting_pb2.SegmentOptions.DESCRIPTOR.fields_by_name) == set(OPTIONS)
    for enum, names in (
        (matting_pb2.Output, [output.name for output in Output]),
        (matting_pb2.Format, [file_format.name for file_format in OutputFormat]),
        (matting_pb2.Refine, [refine.name for refine in Refine]),
        (matting_pb2.Crop, [crop.name for crop in Crop]),
        (matting_pb2.Priority, [priority.name for priority in Priority]),
    ):
        prefix = enum.DESCRIPTOR.name.upper()
        assert set(enum.keys()) == {f"{prefix}_UNSPECIFIED", *(f"{prefix}_{name}" for name in names)}


def _without_json_names(file: FileDescriptorProto) -> FileDescriptorProto:
    messages = list(file.message_type)
    while messages:
        message = messages.pop()
        messages += message.nested_type
        for field in message.field:
            field.ClearField("json_name")
    return file
