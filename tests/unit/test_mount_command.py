import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_s3.config.mount_command import (
    FSTAB_WORDS,
    help_text,
    parse_command,
    parse_source,
    question,
)
from csi_s3.config.options import OPTIONS, Support
from csi_s3.errors import BadOptionError


def parse(*argv, helper=False):
    return parse_command(argv, uid=1000, gid=1001, helper=helper)


def config(*argv, **kwargs):
    return parse("data", "/mnt", *argv, **kwargs).config


def refusal(*argv, **kwargs):
    with pytest.raises(BadOptionError) as caught:
        parse(*argv, **kwargs)
    return str(caught.value)


def test_the_plainest_command_mounts_for_the_caller_alone_in_the_background():
    command = parse("data", "/mnt")
    tree = command.config.tree
    assert (command.config.bucket.bucket, command.config.bucket.prefix) == ("data", "")
    assert command.directory == "/mnt"
    assert (tree.uid, tree.gid) == (1000, 1001)
    assert not command.config.allow_other
    assert not command.config.allow_root
    assert not command.config.read_only
    assert not command.foreground
    assert command.warnings == ()


def test_the_command_of_uses_md_is_read():
    line = "mybucket kopah --profile kopah --endpoint-url https://s3.kopah.uw.edu --allow-delete"
    command = parse(*line.split())
    bucket = command.config.bucket
    assert command.directory == "kopah"
    assert (bucket.profile, bucket.endpoint_url) == ("kopah", "https://s3.kopah.uw.edu")
    assert command.config.tree.allow_delete


@pytest.mark.parametrize(
    "argv",
    [
        ["data", "/mnt", "--uid", "5", "--allow-delete"],
        ["--uid=5", "data", "--allow-delete", "/mnt"],
        ["--allow-delete", "--uid", "5", "--", "data", "/mnt"],
        ["data", "/mnt", "-o", "uid=5,allow-delete"],
        ["data", "/mnt", "-ouid=5", "-o", "allow-delete"],
    ],
)
def test_options_may_stand_anywhere_and_be_spelled_as_one_likes(argv):
    assert parse(*argv) == parse("data", "/mnt", "--uid", "5", "--allow-delete")
    assert parse(*argv).config.tree.uid == 5


def test_every_long_option_that_works_is_read_in_both_spellings():
    for option in OPTIONS:
        if option.on_command is not Support.WORKS or option.name in {"-o", "sse-kms-key-id"}:
            continue
        if option.value_type is None:
            parse("data", "/mnt", f"--{option.name}")
            continue
        value = {
            "prefix": "a/", "endpoint-url": "http://h", "bucket-type": "general-purpose",
            "sse": "AES256", "upload-checksums": "off", "dir-markers": "on", "symlinks": "off",
            "expected-bucket-owner": "123456789012", "memory-target": "512",
            "log-directory": "/x", "ca-bundle": "/x", "context": "u:r:t", "fscontext": "u:r:t",
            "rootcontext": "u:r:t",
        }.get(option.name, "8388608" if option.name.endswith("part-size") else "1")  # fmt: skip
        if option.name in {"dir-mode", "file-mode"}:
            value = "700"
        glued, apart = [f"--{option.name}={value}"], [f"--{option.name}", value]
        assert parse("data", "/mnt", *glued) == parse("data", "/mnt", *apart)


def test_short_options_are_read_together_or_with_their_value():
    command = parse("data", "/mnt", "-fd", "-l/var/log/s3")
    assert (command.foreground, command.debug, command.log_directory) == (True, True, "/var/log/s3")
    assert parse("data", "/mnt", "-l", "/x").log_directory == "/x"


