"""How much of the node's disk each volume's spool may take, from the limit of the mounter.

The limit is divided by the number of volumes, as the memory is: a volume that fills its share takes
nothing from the others. One count that all volumes draw from was rejected: the first that fills it
would end the changes of all others, and workers would have to be asked or believed.
"""

import logging
import os

from csi_s3.config.programs import SpoolLimit
from csi_s3.config.volume import SpoolRules

log = logging.getLogger(__name__)


class SpoolShares:
    """The shares that are taken. Plain code, for the keeper's tasks.

    limit: None: each volume's spool may take what its option says.
    """

    def __init__(
        self, limit: SpoolLimit | None, max_volumes: int, rules: SpoolRules | None = None
    ) -> None:
        self._limit, self._max_volumes = limit, max_volumes
        self.rules = rules or SpoolRules()
        self._taken: dict[str, int] = {}

    def allot(self, mount_id: str, volume: str, state_dir: str, asked_bytes: int) -> int:
        """Take a share for this mount until `release`; returns its bytes.

        state_dir: on the disk. asked_bytes: what the volume's spool-size says. More volumes than
        the limit was divided by get what is left, which may be nothing.
        """
        self.release(mount_id)
        limit_bytes = self._limit_bytes(state_dir)
        if limit_bytes is None:
            return asked_bytes
        share = limit_bytes // self._max_volumes
        given = min(asked_bytes, share, max(0, limit_bytes - sum(self._taken.values())))
        self._taken[mount_id] = given
        if given < min(asked_bytes, share):
            log.warning(
                "the spools of %d volumes have taken mounter.spool.limit, and %d bytes are left for"
                " this one: raise mounter.maxVolumes, or the limit",
                len(self._taken) - 1,
                given,
                extra={"volume": volume},
            )
        return given

    def release(self, mount_id: str) -> None:
        """Give back the share of a mount that has ended, if it has one."""
        self._taken.pop(mount_id, None)

    def _limit_bytes(self, state_dir: str) -> int | None:
        if self._limit is None or not state_dir:
            return None
        if self._limit.percent is None:
            return self._limit.limit_bytes
        try:
            disk = os.statvfs(state_dir)
        except OSError as exc:
            log.warning("%s: %s: its disk's size is unknown", state_dir, exc.strerror)
            return None
        return disk.f_blocks * disk.f_frsize * self._limit.percent // 100
