"""SELinux labels as mount options: as kubelet, mount(8) and people write them."""

import pytest

from csi_s3.config.mount_command import parse_command
from csi_s3.config.volume import canonical
from csi_s3.config.volume_context import parse_volume
from csi_s3.errors import BadOptionError

LABEL = "system_u:object_r:container_file_t:s0:c10,c200"


def labels(*flags):
    return parse_volume({"bucketName": "data"}, flags).config.labels


def command(*argv):
    return parse_command([*argv, "bucket", "/mnt"], uid=0, gid=0).config.labels


@pytest.mark.parametrize(
    "flags",
    [
        [f'context="{LABEL}"'],  # kubelet's
        [f"context={LABEL}"],
        [f"context {LABEL}"],
        [f'--context="{LABEL}"'],
        [f'uid=1,context="{LABEL}",gid=2'],
    ],
)
def test_a_label_is_taken_with_its_commas(flags):
    assert labels(*flags) == {"context": LABEL}


def test_mounts_with_and_without_a_label_are_not_shared():
    with_, without = (
        canonical(parse_volume({"bucketName": "data"}, flags).config)
        for flags in ([f"context={LABEL}"], [])
    )
    assert with_ != without


def test_the_other_labels_of_mount_are_known():
    assert labels("fscontext=u:r:t", "rootcontext=u:r:t:s0-s0:c0.c1023") == {
        "fscontext": "u:r:t",
        "rootcontext": "u:r:t:s0-s0:c0.c1023",
    }
    with pytest.raises(BadOptionError, match=r"mount option defcontext is refused .*use context"):
        labels("defcontext=u:r:t")


@pytest.mark.parametrize(
    "text", ["container_file_t", "u:r", '"u:r:t', "u:r:t s0", "u:r:t;x", ":::"]
)
def test_what_is_no_label_is_refused(text):
    with pytest.raises(BadOptionError) as caught:
        labels(f"context={text}")
    assert "expected an SELinux label, user:role:type or user:role:type:level" in str(caught.value)


@pytest.mark.parametrize(
    "argv",
    [
        ["-o", f'context="{LABEL}"'],  # mount(8)'s
        ["-o", f'ro,context="{LABEL}",uid=7'],
        ["-o", "context=" + LABEL.replace(",", "\\,")],
        ["--context", LABEL],
        [f'--context="{LABEL}"'],
    ],
)
def test_a_command_line_takes_a_label(argv):
    assert command(*argv) == {"context": LABEL}


@pytest.mark.parametrize(
    "text", ['prefix="a,b/"', 'xcontext="u:r:t"', 'context="u:r:t"x', 'context=""']
)
def test_other_quotes_in_a_list_are_still_refused(text):
    with pytest.raises(BadOptionError, match="write a quote in it with a backslash before it"):
        command("-o", text)
