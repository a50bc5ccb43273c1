import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csi_s3.config.option_parser import split_item
from csi_s3.config.options import OPTIONS
from csi_s3.config.volume_context import parse_volume
from csi_s3.errors import BadOptionError

BUCKET = {"bucketName": "data"}
KMS = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def parse(*flags, context=BUCKET, **kwargs):
    return parse_volume(context, flags, **kwargs)


def config(*flags, **kwargs):
    return parse(*flags, **kwargs).config


def refusal(*flags, context=BUCKET, **kwargs):
    with pytest.raises(BadOptionError) as caught:
        parse_volume(context, flags, **kwargs)
    return str(caught.value)


# --- spellings: the vectors of the AWS driver's args_test.go, and lists -------------------------


@pytest.mark.parametrize(
    ("item", "split"),
    [
        ("region us-west-2", ("region", "us-west-2")),
        ("--uid    1000", ("uid", "1000")),
        ("  --gid  2000  ", ("gid", "2000")),
        (f"sse-kms-key-id={KMS}", ("sse-kms-key-id", KMS)),
        ("prefix kwk3-di/sub=vault/", ("prefix", "kwk3-di/sub=vault/")),
        ("prefix=a/b vault/", ("prefix", "a/b vault/")),
        ("prefix my folder/sub=test/", ("prefix", "my folder/sub=test/")),
        (
            "prefix env=prod/app=web/version=1.0/",
            ("prefix", "env=prod/app=web/version=1.0/"),
        ),
        ("prefix backup files = production/", ("prefix", "backup files = production/")),
        ("--read-only", ("read-only", None)),
        ("-d", ("-d", None)),
        ("-l logs/", ("-l", "logs/")),
        ("--prefix=", ("prefix", "")),
        ("--metadata-ttl=indefinite\n", ("metadata-ttl", "indefinite")),
    ],
)
def test_an_item_is_split_at_its_first_separator(item, split):
    assert split_item(item) == split


@pytest.mark.parametrize(
    "item", ["uid 7", "uid=7", "--uid 7", "--uid=7", " uid   7 ", "--uid= 7", "uid\t7"]
)
def test_every_spelling_of_an_option_means_the_same(item):
    assert config(item) == config("uid=7")
    assert config(item).tree.uid == 7


def test_dominos_manifest_is_read():
    parsed = parse("allow-delete", "region us-east-1", "uid=12574", "gid=12574")
    tree = parsed.config.tree
    assert (tree.uid, tree.gid, tree.allow_delete, tree.allow_overwrite) == (
        12574,
        12574,
        True,
        False,
    )
    assert (parsed.config.bucket.bucket, parsed.config.bucket.region) == ("data", "us-east-1")
    assert parsed.config.allow_other
    assert parsed.warnings == ()


def test_without_options_root_owns_everything_and_nothing_may_be_deleted():
    tree = config().tree
    assert (tree.uid, tree.gid, tree.dir_mode, tree.file_mode) == (0, 0, 0o755, 0o644)
    assert not tree.allow_delete
    assert not tree.allow_overwrite


@pytest.mark.parametrize(
    "item",
    ["uid=1,gid=2,allow-delete", "uid=1, --gid 2, allow-delete", "uid=1,gid=2,allow-delete,"],
)
def test_a_comma_list_is_split(item):
    tree = config(item).tree
    assert (tree.uid, tree.gid, tree.allow_delete) == (1, 2, True)


@pytest.mark.parametrize(
    "prefix",
    [
        "a,b/",
        "a,uid/",
        "a,allow-delete/",
        "a, b = c/",
        "x=1,y=2/",
        ",/",
        "a b,gid/",
    ],
)
@pytest.mark.parametrize("separator", ["=", " "])
def test_a_comma_that_does_not_divide_options_stays_in_the_value(prefix, separator):
    assert config(f"prefix{separator}{prefix}").bucket.prefix == prefix


@pytest.mark.parametrize("flags", [("--read-only", "read-only"), ("ro", "-r"), ("uid=1", "uid 01")])
def test_identical_duplicates_are_one(flags):
    assert config(*flags) == config(flags[0])


def test_conflicting_duplicates_name_both_values_in_whatever_order_they_come():
    message = "mount option uid is set twice, to '1' and '2' (keep one)"
    assert refusal("uid=1", "--uid 2") == message
    assert refusal("uid=2", "uid=1") == message
    assert refusal("uid=1,uid=2") == message


@pytest.mark.parametrize("item", ["foreground", "-f", "--help", "-h", "--version", "-v", "-V"])
def test_what_means_nothing_on_a_volume_is_dropped_without_a_word(item):
    assert parse(item) == parse()


@pytest.mark.parametrize("item", ["", "  "])
def test_a_blank_item_is_nothing(item):
    assert parse(item) == parse()


# --- what the options set -----------------------------------------------------------------------


def test_read_only_comes_from_the_request_or_from_an_option():
    assert config("ro").read_only
    assert config("-r").read_only
    assert config(readonly=True).read_only
    assert not config().read_only


def test_fs_group_sets_group_and_modes():
    tree = config(volume_mount_group="2000").tree
    assert (tree.uid, tree.gid, tree.dir_mode, tree.file_mode) == (0, 2000, 0o770, 0o660)


