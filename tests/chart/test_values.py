"""Values that are wrong are refused before anything is installed, and the text says which."""

import json
import re

import jsonschema
import pytest
import yaml

from csi_s3.config.options import OPTIONS, Support
from csi_s3.config.volume_context import parse_volume
from csi_s3.errors import BadOptionError
from scripts.reference_docs import mount_option_schema
from tests.chart.rendered import CHART, RefusedError, helm, render

SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"defaultMountOption": []}, "additional properties 'defaultMountOption' not allowed"),
        ({"s3": {"endpointURL": "https://a"}}, "additional properties 'endpointURL' not allowed"),
        ({"s3": {"endpointUrl": "minio:9000"}}, "/s3/endpointUrl"),
        ({"s3": {"allowedEndpoints": ["https://minio"]}}, "/s3/allowedEndpoints/0"),
        ({"s3": {"allowedEndpoints": ["minio:9000"]}}, "/s3/allowedEndpoints/0"),
        ({"s3": {"endpointUrl": "https://user:password@minio"}}, "/s3/endpointUrl"),
        ({"s3": {"region": "eu central"}}, "/s3/region"),
        ({"defaultMountOptions": ["alow-delete"]}, "'alow-delete' does not match"),
        ({"defaultMountOptions": ["uid"]}, "'uid' does not match"),
        ({"defaultMountOptions": ["allow-delete=yes"]}, "'allow-delete=yes' does not match"),
        ({"defaultMountOptions": ["posix-metadata"]}, "'posix-metadata' does not match"),
        ({"defaultMountOptions": "allow-delete"}, "/defaultMountOptions"),
        ({"mounter": {"maxVolumes": 0}}, "/mounter/maxVolumes"),
        ({"mounter": {"env": [{"name": "A", "value": 1}]}}, "/mounter/env/0/value"),
        ({"mounter": {"updateStrategy": {"type": "Rolling"}}}, "/mounter/updateStrategy/type"),
        ({"node": {"kubeletPath": "var/lib/kubelet"}}, "/node/kubeletPath"),
        ({"node": {"httpPort": 99999}}, "/node/httpPort"),
        ({"driverName": "s3_driver!"}, "/driverName"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        (
            {"node": {"serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "role/x"}}}},
            "'role/x' does not match",
        ),
    ],
)
def test_a_wrong_value_is_named(values, said):
    with pytest.raises(RefusedError) as refusal:
        render(values)
    assert said in str(refusal.value)


@pytest.mark.parametrize("values", [{"global": {"x": 1}}, {"awsAccessSecret": {"name": "other"}}])
def test_a_right_value_is_not(values):
    render(values)


def test_two_ca_bundles_are_one_too_many():
    with pytest.raises(RefusedError, match="keep one of them"):
        render({"s3": {"caBundle": {"configMap": "a", "secret": "b"}}})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"s3": {"region": "a"}}, "mounter.env sets AWS_REGION, and so does a value of the chart"),
        ({}, None),
    ],
)
def test_a_variable_that_a_value_sets_cannot_be_set_by_hand_as_well(values, said):
    mounter = {"env": [{"name": "AWS_REGION", "value": "b"}]}
    if said is None:
        render({**values, "mounter": mounter})
        return
    with pytest.raises(RefusedError, match=said):
        render({**values, "mounter": mounter})


@pytest.mark.parametrize("name", ["A", "CSI_S3_MEMORY_LIMIT"])
def test_a_variable_is_set_once(name):
    twice = [{"name": name, "value": str(n)} for n in range(2)]
    with pytest.raises(RefusedError, match=f"mounter.env sets {name}, and so does"):
        render({"mounter": {"env": twice}})


def test_the_schema_knows_the_values_and_no_others():
    assert differing(VALUES, SCHEMA, "") == {"global"}  # helm's own, for subcharts
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.Draft7Validator(SCHEMA).validate(VALUES)


def differing(values: dict, schema: dict, path: str) -> set[str]:
    schema = SCHEMA["definitions"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
    if schema.get("additionalProperties") is not False:
        return set()
    known = schema["properties"]
    # rollingUpdate is Kubernetes' own; controller.serviceAccount has no name of its own here
    found = {f"{path}{key}" for key in values.keys() ^ known.keys() if key != "rollingUpdate"}
    for key in values.keys() & known.keys():
        if isinstance(values[key], dict):
            found |= differing(values[key], known[key], f"{path}{key}.")
    return found


def test_mount_options_in_the_schema_are_those_of_the_table():
    assert SCHEMA["definitions"]["mountOption"] == mount_option_schema(), (
        "run: python scripts/reference_docs.py"
    )


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_schema_and_parser_take_the_same_options(option):
    pattern = re.compile(mount_option_schema()["pattern"])
    for name in (option.name, *option.aliases):
        refused = option.on_volume is Support.REFUSED
        for item, right in (
            (name, option.value_type is None),
            (f"{name}=1", option.value_type is not None),
        ):
            assert bool(pattern.search(item)) is (right and not refused), item
            if not pattern.search(item) and option.on_volume is not Support.DROPPED:
                with pytest.raises(BadOptionError):
                    parse_volume({"bucketName": "bucket"}, [item])


@pytest.mark.parametrize(
    "item",
    ["--uid=5", "region eu-central-1", "prefix a,b/ c", " uid=1,gid=2 ", "-r", "prefix=a=b/"],
)
def test_the_spellings_of_a_mount_option_are_those_of_a_volume(item):
    assert re.search(mount_option_schema()["pattern"], item)
    parse_volume({"bucketName": "bucket"}, [item])


def test_helm_has_nothing_to_say_against_the_chart():
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))
