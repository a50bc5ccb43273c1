"""What one worker has counted: requested at each scrape, with the last answer kept."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from typing_extensions import override

from csi_s3.obs.metrics import samples
from csi_s3.obs.metrics.samples import Samples


class WorkerMetrics:
    """Lifetime: `opened` when the worker can be asked, until `closed`; `counted` stays.

    Concurrency: any number of tasks may `refresh`; one request is under way at a time, so a worker
    that is stuck cannot fill its socket. Cancellation of `refresh` changes nothing; a late answer
    is taken.
    """

    def __init__(self, volume: str) -> None:
        self.volume = volume
        self.counted: Samples = {}
        self.pid: int | None = None
        self._request: Callable[[], Awaitable[None]] | None = None
        self._is_requested = False
        self._answered = asyncio.Event()

    @override
    def __repr__(self) -> str:
        return f"<WorkerMetrics {self.volume!r} pid={self.pid}{' requested' * self._is_requested}>"

    def opened(self, pid: int, request: Callable[[], Awaitable[None]]) -> None:
        self.pid, self._request = pid, request

    def closed(self) -> None:
        self.pid = self._request = None
        self._answered.set()

    def take(self, families: Mapping[str, Any]) -> None:
        """Take those of a `metrics` message.

        Raises:
            ConnectionError: they are not what a worker counts.

        """
        try:
            self.counted = samples.of_volume(samples.from_json(families), self.volume)
        except ValueError as exc:
            raise ConnectionError(f"an invalid 'metrics' message: {exc}") from exc
        self._is_requested = False
        self._answered.set()

    async def refresh(self) -> None:
        """Request the worker's numbers and wait for them; returns at once if there is no worker."""
        if self._request is None:
            return
        if not self._is_requested:
            self._is_requested = True
            self._answered.clear()
            await self._request()
        await self._answered.wait()
