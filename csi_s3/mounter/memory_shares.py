"""How much memory each volume may use, from the limit of the mounter's pod.

The kubelet sets memory.oom.group, so exceeding the limit kills the whole mounter and every mount.
Therefore each worker limits itself to a share that is fixed when its volume is mounted: a share
that changed with the number of volumes would have to be taken back from a worker that uses it.

A worker costs more than its buffers. Private memory, measured under six readers and six writers of
large files and four of small ones against MinIO: 13 MiB idle; at the peak 85 MiB with a budget of
32 MiB, 119 with 64, 194 with 128, 347 with 256: 45 MiB and a sixth more than the budget (64
connections, requests under way, what malloc keeps). Keeper 18 MiB, zygote 45 that workers share.
"""

import logging
from dataclasses import replace

from csi_s3.config.volume import (
    DEFAULT_MEMORY_BYTES,
    LEAST_RECORDS_BYTES,
    MIB,
    VolumeConfig,
    records_bytes,
)
from csi_s3.errors import BadOptionError, MemoryLimitError

log = logging.getLogger(__name__)

RESERVE_BYTES = 96 * MIB  # keeper and zygote
WORKER_BYTES = 56 * MIB  # of a worker, in addition to its buffers
PERCENT = 120  # of the budget for buffers: what it really takes
LEAST_BYTES = 16 * MIB  # two parts of 8 MiB
MODEST_BYTES = 64 * MIB  # with less, ten concurrent writers of large files wait for one another


class MemoryShares:
    """The shares of the limit that are taken and what is left. Plain code, for the keeper's tasks.

    limit_bytes: the pod's; None: there is no limit, and each volume gets what it asks for.
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
            least = RESERVE_BYTES + max_volumes * cost_of(LEAST_BYTES)
            raise BadOptionError(
                f"--memory-limit {limit_bytes} is too small for --max-volumes {max_volumes}",
                f"expected at least {least} bytes ({-(-least // MIB)} MiB), or fewer volumes",
            )
        sizes = (max_volumes, self.share_bytes // MIB, limit_bytes // MIB)
        log.info("each of %d volumes has %d MiB for buffers, of a limit of %d MiB", *sizes)
        if self.share_bytes < MODEST_BYTES:
            log.warning(
                "%d MiB for a volume's buffers is little: programs that write large files at the "
                "same time wait for one another; raise --memory-limit or lower --max-volumes",
                self.share_bytes // MIB,
            )

    def allot(self, mount_id: str, volume: str, asked: int | None) -> int:
        """Take a share for this mount until `release`; returns the bytes for its buffers.

        A mount that replaces another with the same id takes over its share.
        volume: the handle, for messages. asked: what the volume's memory-target asks for.

        Raises:
            MemoryLimitError: there is not enough left.

        """
        self.release(mount_id)
        if self._left is None:
            return self.share_bytes if asked is None else asked
        buffers = self._fitted(volume, asked, self._left)
        self._taken[mount_id] = cost_of(buffers)
        self._left -= cost_of(buffers)
        return buffers

    def release(self, mount_id: str) -> None:
        """Give back the share of a mount that has ended, if it has one."""
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


def fitted_to(config: VolumeConfig, memory_bytes: int) -> VolumeConfig:
    """The configuration with this budget for buffers; no part is more than half of it."""
    tree, most = config.tree, memory_bytes // 2
    largest = max(tree.read_part_bytes, tree.write_part_bytes)
    if largest > most:
        log.warning(
            "parts of %d bytes do not fit into a budget of %d MiB: parts of at most %d bytes are "
            "used; raise the mounter's memory limit or lower its maxVolumes",
            largest,
            memory_bytes // MIB,
            most,
        )
    tree = replace(
        tree,
        memory_bytes=memory_bytes,
        read_part_bytes=min(tree.read_part_bytes, most),
        write_part_bytes=min(tree.write_part_bytes, most),
    )
    return replace(config, tree=tree)


def cost_of(buffers: int) -> int:
    """The memory of a worker with so many bytes of buffers, rounded up."""
    return WORKER_BYTES + (buffers * PERCENT + 99) // 100 + records_bytes(buffers)


def _buffers(cost: int) -> int:
    """The buffers of a worker that may cost so much, in whole MiB."""
    left = max(0, cost - WORKER_BYTES)
    with_records = left * 100 // (PERCENT + 25)  # a quarter of it
    if records_bytes(with_records) == LEAST_RECORDS_BYTES:
        with_records = max(0, left - LEAST_RECORDS_BYTES) * 100 // PERCENT
    return with_records // MIB * MIB
