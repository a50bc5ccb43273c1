"""Who may do what: fsGroup, uid and gid, and readOnly in each place where it can be written."""

import pytest

READ_ONLY = "Read-only file system"


def test_fs_group_owns_files_and_its_members_write(ns, s3, bucket):
    s3.put(bucket, "in.txt", "hello")
    more = {"user": 1000, "securityContext": {"fsGroup": 2000}}
    script = "stat -c '%u %g %a' /data /data/in.txt; cp /data/in.txt /data/out.txt"
    said = ns.run(ns.claim(bucket), script, **more)
    assert said.splitlines() == ["0 2000 770", "0 2000 660"]
    assert s3.get(bucket, "out.txt") == b"hello"


def test_two_groups_share_a_volume_and_each_sees_its_own(ns, s3, bucket, nodes):
    s3.put(bucket, "in.txt", "hello")
    claim = ns.claim(bucket)
    pods = [
        ns.pod(claim, user=1000, securityContext={"fsGroup": group}, node=nodes[0])
        for group in (2000, 3000)
    ]
    assert [ns.sh(pod, "stat -c %g /data/in.txt") for pod in pods] == ["2000\n", "3000\n"]
    ns.sh(pods[0], "echo 1 > /data/one")
    assert ns.sh(pods[1], "cat /data/one") == "1\n"


def test_without_uid_gid_and_fs_group_another_user_reads_only(ns, s3, bucket):
    s3.put(bucket, "in.txt", "hello")
    pod = ns.pod(ns.claim(bucket), user=1000)
    assert ns.sh(pod, "cat /data/in.txt") == "hello"
    assert "Permission denied" in ns.fails(pod, "echo x > /data/new")
    assert "uid=1000" in ns.event(pod, "NotWritable")


@pytest.mark.parametrize("place", ["container", "pod", "mode", "option"])
def test_read_only_is_kept_wherever_it_is_written(ns, s3, bucket, place):
    s3.put(bucket, "in.txt", "hello")
    options = ["read-only"] if place == "option" else []
    mode = "ReadOnlyMany" if place == "mode" else "ReadWriteMany"
    claim = ns.claim(bucket, *options, mode=mode)
    mount = {"name": claim, "mountPath": "/data", "readOnly": place == "container"}
    pod = ns.pod([mount], claim_read_only=place == "pod")
    assert ns.sh(pod, "cat /data/in.txt") == "hello"
    for change in ("echo x > /data/new", "rm /data/in.txt", "mkdir /data/d", "touch /data/in.txt"):
        assert READ_ONLY in ns.fails(pod, change)
    assert s3.keys(bucket) == ["in.txt"]


def test_a_read_only_and_a_writing_pod_share_a_volume(ns, s3, bucket, nodes):
    claim = ns.claim(bucket, "allow-overwrite")
    reader = ns.pod(claim, claim_read_only=True, node=nodes[0])
    writer = ns.pod(claim, node=nodes[0])
    ns.sh(writer, "echo 1 > /data/f")
    assert ns.sh(reader, "cat /data/f") == "1\n"
    assert READ_ONLY in ns.fails(reader, "echo 2 > /data/f")
    assert READ_ONLY in ns.fails(reader, "echo 2 > /data/g")
    later = ns.pod(claim, claim_read_only=True, node=nodes[0])
    ns.sh(writer, "echo 3 > /data/f")
    assert READ_ONLY in ns.fails(later, "rm /data/f")
    assert ns.sh(later, "cat /data/f") == "3\n"


def test_without_allow_delete_and_allow_overwrite_what_is_there_stays(ns, s3, bucket):
    s3.put(bucket, "in.txt", "hello")
    pod = ns.pod(ns.claim(bucket))
    assert "Operation not permitted" in ns.fails(pod, "rm /data/in.txt")
    assert "Operation not permitted" in ns.fails(pod, "echo x > /data/in.txt")
    assert s3.get(bucket, "in.txt") == b"hello"
