"""Options that every volume starts from (--default-mount-options), and a volume's own over them."""

import math

import pytest

from csi_s3.config.volume_context import parse_defaults, parse_volume
from csi_s3.errors import BadOptionError

BUCKET = {"bucketName": "data"}
KMS = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def parsed(defaults, *flags, **kwargs):
    return parse_volume(BUCKET, flags, default_options=parse_defaults(defaults), **kwargs)


def config(defaults, *flags, **kwargs):
    return parsed(defaults, *flags, **kwargs).config


def test_a_volume_starts_from_them():
    volume = config(["uid=12574", "gid 12574", "allow-delete", "region=eu-west-1", "read-only"])
    assert (volume.tree.uid, volume.tree.gid, volume.tree.allow_delete) == (12574, 12574, True)
    assert volume.bucket.region == "eu-west-1"
    assert volume.bucket.bucket == "data"
    assert volume.read_only
    assert volume.allow_other


def test_a_volumes_own_option_of_the_same_name_wins():
    volume = config(["uid=1", "prefix=all/", "metadata-ttl=60"], "uid=2", "prefix=mine/")
    assert (volume.tree.uid, volume.bucket.prefix) == (2, "mine/")
    assert volume.tree.metadata_ttl_s == 60


def test_a_ttl_by_default_is_one_by_hand():
    assert config(["metadata-ttl=indefinite"]).tree.metadata_ttl_by_hand
    assert config(["metadata-ttl=indefinite"]).tree.metadata_ttl_s == math.inf
    assert not config([]).tree.metadata_ttl_by_hand


def test_a_flag_cannot_be_taken_back_and_a_value_can():
    assert config(["read-only"], readonly=False).read_only
    assert config(["dir-markers=off"], "dir-markers=on").tree.dir_markers


def test_what_fs_group_sets_wins_over_defaults_and_gives_way_to_the_volumes_own():
    defaults = ["gid=100", "uid=7", "dir-mode=0700", "file-mode=0600"]
    tree = config(defaults, volume_mount_group="2000").tree
    assert (tree.uid, tree.gid, tree.dir_mode, tree.file_mode) == (7, 2000, 0o770, 0o660)
    tree = config(defaults, "gid=5", "dir-mode=0750", volume_mount_group="2000").tree
    assert (tree.uid, tree.gid, tree.dir_mode, tree.file_mode) == (7, 5, 0o750, 0o660)
    assert config(defaults).tree.dir_mode == 0o700


@pytest.mark.parametrize(
    ("default", "own", "field"),
    [
        ("endpoint-url=http://s:9000", "transfer-acceleration", ("endpoint_url", None)),
        ("force-path-style", "transfer-acceleration", ("force_path_style", False)),
        ("dual-stack", "endpoint-url=http://s:9000", ("dual_stack", False)),
        ("profile=p", "no-sign-request", ("profile", None)),
        ("no-sign-request", "profile=p", ("no_sign_request", False)),
        ("requester-pays", "no-sign-request", ("requester_pays", False)),
    ],
)
def test_a_default_that_the_volumes_own_contradicts_is_dropped(default, own, field):
    assert getattr(config([default], own).bucket, field[0]) == field[1]
    assert getattr(config([default]).bucket, field[0]) != field[1]


def test_part_sizes_of_both_are_put_together():
    mib = 1 << 20
    tree = config([f"part-size={16 * mib}"], f"read-part-size={32 * mib}").tree
    assert (tree.read_part_bytes, tree.write_part_bytes) == (32 * mib, 16 * mib)
    tree = config([f"read-part-size={32 * mib}"], f"part-size={16 * mib}").tree
    assert (tree.read_part_bytes, tree.write_part_bytes) == (16 * mib, 16 * mib)


def test_part_sizes_by_default_give_way_to_a_small_memory():
    mib = 1 << 20
    tree = config([f"part-size={64 * mib}"], "memory-target=64").tree
    assert (tree.read_part_bytes, tree.write_part_bytes) == (8 * mib, 8 * mib)
    tree = config([f"part-size={64 * mib}"], "memory-target=128").tree
    assert (tree.read_part_bytes, tree.write_part_bytes) == (64 * mib, 64 * mib)


def test_encryption_by_default_gives_way():
    defaults = ["sse=aws:kms", f"sse-kms-key-id={KMS}"]
    bucket = config(defaults, "sse=AES256").bucket
    assert (bucket.sse, bucket.sse_kms_key_id) == ("AES256", None)
    bucket = config(defaults, "sse=aws:kms:dsse").bucket
    assert (bucket.sse, bucket.sse_kms_key_id) == ("aws:kms:dsse", KMS)
    other = KMS.replace("1234abcd", "9999abcd")
    bucket = config(defaults, f"sse-kms-key-id={other}").bucket
    assert (bucket.sse, bucket.sse_kms_key_id) == ("aws:kms", other)


def test_a_key_of_the_volumes_beside_another_encryption_by_default_needs_its_own():
    with pytest.raises(BadOptionError, match="is set without sse"):
        config(["sse=AES256"], f"sse-kms-key-id={KMS}")
    assert config(["sse=AES256"], f"sse-kms-key-id={KMS}", "sse=aws:kms").bucket.sse == "aws:kms"


def test_an_error_of_both_says_which_is_a_default():
    with pytest.raises(BadOptionError) as caught:
        config(["memory-target=64"], f"part-size={64 << 20}")
    text = str(caught.value)
    assert text.startswith("read-part-size=67108864 is more than half of memory-target=64 (MiB)")
    assert text.endswith("; memory-target is a default of the driver (--default-mount-options))")


def test_an_error_of_the_volumes_own_blames_nobody_else():
    with pytest.raises(BadOptionError) as caught:
        config(["memory-target=512"], "uid=me")
    assert "default" not in str(caught.value)


@pytest.mark.parametrize(
    ("items", "text"),
    [
        (["allow-everything"], "--default-mount-options: mount option allow-everything is not kn"),
        (["uid"], "--default-mount-options: mount option uid has no value (expected an integer"),
        (["bucketName=b"], "mount option bucketName is not known (bucketName is a volume attrib"),
        (["posix-metadata"], "--default-mount-options: mount option posix-metadata is refused"),
        (["uid=1", "uid=2"], "mount option uid is set twice, to '1' and '2' (keep one)"),
        (["no-sign-request", "profile=p"], "options no-sign-request and profile contradict each"),
        ([f"sse-kms-key-id={KMS}"], "--default-mount-options: option sse-kms-key-id="),
        (["memory-target=64", f"part-size={64 << 20}"], "is more than half of memory-target=64"),
    ],
)
def test_bad_defaults_are_refused_with_the_flags_name(items, text):
    with pytest.raises(BadOptionError) as caught:
        parse_defaults(items)
    assert text in str(caught.value)
    assert caught.value.what.startswith("--default-mount-options: ")


def test_a_hint_among_the_defaults_warns_for_the_node_and_not_for_each_volume():
    defaults = parse_defaults(["max-threads=8"])
    assert [text.split(":")[0] for text in defaults.warnings] == [
        "mount option max-threads has no effect"
    ]
    assert parse_volume(BUCKET, [], default_options=defaults).warnings == ()


def test_volumes_with_the_same_options_from_either_share_a_mount():
    assert config(["uid=1", "gid=2"]) == config(["gid=2"], "uid=1") == config([], "uid=1,gid=2")