def test_relative_paths_mean_those_of_the_caller(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = Path(os.path.realpath(tmp_path))
    assert parse("data", "m", "-l", "logs").log_directory == str(here / "logs")
    assert config("--ca-bundle", "ca.pem").bucket.ca_bundle == str(here / "ca.pem")


def test_a_relative_path_from_a_directory_that_is_gone_is_refused(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert refusal("data", "/mnt", "--ca-bundle=ca.pem") == (
        "option --ca-bundle='ca.pem' is not valid "
        "(expected an absolute path: the working directory is gone)"
    )


def test_what_belongs_to_the_command_itself_is_told_apart():
    command = parse("data", "/mnt", "--no-log", "--auto-unmount", "--debug-crt", "--read-only")
    assert (command.no_log, command.auto_unmount, command.debug) == (True, True, True)
    assert command.config.read_only


def test_a_value_that_begins_with_a_dash_needs_the_equals_sign():
    assert config("--prefix=-x/").bucket.prefix == "-x/"
    assert "--prefix has no value" in refusal("data", "/mnt", "--prefix", "--allow-delete")


# --- -o and fstab -------------------------------------------------------------------------------


def test_an_fstab_line_works_as_mount_8_hands_it_over():
    argv = ["s3://data/a/", "/mnt", "-n", "-s", "-v", "-o", "rw,_netdev,allow-other,uid=5,nofail"]
    command = parse(*argv, helper=True)
    assert command.config.bucket.prefix == "a/"
    assert command.config.tree.uid == 5
    assert command.config.allow_other
    assert command.warnings == ()


def test_the_words_of_fstab_are_skipped():
    words = ",".join([*sorted(FSTAB_WORDS), "x-systemd.automount", "X-mount.mkdir=0755", "user=me"])
    assert parse("data", "/mnt", "-o", words) == parse("data", "/mnt")


def test_a_backslash_protects_commas_backslashes_and_quotes():
    assert config("-o", r"prefix=a\,b\\c\"d/,uid=5").bucket.prefix == 'a,b\\c"d/'
    assert config("-o", r"prefix=a\,uid=7/").tree.uid == 1000


def test_ro_means_read_only_and_not_with_rw():
    assert config("-o", "ro").read_only
    assert refusal("data", "/mnt", "-o", "rw,ro") == (
        "options ro and rw contradict each other (keep one)"
    )


@pytest.mark.parametrize("word", ["foreground", "-f", "help", "-V"])
def test_what_would_hang_or_end_mount_8_is_refused_in_a_list(word):
    assert refusal("data", "/mnt", f"-o{word}") == (
        f"option {word} is refused inside -o (use it on the command line)"
    )


def test_mount_8s_dry_run_is_refused_and_not_taken_for_foreground():
    assert refusal("data", "/mnt", "-f", helper=True) == (
        "mount -f is refused (a dry run is not possible)"
    )
    assert parse("data", "/mnt", "-f").foreground


# --- source -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data", ("data", "")),
        ("s3://data", ("data", "")),
        ("s3://data/", ("data", "")),
        ("s3://data/a/b/", ("data", "a/b/")),
        ("s3://data/a b", ("data", "a b/")),
    ],
)
def test_a_source_is_a_bucket_and_a_prefix(text, expected):
    assert parse_source(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "https://data",
            "source 'https://data' is not valid (expected BUCKET|s3://BUCKET/PREFIX/)",
        ),
        (
            "Data",
            (
                "source bucket='Data' is not valid (expected a bucket name: "
                "3 to 63 of a-z 0-9 . -, a letter or digit at both ends)"
            ),
        ),
        (
            "s3://data//x",
            (
                "source prefix='/x' is not valid (expected a key prefix such as data/sales/, "
                "no part of it empty, . or ..; remove the leading '/')"
            ),
        ),
    ],
)
def test_a_wrong_source_is_explained(text, message):
    with pytest.raises(BadOptionError) as caught:
        parse_source(text)
    assert str(caught.value) == message


def test_the_prefix_is_named_once():
    assert config("--prefix", "a").bucket.prefix == "a/"
    assert parse("s3://data/a/", "/mnt", "--prefix=a/").config.bucket.prefix == "a/"
    assert refusal("s3://data/a/", "/mnt", "--prefix=b/") == (
        "'s3://data/a/' and --prefix='b/' name two prefixes (keep one)"
    )


