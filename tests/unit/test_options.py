import math
from dataclasses import fields
from pathlib import Path

import pytest

from csi_s3.config import value_types
from csi_s3.config.options import CLASHES, OPTIONS, SPELLINGS, Support, fields_of
from csi_s3.config.volume import BucketConfig, TreeConfig, VolumeConfig, canonical
from csi_s3.config.volume_context import (
    ATTRIBUTES,
    FS_GROUP_DIR_MODE,
    FS_GROUP_FILE_MODE,
    parse_volume,
)
from csi_s3.errors import BadOptionError
from csi_s3.link.spec import MountSpec
from scripts.reference_docs import options_markdown

MOUNTPOINT = """
prefix region endpoint-url force-path-style transfer-acceleration dual-stack requester-pays
bucket-type storage-class expected-bucket-owner sse sse-kms-key-id upload-checksums
infer-content-type no-sign-request profile read-only allow-delete allow-overwrite
incremental-upload auto-unmount allow-root allow-other uid gid dir-mode file-mode
maximum-throughput-gbps max-threads memory-target part-size read-part-size write-part-size
ca-bundle bind foreground -f log-directory -l log-metrics otlp-endpoint otlp-export-interval
debug -d debug-crt no-log cache metadata-ttl negative-metadata-ttl max-cache-size cache-xz
cache-block-size user-agent-prefix version -V help -h -o ro
"""
CSI_DRIVER = ["aws-max-attempts", "-v"]
OURS = [
    "dir-markers",
    "drain-timeout",
    "symlinks",
    "posix-metadata",
    "spool-size",
    "unlinked-open-limit",
    "-r",
    "noexec",
]
SELINUX = ["context", "fscontext", "rootcontext", "defcontext"]  # mount(8)'s and kubelet's
AWS_ATTRIBUTES = """
bucketName authenticationSource stsRegion cache cacheEmptyDirSizeLimit cacheEmptyDirMedium
cacheEphemeralStorageClassName cacheEphemeralStorageResourceRequest mountpointPodServiceAccountName
mountpointContainerResourcesRequestsCpu mountpointContainerResourcesRequestsMemory
mountpointContainerResourcesLimitsCpu mountpointContainerResourcesLimitsMemory
mountpointEnv.HTTPS_PROXY mountpointEnv.NO_PROXY
"""


def row(name):
    return SPELLINGS[name]


def read(form, text):
    return form.read(text)


def test_every_option_of_mountpoint_and_of_its_driver_and_ours_is_in_the_table_and_no_other():
    assert set(SPELLINGS) == {*MOUNTPOINT.split(), *CSI_DRIVER, *OURS, *SELINUX}
    assert len(SPELLINGS) == sum(1 + len(option.aliases) for option in OPTIONS)


def test_every_attribute_of_the_aws_driver_is_in_the_table_and_no_other():
    assert [option.name for option in ATTRIBUTES] == AWS_ATTRIBUTES.split()


def test_a_row_that_sets_a_field_that_does_not_exist_fails_at_import():
    with pytest.raises(KeyError, match="regoin"):
        fields_of(BucketConfig, "regoin")


def test_every_field_of_a_volume_can_be_set_by_somebody():
    settable = {field for option in (*OPTIONS, *ATTRIBUTES) for field in option.sets}
    wanted = {(part, f.name) for part in (BucketConfig, TreeConfig) for f in fields(part)}
    # set by the mention of metadata-ttl
    assert wanted - settable == {(TreeConfig, "metadata_ttl_by_hand")}


@pytest.mark.parametrize("option", [*OPTIONS, *ATTRIBUTES], ids=lambda option: option.name)
def test_a_row_that_does_nothing_says_why_and_a_row_that_works_sets_something(option):
    supports = {option.on_volume, option.on_command}
    if supports & {Support.HINT, Support.REFUSED}:
        assert option.why
        assert not option.why.endswith(".")
    if Support.WORKS in supports and option.name not in {
        *("help", "version", "-o", "bucket-type", "authenticationSource"),
    }:
        assert option.sets
    assert option.help.endswith(".")


def test_clashes_name_options_that_exist():
    assert {name for first, second, _ in CLASHES for name in (first, second)} <= set(SPELLINGS)


def test_a_flag_that_volumes_always_have_says_so():
    assert row("allow-other").default_text == "off; on volumes always on"


def test_the_words_about_fs_group_are_the_modes_that_are_set():
    assert row("dir-mode").default_text == f"0755; with fsGroup {FS_GROUP_DIR_MODE:04o}"
    assert row("file-mode").default_text == f"0644; with fsGroup {FS_GROUP_FILE_MODE:04o}"


