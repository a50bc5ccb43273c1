"""Our transcriptions of contracts against their owners' files, name by name."""

import re
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

from csi_s3 import csi_pb2, pluginregistration_pb2
from tests.binaries import CSI_SPEC, module_dir

ROOT = Path(__file__).parents[2]
OURS = ROOT / "proto"
Facts = dict[str, object]


def compiled(path: Path, out: Path) -> FileDescriptorProto:
    """Compile a file in a process of its own: two files of one package clash in one pool."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{path.parent}",
            f"--descriptor_set_out={out}",
            path.name,
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
    return facts(compiled(OURS / "csi.proto", tmp_path_factory.mktemp("ours") / "set"))


@pytest.fixture(scope="module")
def our_registration(tmp_path_factory) -> dict[str, Facts]:
    out = tmp_path_factory.mktemp("registration") / "set"
    return facts(compiled(OURS / "pluginregistration.proto", out))


def kubelet_version() -> str:
    """The one that e2e runs."""
    lines = (ROOT / "e2e" / "cluster" / "kube" / "go.mod").read_text()
    (version,) = re.findall(r"k8s\.io/kubelet => k8s\.io/kubelet (v\S+)", lines)
    return version


@pytest.mark.timeout(400)
def test_our_transcription_equals_the_specification(ours, tmp_path):
    theirs = facts(compiled(module_dir(*CSI_SPEC) / "csi.proto", tmp_path / "set"))
    assert sorted(theirs) == sorted(ours)
    assert {n: f for n, f in theirs.items() if ours[n] != f} == {}


def test_the_whole_contract_is_compared(ours):
    """Guards the comparison itself: the numbers are those of v1.11.0, options are seen."""
    assert sum(1 for f in ours.values() if "takes" in f) == 31
    assert sum(1 for f in ours.values() if "label" in f and not f["extends"]) > 180
    assert ours["csi.v1.NodePublishVolumeRequest.secrets"]["options"]
    assert ours["csi.v1.VolumeCapability.mount"]["oneof"] == "access_type"
    assert ours["csi.v1.SnapshotMetadata.GetMetadataDelta"]["streams"] == (False, True)


@pytest.mark.timeout(400)
def test_our_registration_equals_kubelets(our_registration, tmp_path):
    kubelet = module_dir("k8s.io/kubelet", kubelet_version())
    path = kubelet / "pkg" / "apis" / "pluginregistration" / "v1" / "api.proto"
    assert facts(compiled(path, tmp_path / "set")) == our_registration
    assert "pluginregistration.Registration.NotifyRegistrationStatus" in our_registration


def test_the_generated_modules_are_made_from_our_transcriptions(ours, our_registration):
    for module, source in ((csi_pb2, ours), (pluginregistration_pb2, our_registration)):
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        # protoc leaves json_name out of a module; the runtime derives it.
        built, wanted = (
            {name: {k: v for k, v in fact.items() if k != "json"} for name, fact in one.items()}
            for one in (facts(file), source)
        )
        assert built == wanted
