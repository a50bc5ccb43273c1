"""What a worker holds while a workload runs, read from /proc and /metrics: never from the mount."""

import asyncio
import re
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError

from tests.scale.mounter import MIB, Mounter, Volume

SAMPLE_S, SCRAPE_S = 0.1, 1.0
MARGIN_MIB = 150  # above the bound: then the worker is killed


def resident_mib(pid: int) -> tuple[float, float]:
    """Now, and at its peak; 0.0 of a process that has ended."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", text, re.MULTILINE))
        if found:
            return int(found["VmRSS"]) / 1024, int(found["VmHWM"]) / 1024
    return 0.0, 0.0


def on_disk_mib(directory: Path) -> float:
    """Blocks, not bytes."""
    blocks = 0
    for path in directory.rglob("*"):
        with suppress(OSError):
            blocks += path.stat().st_blocks
    return blocks / 2048


class Watch:
    """Samples one volume's worker from `run` until it is cancelled.

    killed: why, if it has killed the worker. over: the worst excess of each kind of memory.
    """

    def __init__(self, mounter: Mounter, volume: Volume, bound_mib: float) -> None:
        self._mounter, self._volume, self._bound_mib = mounter, volume, bound_mib
        self.rss_mib = self.peak_mib = self.spool_mib = 0.0
        self.killed = ""
        self.held: dict[str, float] = {}
        self.most: dict[str, float] = defaultdict(float)
        self.over: dict[str, str] = {}
        self.stale = 0.0
        self.samples: list[float] = []

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sample())
            group.create_task(self._scrape())

    async def _sample(self) -> None:
        while True:
            rss, peak = resident_mib(self._volume.pid)
            if rss:
                self.rss_mib, self.peak_mib = rss, max(peak, self.peak_mib)
                self.samples.append(rss)
            if rss > self._bound_mib + MARGIN_MIB and not self.killed:
                self.killed = f"killed at {rss:.0f} MiB"
                self._volume.abort()
            await asyncio.sleep(SAMPLE_S)

    async def _scrape(self) -> None:
        while True:
            with suppress(OSError, URLError, AssertionError):
                self._take(await self._mounter.scrape())
            spool = await asyncio.to_thread(on_disk_mib, self._mounter.state_dir(self._volume.name))
            self.spool_mib = max(self.spool_mib, spool)
            await asyncio.sleep(SCRAPE_S)

    def _take(self, scraped) -> None:
        name = self._volume.name
        self.stale = scraped.sum("stale_worker_answers_total", volume=name)
        for (metric, labels), held in scraped.samples.items():
            fields = dict(labels)
            if metric == "csi_s3_memory_bytes" and fields.get("volume") == name:
                kind = fields["kind"]
                bound = scraped.value("memory_bound_bytes", volume=name, kind=kind)
                self.held[kind] = held / MIB
                if held > self.most[kind] * MIB:
                    self.most[kind] = held / MIB
                    if held > bound:
                        self.over[kind] = (
                            f"{kind} count {held / MIB:.1f} MiB of {bound / MIB:.1f} MiB"
                        )
