"""The committed generated code says what the .proto says."""

from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

from protos.matting.v1 import matting_pb2, matting_pb2_grpc
from server.engine.batching import Priority
from server.pipeline.options import OPTIONS
from server.pipeline.request import Crop, Output, OutputFormat, Refine

ROOT = Path(__file__).parents[3]
SOURCE = "protos/matting/v1/matting.proto"


def test_the_generated_copy_is_in_step(tmp_path: Path):
    """Descriptors, not text: so the generator's version does not matter."""
    target = tmp_path / "set.bin"
    arguments = ["protoc", f"-I{ROOT}", f"--descriptor_set_out={target}", str(ROOT / SOURCE)]
    assert protoc.main(arguments) == 0
    (fresh,) = FileDescriptorSet.FromString(target.read_bytes()).file
    committed = FileDescriptorProto()
    matting_pb2.DESCRIPTOR.CopyToProto(committed)
    assert _without_json_names(fresh) == _without_json_names(committed)


def test_the_service_has_its_calls():
    service = matting_pb2.DESCRIPTOR.services_by_name["Matting"]
    assert {method.name for method in service.methods} == {"Segment", "SegmentStream"}
    assert all(hasattr(matting_pb2_grpc.MattingServicer, method.name) for method in service.methods)


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
    for message in file.message_type:
        for field in message.field:
            field.ClearField("json_name")
    return file
