"""The description of a mount that node (or the mount command) sends to its worker."""

from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from csi_s3.config.volume import VolumeConfig
from csi_s3.link.json_values import JsonValue, MountId

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSpec(JsonValue):
    """mount_id: also the name of the mount's directory on the node.

    volume_handle: for logs, metrics and messages.
    state_dir: the mount's state directory as the worker sees it; "" if there is none.
    credentials_dir: the volume's identity: a directory as the worker sees it, whose keys take
        precedence over all other sources; "": the mounter's, which all volumes have today. No
        key crosses the link.
    has_node: node reads reports and notices as long as the worker runs.
    """

    mount_id: MountId
    volume_handle: str
    volume: VolumeConfig
    state_dir: str = ""
    credentials_dir: str = ""
    has_node: bool = True

    @property
    def log_fields(self) -> dict[str, str]:
        return {"volume": self.volume_handle, "mount": self.mount_id}

    @override
    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, **JsonValue.to_json(self)}
