"""The mount of running pods dies: what their restarted containers do reaches S3, or fails.

Never does a container see the directory of the node's disk that is below the mount.
"""

import time
from itertools import product

import pytest

from e2e import kube
from e2e.inspect_node import KUBELET

# A container that does not find what is in the bucket says so, and stays.
LOOK = "test -e /data/seed || { ls -A /data && echo bare > /dev/termination-log && sleep 3600; }"
STEPS = 15
JOB = f"for i in $(seq {STEPS}); do echo $i > /data/step-$i; sleep 1; done; echo ok > /data/result"
BEAT = "while true; do date +%s > /data/beat; sleep 1; done"
PROBE = {"exec": {"command": ["ls", "/data"]}, "periodSeconds": 2, "timeoutSeconds": 5}
# User, and whether the container has a subPath of a volume or a volume of its own.
VARIANTS = {
    f"{'sub' if is_sub else 'all'}-{user}": (user, is_sub)
    for user, is_sub in product((0, 1000), (False, True))
}
WELL_WITHIN_S = 180


class Scene:
    """Each variant has its files below its name in the bucket."""

    def __init__(self, ns, s3, *, node, release, inspector):
        self.ns, self.s3, self.bucket, self.node = ns, s3, s3.bucket(), node
        self.release, self.inspector = release, inspector
        options = ("allow-delete", "allow-overwrite", "uid=1000", "gid=1000")
        shared = ns.claim(self.bucket, *options)
        self._claims = {}
        for name, (_, is_sub) in VARIANTS.items():
            s3.put(self.bucket, f"{name}/seed", "x")
            own = () if is_sub else (f"prefix={name}/",)
            self._claims[name] = shared if is_sub else ns.claim(self.bucket, *options, *own)

    def templates(self, script, **more):
        """A pod's spec for each variant."""
        for name, (user, is_sub) in VARIANTS.items():
            mount = {"name": self._claims[name], "mountPath": "/data"}
            mount |= {"subPath": name} if is_sub else {}
            said = f"set -e; {LOOK}; {script}"
            yield name, self.ns.template([mount], said, user=user, node=self.node, **more)

    def has(self, file):
        return {f"{name}/{file}" for name in VARIANTS} <= set(self.s3.keys(self.bucket))

    def on_disk(self):
        """Files on the node's disk where volumes are mounted, also those that a mount hides."""
        find = (
            f"mount --bind {KUBELET}/pods /mnt"
            " && find /mnt -path '*kubernetes.io~csi/*/mount/*' -print"
            " -o -path '*/volume-subpaths/*' -type f -size +0 -print;"
            f" find {KUBELET}/plugins/{self.release.driver}/state/leftovers 2>/dev/null || true"
        )
        return self.inspector.sh(self.node, f'unshare -m --propagation private sh -c "{find}"')

    def kill_mounter(self):
        """As the OOM killer does: its container is started again at once."""
        pod = kube.get("pod", self.release.pods("mounter", self.node)[0], self.release.namespace)
        uid = pod["metadata"]["uid"].replace("-", "[-_]")
        self.inspector.sh(
            self.node,
            f'for p in /proc/[0-9]*; do grep -q "{uid}" $p/cgroup && grep -qa mounter $p/cmdline'
            " && grep -q 'NSpid:.*[[:space:]]1$' $p/status && kill -9 ${p#/proc/}; done; true",
        )

    def kill_workers(self):
        self.release.kill_workers(self.node, self.bucket)

    def delete_mounter(self):
        old = set(self.release.pods("mounter", self.node))
        kube.kubectl("delete", "pod", "-n", self.release.namespace, *old, "--wait=false")
        self.release.replaced("mounter", self.node, old)

    def pods(self):
        return kube.find("pods", "-n", self.ns.name)

    def end(self, kind):
        """No pod stays in Terminating."""
        self.ns.delete(kind, "--all")
        kube.until(lambda: not self.pods(), what="the end of the pods", within_s=90)


@pytest.fixture
def scene(ns, s3, nodes, release, inspector):
    made = Scene(ns, s3, node=nodes[0], release=release, inspector=inspector)
    before = made.on_disk()
    yield made
    made.end("job,deployment")
    assert made.on_disk() == before


@pytest.mark.parametrize("end", [Scene.kill_mounter, Scene.kill_workers])
def test_a_job_is_complete_only_with_its_files_in_the_bucket(scene, end):
    before = scene.on_disk()
    for name, spec in scene.templates(JOB, restartPolicy="OnFailure"):
        job = {"backoffLimit": 50, "template": {"spec": spec}}
        scene.ns.apply("batch/v1", "Job", name, job)
    kube.until(lambda: scene.has("step-3"), what="the third step of all")
    end(scene)
    kube.kubectl(
        "wait", "-n", scene.ns.name, "job", "--all", "--for=condition=Complete",
        f"--timeout={WELL_WITHIN_S}s", within_s=WELL_WITHIN_S + 10,
    )  # fmt: skip
    assert all(scene.has(f"step-{i + 1}") for i in range(STEPS))
    assert scene.has("result")
    statuses = [pod["status"]["containerStatuses"][0] for pod in scene.pods()]
    assert min(status["restartCount"] for status in statuses) > 0, "nothing was killed"
    assert scene.on_disk() == before


def test_a_deployment_goes_on_by_itself(scene):
    before = scene.on_disk()
    more = {"restartPolicy": "Always", "container": {"livenessProbe": PROBE}}
    for name, spec in scene.templates(BEAT, **more):
        template = {"metadata": {"labels": {"app": name}}, "spec": spec}
        selector = {"matchLabels": {"app": name}}
        scene.ns.apply("apps/v1", "Deployment", name, {"selector": selector, "template": template})
    kube.until(lambda: scene.has("beat"), what="the first beats")
    scene.delete_mounter()
    since = time.time()

    def all_beat():
        beats = [scene.s3.get(scene.bucket, f"{name}/beat") for name in VARIANTS]
        return all(int(beat or 0) > since for beat in beats)

    kube.until(all_beat, what="beats of all", within_s=WELL_WITHIN_S)
    for pod in scene.pods():
        told = scene.ns.event(pod["metadata"]["name"], "VolumeBroken")
        assert "until they are restarted" in told
    assert scene.on_disk() == before