def test_docs_options_md_is_what_the_table_says():
    path = Path(__file__).parents[2] / "docs" / "options.md"
    assert path.read_text(encoding="utf-8") == options_markdown(), (
        "run: python scripts/reference_docs.py"
    )


def test_a_row_of_the_docs_reads_as_a_person_would():
    line = next(line for line in options_markdown().splitlines() if line.startswith("| `uid`"))
    assert line == (
        "| `uid` | an integer from 0 to 4294967294 | 0; on the command line the caller's "
        "| works | works | Owner of every file and directory. |"
    )


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("uid", "0", 0),
        ("uid", "4294967294", 4294967294),
        ("dir-mode", "770", 0o770),
        ("dir-mode", "0", 0),
        ("file-mode", "0640", 0o640),
        ("metadata-ttl", "indefinite", math.inf),
        ("metadata-ttl", "minimal", 0.0),
        ("metadata-ttl", "0", 0.0),
        ("metadata-ttl", "0.5", 0.5),
        ("memory-target", "512", 512 << 20),
        ("write-part-size", "5368709120", 5 << 30),
        ("read-part-size", "65536", 1 << 16),
        ("dir-markers", "off", False),
        ("prefix", "", ""),
        ("prefix", "a", "a/"),
        ("prefix", "a/b c=d,e/", "a/b c=d,e/"),
        ("endpoint-url", "https://s3.kopah.uw.edu", "https://s3.kopah.uw.edu"),
        ("endpoint-url", "http://127.0.0.1:9000/", "http://127.0.0.1:9000"),
        ("endpoint-url", "http://[::1]:9000/storage/v1/s3", "http://[::1]:9000/storage/v1/s3"),
        ("sse", "aws:kms:dsse", "aws:kms:dsse"),
        ("profile", "sso user@home", "sso user@home"),
    ],
)
def test_a_value_is_read(name, text, value):
    assert read(row(name).value_type, text) == value
    assert type(read(row(name).value_type, text)) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("uid", "-1"),
        ("uid", "4294967295"),
        ("uid", "1_000"),
        ("uid", "\u0661"),
        ("uid", ""),
        ("uid", "9" * 5000),
        ("dir-mode", "0778"),
        ("dir-mode", "1777"),
        ("dir-mode", "0o770"),
        ("metadata-ttl", "nan"),
        ("metadata-ttl", "inf"),
        ("metadata-ttl", "1e3"),
        ("metadata-ttl", "-1"),
        ("metadata-ttl", "3153600001"),
        ("drain-timeout", "indefinite"),
        ("memory-target", "63"),
        ("write-part-size", "5242879"),
        ("part-size", "8MiB"),
        ("prefix", "/a"),
        ("prefix", "/"),
        ("prefix", "a//b"),
        ("prefix", "a/../b"),
        ("prefix", "./a"),
        ("prefix", "a\0b"),
        ("prefix", "\udcff"),
        ("prefix", "a" * 1024),
        ("endpoint-url", "minio:9000"),
        ("endpoint-url", "ftp://host"),
        ("endpoint-url", "https://"),
        ("endpoint-url", "https://host:70000"),
        ("endpoint-url", "https://host/?x"),
        ("endpoint-url", "https://host?"),
        ("endpoint-url", "https://host/#"),
        ("endpoint-url", "https://[::1"),
        ("endpoint-url", "https://h\r\nx: y"),
        ("region", "us-east-1\r\nx"),
        ("region", "us east"),
        ("storage-class", ""),
        ("expected-bucket-owner", "12345678901"),
        ("sse", "aes256"),
        ("upload-checksums", "sha256"),
        ("dir-markers", "true"),
        ("ca-bundle", "ca.pem"),
        ("profile", "a]\n[b"),
        ("user-agent-prefix", "a\nb"),
    ],
)
def test_a_value_out_of_form_is_refused(name, text):
    with pytest.raises(ValueError):  # noqa: PT011  # the text is for `given` to compose
        read(row(name).value_type, text)


