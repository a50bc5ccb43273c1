"""Our transcription of the CSI contract against the specification's own file, name by name."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

from csi_s3 import csi_pb2
from tests.binaries import CSI_SPEC, module_dir

OURS = Path(__file__).parents[2] / "proto"
Facts = dict[str, object]


def compiled(directory: Path, out: Path) -> FileDescriptorProto:
    """Compile csi.proto in a process of its own: two files of package csi.v1 clash in one pool."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{directory}",
            f"--descriptor_set_out={out}",
            "csi.proto",
        ],
        check=True,
        timeout=60,
    )
    (file,) = FileDescriptorSet.FromString(out.read_bytes()).file
    return file


def field_facts(prefix: str, field: FieldDescriptorProto, oneof: str = "") -> Iterator[tuple]:
    yield (
        f"{prefix}.{field.name}",
        {
            "number": field.number,
            "type": FieldDescriptorProto.Type.Name(field.type),
            "of": field.type_name,
            "label": FieldDescriptorProto.Label.Name(field.label),
            "oneof": oneof,
            "extends": field.extendee,
            "json": field.json_name,
            "options": field.options.SerializeToString(deterministic=True),
        },
    )


def enum_facts(prefix: str, enum: EnumDescriptorProto) -> Iterator[tuple]:
    name = f"{prefix}.{enum.name}"
    yield name, {"options": enum.options.SerializeToString(deterministic=True)}
    for value in enum.value:
        options = value.options.SerializeToString(deterministic=True)
        yield f"{name}.{value.name}", {"number": value.number, "options": options}


def message_facts(prefix: str, message: DescriptorProto) -> Iterator[tuple]:
    name = f"{prefix}.{message.name}"
    yield name, {"options": message.options.SerializeToString(deterministic=True)}
    for field in message.field:
        oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
        yield from field_facts(name, field, oneof)
    for nested in message.nested_type:
        yield from message_facts(name, nested)
    for enum in message.enum_type:
        yield from enum_facts(name, enum)


def facts(file: FileDescriptorProto) -> dict[str, Facts]:
    """Everything of the contract by full name; the order of declarations is no part of it."""
    found: list[tuple] = []
    for message in file.message_type:
        found += message_facts(file.package, message)
    for enum in file.enum_type:
        found += enum_facts(file.package, enum)
    for extension in file.extension:
        found += field_facts(f"{file.package}.[{extension.extendee}]", extension)
    for service in file.service:
        name = f"{file.package}.{service.name}"
        found.append((name, {"options": service.options.SerializeToString(deterministic=True)}))
        for method in service.method:
            found.append(
                (
                    f"{name}.{method.name}",
                    {
                        "takes": method.input_type,
                        "returns": method.output_type,
                        "streams": (method.client_streaming, method.server_streaming),
                        "options": method.options.SerializeToString(deterministic=True),
                    },
                )
            )
    names = [name for name, _ in found]
    assert len(names) == len(set(names))
    return dict(found)


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> dict[str, Facts]:
    return facts(compiled(OURS, tmp_path_factory.mktemp("ours") / "set"))


@pytest.mark.timeout(400)
def test_our_transcription_equals_the_specification(ours, tmp_path):
    theirs = facts(compiled(module_dir(*CSI_SPEC), tmp_path / "set"))
    assert sorted(theirs) == sorted(ours)
    assert {n: f for n, f in theirs.items() if ours[n] != f} == {}


def test_the_whole_contract_is_compared(ours):
    """Guards the comparison itself: the numbers are those of v1.11.0, options are seen."""
    assert sum(1 for f in ours.values() if "takes" in f) == 31
    assert sum(1 for f in ours.values() if "label" in f and not f["extends"]) > 180
    assert ours["csi.v1.NodePublishVolumeRequest.secrets"]["options"]
    assert ours["csi.v1.VolumeCapability.mount"]["oneof"] == "access_type"
    assert ours["csi.v1.SnapshotMetadata.GetMetadataDelta"]["streams"] == (False, True)


def test_the_generated_module_is_made_from_our_transcription(ours):
    file = FileDescriptorProto()
    csi_pb2.DESCRIPTOR.CopyToProto(file)
    built = facts(file)
    # protoc leaves json_name out of a module; the runtime derives it.
    for fact in (*built.values(), *ours.values()):
        fact.pop("json", None)
    assert built == ours