def test_options_of_the_volume_win_over_fs_group():
    tree = config("gid=0", "dir-mode=755", "file-mode 0640", volume_mount_group="2000").tree
    assert (tree.gid, tree.dir_mode, tree.file_mode) == (0, 0o755, 0o640)


def test_an_fs_group_that_is_no_number_is_refused():
    assert refusal(volume_mount_group="staff") == (
        "volume_mount_group (fsGroup)='staff' is not valid "
        "(expected an integer from 0 to 4294967294)"
    )


def test_a_metadata_ttl_given_by_hand_is_known_as_such():
    assert not config().tree.metadata_ttl_by_hand
    tree = config("metadata-ttl indefinite").tree
    assert (tree.metadata_ttl_s, tree.metadata_ttl_by_hand) == (math.inf, True)


def test_part_size_sets_both_sizes():
    tree = config("part-size=16777216").tree
    assert (tree.read_part_bytes, tree.write_part_bytes) == (16 << 20, 16 << 20)


def test_a_prefix_gets_its_slash():
    assert config("prefix=datasets/sales").bucket.prefix == "datasets/sales/"


# --- hints ----------------------------------------------------------------------------------------


def test_a_hint_is_one_warning_that_says_what_happens_in_its_place():
    parsed = parse("max-threads=5", "cache /tmp/x", "max-threads=9", "allow-root")
    assert parsed.config == config()
    assert parsed.warnings == (
        (
            "mount option allow-root has no effect: "
            "every user can access a volume; uid, gid and the modes decide"
        ),
        (
            "mount option cache has no effect: "
            "there is no disk cache yet; data is read from S3 and stays in the page cache"
        ),
        "mount option max-threads has no effect: one event loop serves all requests at once",
    )


def test_tuning_attributes_of_the_aws_driver_are_hints():
    context = {**BUCKET, "stsRegion": "us-east-1", "mountpointContainerResourcesLimitsCpu": "2"}
    parsed = parse_volume(context, [])
    assert parsed.config == config()
    assert parsed.warnings == (
        (
            "volume attribute mountpointContainerResourcesLimitsCpu has no effect: "
            "volumes share the driver's mounter; set its resources in the chart"
        ),
        "volume attribute stsRegion has no effect: it is used for a pod's identity only",
    )


def test_the_name_of_a_hint_says_nothing_about_its_value():
    assert "hunter2" not in str(parse("otlp-endpoint=https://u:hunter2@host").warnings)


# --- attributes -----------------------------------------------------------------------------------


def test_keys_of_kubernetes_are_no_attributes():
    context = {
        **BUCKET,
        "csi.storage.k8s.io/pod.uid": "x",
        "csi.storage.k8s.io/serviceAccount.tokens": "{}",
        "csi.storage.k8s.io/ephemeral": "false",
        "storage.kubernetes.io/csiProvisionerIdentity": "x",
        "authenticationSource": "driver",
    }
    assert parse_volume(context, []) == parse()


# --- properties ---------------------------------------------------------------------------------

NAMES = st.sampled_from([name for option in OPTIONS for name in (option.name, *option.aliases)])
TEXTS = st.text(max_size=30) | st.text("01a/=, -.\\\"'\t\n", max_size=12)
ITEMS = TEXTS | st.builds(
    lambda dash, name, separator, text: f"{dash}{name}{separator}{text}",
    st.sampled_from(["", "--"]),
    NAMES,
    st.sampled_from(["=", " ", ",", "  "]),
    TEXTS,
)


def outcome(context, flags, **kwargs):
    try:
        return parse_volume(context, flags, **kwargs)
    except BadOptionError:
        return BadOptionError


@given(
    st.dictionaries(TEXTS, TEXTS, max_size=2),
    st.lists(ITEMS, max_size=4),
    TEXTS,
)
def test_any_text_is_read_or_refused_as_a_bad_option(context, flags, group):
    outcome({**BUCKET, **context}, flags, volume_mount_group=group)


GOOD = st.sampled_from(
    [
        "uid=1", "uid 1", "uid=2", "gid=1", "allow-delete", "ro", "prefix a=b/c,d", "cache=/x",
        "part-size=8388608", "read-part-size=8388608", "max-threads=1", "max-threads=2",
        "metadata-ttl=minimal", "region r,uid=1", "dir-mode=700", "regoin x",
    ]
)  # fmt: skip


@given(
    st.lists(GOOD, max_size=6).flatmap(
        lambda flags: st.tuples(st.just(flags), st.permutations(flags))
    )
)
def test_the_order_of_options_means_nothing(pair):
    assert outcome(BUCKET, pair[0]) == outcome(BUCKET, pair[1])


COMPONENT = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12
).filter(lambda part: part not in {".", ".."})


@settings(max_examples=200)
@given(
    st.lists(COMPONENT, min_size=1, max_size=4),
    st.sampled_from(["prefix=", "prefix ", "--prefix="]),
)
def test_a_prefix_keeps_its_value_to_the_letter(parts, head):
    prefix = "/".join(parts) + "/"
    if prefix != prefix.lstrip() or (head == "prefix " and prefix.startswith("=")):
        return  # blanks around a value do not count; "key =" is refused
    assert config(head + prefix).bucket.prefix == prefix