@pytest.mark.parametrize(
    "name",
    ["data", "a.b-c", "123", "a" * 63, "my-ap-abcdefghij-s3alias"],
)
def test_a_bucket_name_is_taken(name):
    assert value_types.read_bucket(name) == name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", ""),
        ("ab", ""),
        ("a" * 64, ""),
        ("My_Bucket", ""),
        ("-ab", ""),
        ("a..b", ""),
        ("127.0.0.1", "a bucket name cannot be an IP address"),
        ("data/x", "expected the name alone; set the rest by the option prefix"),
        ("s3://data", "expected the name alone; set the rest by the option prefix"),
        (
            "arn:aws:s3:eu-west-1:123456789012:accesspoint/x",
            "use the access point's alias instead of its ARN",
        ),
        ("b--usw2-az1--x-s3", "directory buckets (S3 Express One Zone) are not supported yet"),
        ("b--op-s3", "Outposts buckets are not supported yet"),
        ("arn:aws:s3:::data", "use the bucket's name instead of its ARN"),
        (
            "arn:aws:s3:eu-west-1:123456789012:accesspoint:x",
            "use the access point's alias instead of its ARN",
        ),
        (
            "arn:aws:s3::123456789012:accesspoint/m123.mrap",
            "multi-region access points are not supported yet",
        ),
        (
            "arn:aws:s3-outposts:eu-west-1:123456789012:outpost/op-1/accesspoint/x",
            "Outposts buckets are not supported yet",
        ),
        (
            "arn:aws:s3-object-lambda:eu-west-1:123456789012:accesspoint/x",
            "Object Lambda access points are not supported yet",
        ),
        (
            "arn:aws:s3express:eu-west-1:123456789012:bucket/b--euw1-az1--x-s3",
            "directory buckets (S3 Express One Zone) are not supported yet",
        ),
        ("arn:", "use the access point's alias instead of its ARN"),
    ],
)
def test_what_is_no_bucket_name_is_refused_with_the_reason(name, reason):
    with pytest.raises(value_types.ValueTypeError) as caught:
        value_types.read_bucket(name)
    assert str(caught.value) == reason


def test_every_default_is_written_in_a_form_that_reads_back():
    checked = 0
    for option in OPTIONS:
        default = option.field_default
        if option.value_type and default not in {None, ""}:
            assert option.value_type.read(option.value_type.write(default)) == default
            checked += 1
    assert checked > 10


def every_option() -> VolumeConfig:
    flags = [
        "prefix=a/", "region=r", "endpoint-url=http://h", "force-path-style", "requester-pays",
        "storage-class=GLACIER_IR", "expected-bucket-owner=123456789012", "sse=aws:kms",
        "sse-kms-key-id=my-key", "upload-checksums=off", "infer-content-type", "profile=p",
        "read-only", "allow-delete", "allow-overwrite", "allow-other", "uid=1", "gid=2",
        "dir-mode=700", "file-mode=600", "dir-markers=off", "drain-timeout=5.5",
        "memory-target=64", "part-size=5242880", "aws-max-attempts=3", "ca-bundle=/ca.pem",
        "user-agent-prefix=x", "metadata-ttl=indefinite", "negative-metadata-ttl=7",
        'context="u:r:t:s0:c1,c2"', "fscontext=u:r:t", "rootcontext=u:r:t",
    ]  # fmt: skip
    return parse_volume({"bucketName": "data"}, flags).config


def test_every_value_survives_the_link_between_node_and_mounter():
    spec = MountSpec(mount_id="0" * 32, volume_handle="v", volume=every_option())
    assert MountSpec.from_json(spec.to_json()) == spec


def test_the_identity_of_a_mount_is_the_same_read_only_and_differs_with_any_other_option():
    def text(*flags, readonly=False):
        return canonical(parse_volume({"bucketName": "data"}, flags, readonly=readonly).config)

    assert text() == text("ro") == text(readonly=True)
    assert text("uid=1", "gid=2") == text("gid=2", "uid=1")
    variants = ["uid=1", "metadata-ttl=1", "region=r", "allow-delete", "prefix=a", "profile=p"]
    assert len({text(), *(text(flag) for flag in variants)}) == len(variants) + 1


ON_VOLUMES = [
    clash
    for clash in CLASHES
    if all(SPELLINGS[name].on_volume is Support.WORKS for name in clash[:2])
]


def test_only_what_volumes_do_not_have_is_left_out_below():
    assert {clash[:2] for clash in CLASHES} - {clash[:2] for clash in ON_VOLUMES} == {
        ("allow-other", "allow-root"),
        ("log-directory", "no-log"),
    }


@pytest.mark.parametrize(("first", "second", "why"), ON_VOLUMES)
def test_options_that_contradict_each_other_are_refused(first, second, why):
    values = {"endpoint-url": "http://h", "profile": "p"}
    values |= dict.fromkeys(["part-size", "read-part-size", "write-part-size"], "8388608")
    flags = [f"{name}={values[name]}" if name in values else name for name in (first, second)]
    with pytest.raises(BadOptionError) as caught:
        parse_volume({"bucketName": "data"}, flags)
    assert str(caught.value) == (
        f"options {first} and {second} contradict each other ({why}; keep one)"
    )
