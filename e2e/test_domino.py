"""A bucket as Domino's External Data Volume: the manifests of the guides, word for word."""

import pytest
import yaml

from e2e import kube, space

MANIFESTS = """
apiVersion: v1
kind: PersistentVolume
metadata: {name: s3-pv}
spec:
  capacity: {storage: 1Ti}
  accessModes: [ReadWriteMany]
  mountOptions: [allow-delete, region us-east-1, uid=12574, gid=12574]
  csi: {driver: s3.csi.aws.com, volumeHandle: s3-csi-driver-volume, volumeAttributes: {bucketName: YOUR-BUCKET-NAME}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: s3-pvc, namespace: domino-compute}
spec: {accessModes: [ReadWriteMany], storageClassName: "", resources: {requests: {storage: 1Ti}}, volumeName: s3-pv}
"""  # noqa: E501
USER = 12574
CSV = "id,city\n1,Oslo\n2,Lima\n"
PANDAS = """
import os
import pandas as pd
assert os.getuid() == 12574
frame = pd.read_csv("/mnt/s3-data/in.csv")
print(sorted(os.listdir("/mnt/s3-data")), frame.city.tolist())
frame.to_csv("/mnt/s3-data/out.csv", index=False)
frame.to_parquet("/mnt/s3-data/out.parquet")
again = pd.read_parquet("/mnt/s3-data/out.parquet")
assert again.equals(pd.read_csv("/mnt/s3-data/out.csv")), again
big = pd.DataFrame({"x": range(3_000_000)})
big.to_parquet("/mnt/s3-data/big.parquet", compression=None)
assert pd.read_parquet("/mnt/s3-data/big.parquet", columns=["x"]).x.sum() == big.x.sum()
os.remove("/mnt/s3-data/big.parquet")
"""


@pytest.fixture
def domino(release, workload, bucket):
    with space.made(workload, name="domino-compute") as made:
        made.volumes.append("s3-pv")
        for text in MANIFESTS.replace("YOUR-BUCKET-NAME", bucket).split("---"):
            kube.apply(yaml.safe_load(text))
        yield made


def test_the_guides_manifests_serve_pandas_as_user_12574_under_the_guides_policy(
    domino, s3, bucket
):
    s3.put(bucket, "in.csv", CSV)
    mounts = [{"name": "s3-pvc", "mountPath": "/mnt/s3-data"}]
    said = domino.run(
        mounts, "exec python -", user=USER,
        container={"command": ["python", "-c", PANDAS]},
    )  # fmt: skip
    assert "['in.csv'] ['Oslo', 'Lima']" in said
    assert s3.keys(bucket) == ["in.csv", "out.csv", "out.parquet"]
    assert s3.get(bucket, "out.csv").decode() == CSV


def test_a_workspace_sees_space_owner_and_modes(domino, s3, bucket):
    s3.put(bucket, "in.csv", CSV)
    mounts = [{"name": "s3-pvc", "mountPath": "/domino/edv/s3-pvc"}]
    pod = domino.pod(mounts, user=USER)
    sh = lambda script: domino.sh(pod, f"cd /domino/edv/s3-pvc; {script}").split()  # noqa: E731
    assert sh("stat -c '%u %g %a' . in.csv") == ["12574", "12574", "755", "12574", "12574", "644"]
    assert "9007199254740992" in sh("df --output=size .")
    sh("dd if=/dev/zero of=zeros bs=1M count=20 2>/dev/null; mkdir d; cp in.csv d/copy.csv")
    assert sh("ls d zeros; stat -c %s zeros") == ["zeros", "d:", "copy.csv", str(20 << 20)]
    sh("rm -r d zeros")
    assert s3.keys(bucket) == ["in.csv"]
