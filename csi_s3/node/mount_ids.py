"""The id of a mount: a hash of the volume, its options and a number, so that it cannot be chosen.

Equal volumes with equal options share a mount. While containers still have an earlier mount of the
same identity, the next one takes the next number.
"""

import hashlib
import json

from csi_s3.config.volume import VolumeConfig, canonical
from csi_s3.link.spec import MountSpec

MAX_NUMBERS = 1000


def mount_identity(handle: str, config: VolumeConfig) -> str:
    """Of a volume and its options: equal ones share a mount."""
    return json.dumps([handle, canonical(config)])


def mount_id(identity: str, number: int) -> str:
    return hashlib.sha256(f"{number} {identity}".encode()).hexdigest()[:32]


def is_true_to_its_id(spec: MountSpec) -> bool:
    """Whether node itself described a mount in this way: no other volume has the id."""
    identity = mount_identity(spec.volume_handle, spec.volume)
    return any(mount_id(identity, number) == spec.mount_id for number in range(MAX_NUMBERS))
