"""How much memory each volume may use, from the limit of the mounter's pod.

The kubelet sets memory.oom.group: one process too many kills the whole mounter and every mount. So
each worker limits itself, to a share that is fixed when its volume is mounted: a share that moved
with the number of volumes would have to be taken back from a worker that is using it.

A worker costs more than its buffers. Private memory, measured under six readers and six writers of
large files and four of small ones against MinIO: 13 MiB idle; at the peak 85 MiB with a budget of
32 MiB, 119 with 64, 194 with 128, 347 with 256: 45 MiB and a sixth more than the budget (64
connections, requests under way, what malloc keeps). Keeper 18 MiB, zygote 45 that workers share.
"""

import logging
from dataclasses import replace

from csi_s3.config.volume import DEFAULT_MEMORY_BYTES, MIB, VolumeConfig
from csi_s3.errors import BadOptionError, MemoryLimitError

log = logging.getLogger(__name__)

RESERVE_BYTES = 96 * MIB  # keeper and zygote
WORKER_BYTES = 56 * MIB  # whatever its budget is
PERCENT = 120 + 25  # what the budget really takes; the quarter is what fs.tree gives to inodes
LEAST_BYTES = 16 * MIB  # two parts of 8 MiB
MODEST_BYTES = 64 * MIB  # below it some ten writers of large files wait for one another


class MemoryShares:
    """What is left of the limit. Plain code, for the keeper's tasks.

    limit_bytes: of the pod; None: nobody limits it, and each volume has what it asks for.
    """

    def __init__(self, limit_bytes: int | None, max_volumes: int) -> None:
        """Divide the limit.

        Raises:
            BadOptionError: it is too small for so many volumes.

        """
        self._max_volumes = max_volumes
        self._left: int | None = None
        self.share_bytes = DEFAULT_MEMORY_BYTES
        self._taken: dict[str, int] = {}
        if limit_bytes is None:
            return
        self._left = limit_bytes - RESERVE_BYTES
        self.share_bytes = _buffers(self._left // max_volumes)
        if self.share_bytes < LEAST_BYTES:
            least = RESERVE_BYTES + max_volumes * _cost(LEAST_BYTES)
            raise BadOptionError(
                f"--memory-limit {limit_bytes} is too small for --max-volumes {max_volumes}",
                f"expected at least {least} bytes ({-(-least // MIB)} MiB), or fewer volumes",
            )
        sizes = (max_volumes, self.share_bytes // MIB, limit_bytes // MIB)
        log.info("each of %d volumes has %d MiB for buffers, of a limit of %d MiB", *sizes)
        if self.share_bytes < MODEST_BYTES:
            log.warning(
                "%d MiB for a volume's buffers are few: programs that write large files at the "
                "same time wait for one another; raise --memory-limit or lower --max-volumes",
                self.share_bytes // MIB,
            )

    def allot(self, mount_id: str, volume: str, config: VolumeConfig) -> VolumeConfig:
        """Take a share for this mount until `release`, and write it into its configuration.

        A mount that is made anew has its predecessor's, which ends before it begins.

        Raises:
            MemoryLimitError: there is not enough left.

        """
        self.release(mount_id)
        asked = config.tree.memory_bytes
        buffers = self.share_bytes if asked is None else asked
        if self._left is not None:
            buffers = self._fitted(volume, asked, self._left)
            self._taken[mount_id] = _cost(buffers)
            self._left -= _cost(buffers)
        return _with_buffers(volume, config, buffers)

    def release(self, mount_id: str) -> None:
        """Give back the share of a mount that has ended; nothing if it has none."""
        cost = self._taken.pop(mount_id, 0)
        if self._left is not None:
            self._left += cost

    def _fitted(self, volume: str, asked: int | None, left: int) -> int:
        if asked is not None and asked > self.share_bytes:
            log.warning(
                "memory-target=%d (MiB) is more than a volume's share of the mounter's memory: "
                "%d MiB are used; raise the mounter's memory limit or lower its maxVolumes",
                asked // MIB,
                self.share_bytes // MIB,
                extra={"volume": volume},
            )
        wanted = min(self.share_bytes, asked or self.share_bytes)
        possible = _buffers(left)
        if possible < min(LEAST_BYTES, wanted):
            raise MemoryLimitError(
                f"volume {volume!r}: the mounter's memory is divided among the {len(self._taken)} "
                "volumes that it serves, and nothing is left for another",
                "raise mounter.maxVolumes, and mounter.resources.limits.memory with it "
                "(--max-volumes and --memory-limit)",
            )
        if len(self._taken) >= self._max_volumes:
            log.warning(
                "this is volume %d of this node, but mounter.maxVolumes is %d: it gets what the "
                "others left, %d MiB; raise mounter.maxVolumes and the mounter's memory limit",
                len(self._taken) + 1,
                self._max_volumes,
                min(wanted, possible) // MIB,
                extra={"volume": volume},
            )
        return min(wanted, possible)


def _cost(buffers: int) -> int:
    return WORKER_BYTES - (-buffers * PERCENT // 100)


def _buffers(cost: int) -> int:
    """As many bytes of buffers as a worker of that cost can have, in whole MiB."""
    return max(0, cost - WORKER_BYTES) * 100 // PERCENT // MIB * MIB


def _with_buffers(volume: str, config: VolumeConfig, buffers: int) -> VolumeConfig:
    """The configuration with this budget; no part is more than half of it."""
    tree, most = config.tree, buffers // 2
    if max(tree.read_part_bytes, tree.write_part_bytes) > most:
        log.warning(
            "parts of %d bytes do not fit into a budget of %d MiB: parts of at most %d bytes are "
            "used; raise the mounter's memory limit or lower its maxVolumes",
            max(tree.read_part_bytes, tree.write_part_bytes),
            buffers // MIB,
            most,
            extra={"volume": volume},
        )
    fitted = replace(
        tree,
        memory_bytes=buffers,
        read_part_bytes=min(tree.read_part_bytes, most),
        write_part_bytes=min(tree.write_part_bytes, most),
    )
    return replace(config, tree=fitted)