# --- errors, hints, help ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "BUCKET is missing (usage: mount-s3 BUCKET|s3://BUCKET/PREFIX/ DIRECTORY [OPTIONS])"),
        (
            ["data"],
            "DIRECTORY is missing (usage: mount-s3 BUCKET|s3://BUCKET/PREFIX/ DIRECTORY [OPTIONS])",
        ),
        (
            ["data", "m", "extra"],
            (
                "argument 'extra' is not expected "
                "(usage: mount-s3 BUCKET|s3://BUCKET/PREFIX/ DIRECTORY [OPTIONS])"
            ),
        ),
        (
            ["data", "m", "--regoin", "x"],
            (
                "option --regoin is not known (did you mean --region? "
                "It takes a region such as eu-central-1: letters, digits, - and _)"
            ),
        ),
        (
            ["data", "m", "-allow-delete"],
            "option -allow-delete is not known (did you mean --allow-delete? It takes no value)",
        ),
        (["data", "m", "-x"], "option -x is not known (see --help for all options)"),
        (
            ["data", "m", "--uid=root"],
            "option --uid='root' is not valid (expected an integer from 0 to 4294967294)",
        ),
        (
            ["data", "m", "--uid"],
            "option --uid has no value (expected an integer from 0 to 4294967294)",
        ),
        (
            ["data", "m", "--uid=1", "-o", "uid=2"],
            "option --uid is set twice, to '1' and '2' (keep one)",
        ),
        (
            ["data", "m", "--allow-other", "--allow-root"],
            (
                "options allow-other and allow-root contradict each other "
                "(every user includes root; keep one)"
            ),
        ),
        (
            ["data", "m", "-o", 'prefix="a,b"'],
            (
                "option -o 'prefix=\"a,b\"' is not valid "
                "(write a quote in it with a backslash before it)"
            ),
        ),
        (
            ["data", "m", "-o"],
            "option -o has no value (expected a comma-separated list of options)",
        ),
        (
            ["data", "m", "--posix-metadata"],
            (
                "option --posix-metadata is refused "
                "(it is not supported yet; mode and owner are those of the options)"
            ),
        ),
    ],
)
def test_a_wrong_command_line_is_explained(argv, message):
    assert refusal(*argv) == message


def test_a_hint_is_one_warning():
    assert parse("data", "m", "--max-threads", "8", "--cache=/tmp/x").warnings == (
        (
            "option --cache has no effect: "
            "there is no disk cache yet; data is read from S3 and stays in the page cache"
        ),
        "option --max-threads has no effect: one event loop serves all requests at once",
    )


def test_help_names_every_option_and_fits_a_terminal():
    text = help_text()
    assert all(f"--{option.name}" in text for option in OPTIONS if not option.name.startswith("-"))
    assert max(map(len, text.splitlines())) <= 96
    assert "--uid ID                Owner of every file and directory. [0; on the command" in text


def test_a_question_is_answered_before_anything_is_checked():
    assert question(["--help"]) == help_text()
    assert question(["data", "-h"]) == help_text()
    assert question(["--version"]).startswith("csi-s3 ")
    assert question(["-V", "--nonsense"]).startswith("csi-s3 ")
    assert question(["data", "/mnt", "--prefix", "help"]) is None
    assert question(["data", "/mnt", "--", "--help"]) is None


ARGS = st.lists(
    st.text(max_size=12)
    | st.text('-o=, fdlrhV\\"ab1', max_size=12)
    | st.sampled_from([f"--{option.name}" for option in OPTIONS] + ["-o", "data", "/mnt", "--"]),
    max_size=6,
)


@given(ARGS, st.booleans())
def test_any_command_line_is_read_or_refused_as_a_bad_option(argv, helper):
    question(argv)
    with suppress(BadOptionError):
        parse_command(argv, uid=0, gid=0, helper=helper)


LETTERS = st.characters(exclude_characters="/\0", exclude_categories=["Cs"])


@given(st.lists(st.text(LETTERS, min_size=1, max_size=9), min_size=1, max_size=3))
def test_a_prefix_keeps_its_value_through_an_option_and_through_a_list(parts):
    prefix = "/".join(parts) + "/"
    if prefix != prefix.strip() or any(part in {".", ".."} for part in parts):
        return
    escaped = prefix.replace("\\", "\\\\").replace(",", "\\,").replace('"', '\\"')
    assert config(f"--prefix={prefix}").bucket.prefix == prefix
    assert config("-o", f"prefix={escaped}").bucket.prefix == prefix
