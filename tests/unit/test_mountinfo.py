import pytest

from csi_s3.kernel.mountinfo import MountEntry, mount_at, parse_mountinfo, read_mountinfo

FUSE = (
    rb"88 67 0:43 / /var/lib/kubelet/pods/a\040b/mount ro,nosuid,nodev shared:7 master:1"
    rb" - fuse.csi-s3 s3://b/a\040\134\043\011\012 rw,user_id=0,allow_other"
)
PLAIN = b"4 1 254:0 /sub / rw,relatime - ext4 /dev/vda rw"


def test_a_line_with_optional_fields_and_escapes():
    (entry,) = parse_mountinfo(FUSE + b"\n")
    assert entry == MountEntry(
        mount_id=88,
        device="0:43",
        root="/",
        mount_point="/var/lib/kubelet/pods/a b/mount",
        options=frozenset({"ro", "nosuid", "nodev"}),
        fs_type="fuse.csi-s3",
        source="s3://b/a \\#\t\n",
        super_options=frozenset({"rw", "user_id=0", "allow_other"}),
    )
    assert (entry.minor, entry.is_fuse, entry.read_only) == (43, True, True)


def test_a_line_without_optional_fields():
    (entry,) = parse_mountinfo(PLAIN)
    assert (entry.root, entry.mount_point, entry.source) == ("/sub", "/", "/dev/vda")
    assert (entry.minor, entry.is_fuse, entry.read_only) == (0, False, False)


def test_names_that_are_no_unicode_and_carriage_returns_survive():
    (entry,) = parse_mountinfo(b"4 1 0:9 / /mnt/\xff\rx rw - fuse s rw\n")
    assert entry.mount_point == "/mnt/\udcff\rx"
    assert entry.is_fuse


@pytest.mark.parametrize(
    ("fs_type", "is_fuse"),
    [("fuse", True), ("fuse.sshfs", True), ("fuseblk", False), ("fusectl", False), ("ext4", False)],
)
def test_which_types_are_fuse(fs_type, is_fuse):
    (entry,) = parse_mountinfo(b"4 1 0:9 / / rw - %s s rw" % fs_type.encode())
    assert entry.is_fuse is is_fuse


@pytest.mark.parametrize("line", [b"nonsense", b"1 2 3 - a b c", b"4 1 0:9 / / rw fuse s rw"])
def test_what_is_no_mountinfo_is_an_error_that_shows_the_line(line):
    with pytest.raises(ValueError, match="not a line of mountinfo: "):
        list(parse_mountinfo(line))


def test_this_machines_own_is_read():
    assert read_mountinfo()
    root = mount_at("/")
    assert root is not None
    assert mount_at("/no/such/mount") is None
