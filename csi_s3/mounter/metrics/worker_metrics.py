"""What one worker has counted: asked for at each scrape, and kept as it was said last."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from typing_extensions import override

from csi_s3.obs.metrics import samples
from csi_s3.obs.metrics.samples import Samples


class WorkerMetrics:
    """Lifetime: `opened` when the worker can be asked, until `closed`; `counted` stays.

    Concurrency: any number may `refresh`; one question is on its way, so a worker that is stuck
    cannot fill its socket. Cancellation: of `refresh` changes nothing; a late answer is taken.
    """

    def __init__(self, volume: str) -> None:
        self.volume = volume
        self.counted: Samples = {}
        self.pid: int | None = None
        self._ask: Callable[[], Awaitable[None]] | None = None
        self._is_asked = False
        self._answered = asyncio.Event()

    @override
    def __repr__(self) -> str:
        return f"<WorkerMetrics {self.volume!r} pid={self.pid}{' asked' * self._is_asked}>"

    def opened(self, pid: int, ask: Callable[[], Awaitable[None]]) -> None:
        self.pid, self._ask = pid, ask

    def closed(self) -> None:
        self.pid = self._ask = None
        self._answered.set()

    def take(self, body: Mapping[str, Any]) -> None:
        """Note what the worker says.

        Raises:
            KeyError, ValueError: it is no `metrics` message's.

        """
        self.counted = samples.of_volume(samples.from_json(body["families"]), self.volume)
        self._is_asked = False
        self._answered.set()

    async def refresh(self) -> None:
        """Have the worker say what it has counted, and wait for it; at once if there is none."""
        if self._ask is None:
            return
        if not self._is_asked:
            self._is_asked = True
            self._answered.clear()
            await self._ask()
        await self._answered.wait()
