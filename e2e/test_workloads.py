"""Pods as people start them: Deployment, Job, StatefulSet, init containers, locked in."""

from e2e import kube, space


def of(ns, labels, mounts, script, **more):
    """The fields of what makes pods from a template."""
    spec = ns.template(mounts, script, **more)
    return {"metadata": {"labels": labels}, "spec": spec}


def test_a_deployment_reads_and_writes_and_survives_a_rollout(ns, s3, bucket):
    s3.put(bucket, "in.txt", "hello")
    claim, labels = ns.claim(bucket, "allow-overwrite"), {"app": "web"}
    script = f"cat /data/in.txt > /data/$HOSTNAME; {space.IDLE}"
    ready = {"exec": {"command": ["sh", "-c", "test -s /data/$HOSTNAME"]}, "periodSeconds": 1}
    ns.apply("apps/v1", "Deployment", "web", {
        "replicas": 3,
        "selector": {"matchLabels": labels},
        "template": of(ns, labels, claim, script, container={"readinessProbe": ready}),
    })  # fmt: skip
    rollout = ("rollout", "-n", ns.name)
    kube.kubectl(*rollout, "status", "deployment/web", "--timeout=90s", within_s=100)
    assert len(s3.keys(bucket)) == 1 + 3
    kube.kubectl(*rollout, "restart", "deployment/web")
    kube.kubectl(*rollout, "status", "deployment/web", "--timeout=90s", within_s=100)
    written = [key for key in s3.keys(bucket) if key.startswith("web-")]
    assert len(written) >= 6
    assert {s3.get(bucket, key) for key in written} == {b"hello"}


def test_a_job_of_several_pods_completes(ns, s3, bucket):
    claim = ns.claim(bucket)
    script = "echo $JOB_COMPLETION_INDEX > /data/part-$JOB_COMPLETION_INDEX"
    ns.apply("batch/v1", "Job", "parts", {
        "completions": 4, "parallelism": 2, "completionMode": "Indexed", "backoffLimit": 0,
        "template": of(ns, {}, claim, script, restartPolicy="Never"),
    })  # fmt: skip
    kube.kubectl(
        "wait", "-n", ns.name, "job/parts", "--for=condition=Complete", "--timeout=90s",
        within_s=100,
    )  # fmt: skip
    assert s3.keys(bucket) == [f"part-{i}" for i in range(4)]


def test_a_stateful_set_has_a_volume_for_each_pod(ns, s3, bucket):
    labels = {"app": "db"}
    for i in range(2):
        ns.claim(bucket, f"prefix=db-{i}/", name=f"data-db-{i}")
    template = of(ns, labels, [{"name": "data", "mountPath": "/data"}],
                  f"echo $HOSTNAME > /data/name; {space.IDLE}")  # fmt: skip
    template["spec"]["volumes"] = []
    ns.apply("apps/v1", "StatefulSet", "db", {
        "replicas": 2, "serviceName": "db", "selector": {"matchLabels": labels},
        "podManagementPolicy": "Parallel",
        "template": template,
        "volumeClaimTemplates": [{
            "metadata": {"name": "data"},
            "spec": {
                "accessModes": ["ReadWriteMany"], "storageClassName": "",
                "resources": {"requests": {"storage": "1Ti"}},
            },
        }],
    })  # fmt: skip
    kube.kubectl(
        "rollout", "status", "-n", ns.name, "statefulset/db", "--timeout=90s", within_s=100
    )
    kube.until(lambda: s3.keys(bucket) == ["db-0/name", "db-1/name"], what="both names")
    assert s3.get(bucket, "db-1/name") == b"db-1\n"


def test_what_an_init_container_wrote_the_main_one_reads(ns, s3, bucket):
    claim = ns.claim(bucket)
    spec = ns.template(claim, "cat /data/made")
    first = {
        **spec["containers"][0],
        "name": "first",
        "command": ["sh", "-c", "echo 1 >/data/made"],
    }
    assert ns.run(claim, "cat /data/made", initContainers=[first]) == "1\n"
    assert s3.get(bucket, "made") == b"1\n"


def test_a_pod_of_the_restricted_profile_reads_and_writes(release, workload, s3, bucket):
    labels = {
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/enforce-version": "latest",
    }
    s3.put(bucket, "in.txt", "hello")
    with space.made(workload, labels=labels) as ns:
        claim = ns.claim(bucket, "uid=1000", "gid=1000")
        more = {
            "securityContext": space.RESTRICTED,
            "container": {"securityContext": {**space.NO_RIGHTS, "readOnlyRootFilesystem": True}},
        }
        assert ns.run(claim, "id -u; cat /data/in.txt | tee /data/out.txt", **more) == "1000\nhello"
    assert s3.get(bucket, "out.txt") == b"hello"


def test_a_sigterm_handler_that_writes_is_heard_to_the_end(ns, s3, bucket):
    claim = ns.claim(bucket)
    script = (
        "exec 3>/data/open; echo first >&3;"
        " trap 'echo last >&3; echo bye > /data/bye; exit 0' TERM; touch /tmp/up; sleep 300 & wait"
    )
    ready = {"exec": {"command": ["test", "-e", "/tmp/up"]}, "periodSeconds": 1}
    pod = ns.pod(claim, script, grace_s=30, container={"readinessProbe": ready})
    ns.delete(f"pod/{pod}")
    assert s3.get(bucket, "bye") == b"bye\n"
    assert s3.get(bucket, "open") == b"first\nlast\n"


def test_ten_volumes_in_a_pod(ns, s3):
    buckets = [s3.bucket() for _ in range(10)]
    claims = ns.claims(*buckets)
    mounts = [{"name": name, "mountPath": f"/data/{i}"} for i, name in enumerate(claims)]
    script = "for i in $(seq 0 9); do echo $i > /data/$i/number; done; cat /data/*/number"
    assert ns.run(mounts, script).split() == [str(i) for i in range(10)]
    assert [s3.get(bucket, "number") for bucket in buckets] == [b"%d\n" % i for i in range(10)]
