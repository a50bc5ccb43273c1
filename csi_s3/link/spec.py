"""The description of a mount, from node (or the mount command) to the worker that serves it.

Plain JSON with a version: node and mounter are upgraded one after the other.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, TypeVar

from csi_s3.config.volume import BucketConfig, TreeConfig, VolumeConfig

VERSION = 1

D = TypeVar("D")


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSpec:
    """mount_id: [0-9a-f]{32}, also the name of the mount's directories on the node.

    volume_handle: for logs and reports.
    state_dir: the mount's state directory as the worker sees it; "" where there is none.
    credentials_dir: the volume's identity: a directory as the worker sees it, whose keys win over
        all other sources; "": the mounter's own, if it has one. No key crosses the link.
    has_node: node takes the worker's reports, for as long as the worker lives.
    """

    mount_id: str
    volume_handle: str
    volume: VolumeConfig
    state_dir: str = ""
    credentials_dir: str = ""
    has_node: bool = True

    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Parse; fields that a newer peer added are dropped, missing ones have their default."""
        volume = data["volume"]
        return cls(
            mount_id=data["mount_id"],
            volume_handle=data["volume_handle"],
            state_dir=data.get("state_dir", ""),
            credentials_dir=data.get("credentials_dir", ""),
            has_node=data.get("has_node", True),
            volume=_known(
                VolumeConfig,
                {
                    **volume,
                    "bucket": _known(BucketConfig, volume["bucket"]),
                    "tree": _known(TreeConfig, volume["tree"]),
                },
            ),
        )


def _known(cls: type[D], data: Mapping[str, Any]) -> D:
    names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    return cls(**{k: v for k, v in data.items() if k in names})
