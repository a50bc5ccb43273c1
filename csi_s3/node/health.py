"""The answers of node's HTTP endpoint: metrics, and whether volumes can be mounted now."""

import os
from dataclasses import asdict

from csi_s3.kernel.mount import open_fuse
from csi_s3.node.mounter_link import MounterLink
from csi_s3.node.registration import Registration
from csi_s3.node.volumes import Volumes
from csi_s3.obs.metrics import catalog as metrics
from csi_s3.obs.metrics import exposition, samples
from csi_s3.obs.metrics.instruments import MetricSource


class Health:
    """Lifetime and concurrency: those of the objects that it reads."""

    def __init__(
        self, volumes: Volumes, mounter_link: MounterLink, registration: Registration
    ) -> None:
        self._volumes, self._mounter_link, self._registration = volumes, mounter_link, registration

    def unready(self) -> str | None:
        """Why no volume can be mounted now; None if no reason is known."""
        if not self._registration.is_registered:
            return f"not registered with kubelet: {self._registration.error}"
        if not self._mounter_link.is_connected:
            return "no mounter is connected: is its pod running on this node?"
        return None

    def can_mount(self) -> bool:
        """The answer to Probe: whether a mounter is connected.

        Raises:
            FuseUnavailableError: there is no /dev/fuse.

        """
        os.close(open_fuse())
        return self._mounter_link.is_connected

    async def collect(self) -> bytes:
        counts = asdict(self._volumes.counts())
        metrics.MOUNTS.set(counts.pop("mounts"))
        metrics.TARGETS.set(counts.pop("targets"))
        for kind, number in counts.items():
            metrics.NODE_RECORDS.set(number, kind=kind)
        metrics.MOUNTER_CONNECTED.set(self._mounter_link.is_connected)
        metrics.REGISTERED.set(self._registration.is_registered)
        return exposition.text(samples.take(MetricSource.NODE, MetricSource.BOTH))
