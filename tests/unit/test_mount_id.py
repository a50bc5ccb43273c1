"""The id of a mount is the same in every version.

It names the directory of a mount's spooled files: with another id, an upgraded node would not find
the files that the version before it could not upload.
"""

import pytest

from csi_s3.config.volume_context import parse_volume
from csi_s3.node import mount_ids

OPTIONS = ["allow-delete", "uid=1000", "prefix a/b/", "region eu-central-1", "metadata-ttl 60"]
LABEL = 'context="system_u:object_r:container_file_t:s0:c1,c2"'


@pytest.mark.parametrize(
    ("flags", "group", "number", "mount_id"),
    [
        ([], "", 0, "cdcb53b20bace08e2a1890b151d8ecac"),
        ([], "", 1, "7fd078a06f905467523ce6619510ebcb"),
        (OPTIONS, "", 0, "85cb7a472031bdb8e8ac93ed32c1d1f4"),
        (
            [LABEL, "endpoint-url=https://minio:9000", "memory-target=128"],
            "100",
            0,
            "223bc6addfd3a8845c769e0c75990307",
        ),
    ],
)
def test_a_volume_has_the_mount_id_that_it_has_always_had(flags, group, number, mount_id):
    volume = parse_volume({"bucketName": "my-bucket"}, flags, volume_mount_group=group)
    assert mount_ids.mount_id(mount_ids.mount_identity("pv-1", volume.config), number) == mount_id
