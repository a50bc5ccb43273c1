"""The description of a mount that node (or the mount command) sends to its worker.

It is plain JSON with a version, because node and mounter are upgraded one after the other.
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

    volume_handle: for logs, metrics and messages.
    state_dir: the mount's state directory as the worker sees it; "" if there is none.
    credentials_dir: the volume's identity: a directory as the worker sees it, whose keys take
        precedence over all other sources; "": the mounter's, which all volumes have today. No
        key crosses the link.
    has_node: node reads reports and notices as long as the worker runs.
    """

    mount_id: str
    volume_handle: str
    volume: VolumeConfig
    state_dir: str = ""
    credentials_dir: str = ""
    has_node: bool = True

    @property
    def log_fields(self) -> dict[str, str]:
        return {"volume": self.volume_handle, "mount": self.mount_id}

    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild. Fields of a newer peer are dropped, missing ones get their default."""
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
