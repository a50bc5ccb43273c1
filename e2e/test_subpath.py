"""subPath of a directory, of a file, of what empties, of what does not exist yet."""


def at(claim, sub_path, **more):
    return [{"name": claim, "mountPath": "/data", "subPath": sub_path, **more}]


def test_a_directory_shows_only_what_is_below_it(ns, s3, bucket):
    s3.put(bucket, "a/b/in.txt", "hello")
    s3.put(bucket, "a/other.txt", "x")
    claim = ns.claim(bucket)
    said = ns.run(at(claim, "a/b"), "ls -A /data; cat /data/in.txt; echo new > /data/out.txt")
    assert said == "in.txt\nhello"
    assert s3.get(bucket, "a/b/out.txt") == b"new\n"


def test_a_file_is_mounted_alone(ns, s3, bucket):
    s3.put(bucket, "conf/app.ini", "[app]\n")
    mounts = at(ns.claim(bucket), "conf/app.ini", readOnly=True)
    mounts[0]["mountPath"] = "/etc/app.ini"
    assert ns.run(mounts, "cat /etc/app.ini; stat -c %F /etc/app.ini") == "[app]\nregular file\n"


def test_a_prefix_that_others_empty_stays_usable(ns, s3, bucket):
    s3.put(bucket, "jobs/1/in.txt", "hello")
    pod = ns.pod(at(ns.claim(bucket), "jobs/1"))
    assert ns.sh(pod, "ls /data") == "in.txt\n"
    s3.delete(bucket, "jobs/1/in.txt")
    ns.sh(pod, 'sleep 1.5; test -z "$(ls -A /data)"; echo again > /data/out.txt; cat /data/out.txt')
    assert s3.keys(bucket) == ["jobs/1/out.txt"]
    ns.delete(f"pod/{pod}")


def test_a_sub_path_that_does_not_exist_is_made(ns, s3, bucket):
    claim = ns.claim(bucket)
    assert ns.run(at(claim, "new/deep"), "echo x > /data/f; cat /data/f") == "x\n"
    assert "new/deep/f" in s3.keys(bucket)


def test_two_sub_paths_of_one_volume_in_a_pod(ns, s3, bucket):
    s3.put(bucket, "in/f", "hello")
    claim = ns.claim(bucket)
    mounts = [
        {"name": claim, "mountPath": "/in", "subPath": "in", "readOnly": True},
        {"name": claim, "mountPath": "/out", "subPath": "out"},
    ]
    ns.run(mounts, "cp /in/f /out/f; ! touch /in/g 2>/dev/null")
    assert s3.get(bucket, "out/f") == b"hello"
