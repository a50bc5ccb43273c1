"""The last bytes of a file that is being changed: a buffer in memory that the budget gave."""

from csi_s3.fs.base.budget import MemoryBudget
from csi_s3.s3.store import Buffer

GRANULE_BYTES = 256 << 10  # memory is reserved in such pieces as a file grows


class Tail:
    """Lifetime: as its file; `clear` gives the memory back."""

    def __init__(self, budget: MemoryBudget) -> None:
        self.data = bytearray()
        self._budget = budget
        self._reserved = 0

    def __len__(self) -> int:
        return len(self.data)

    def has_room(self, n: int) -> bool:
        """Whether n more bytes fit what is reserved."""
        return len(self.data) + n <= self._reserved

    def missing_for(self, n: int) -> int:
        """How much `reserve` takes from the budget for n more bytes."""
        missing = len(self.data) + n - self._reserved
        return -(-missing // GRANULE_BYTES) * GRANULE_BYTES if missing > 0 else 0

    async def reserve(self, n: int) -> None:
        """Wait for the memory for n more bytes."""
        missing = self.missing_for(n)
        await self._budget.reserve(missing)
        self._reserved += missing

    def append(self, data: Buffer) -> None:
        """Add bytes, the memory for which is reserved."""
        try:
            self.data += data
        except BufferError:  # the view that an ended request has of it is not collected yet
            self.data = self.data + data

    def overwrite(self, offset: int, data: Buffer) -> None:
        """Change bytes that are here."""
        self.data[offset : offset + len(data)] = data

    def cut(self, size: int) -> None:
        """Keep the first bytes only, in a new buffer: a request may still have a view of it."""
        self.data = self.data[:size]

    def take(self) -> bytearray:
        """Empty it. The caller gives back the memory of the bytes; that of the rest is released."""
        data, self.data = self.data, bytearray()
        spare, self._reserved = self._reserved - len(data), 0
        self._budget.release(spare)
        return data

    def clear(self) -> None:
        """Drop the bytes, and give back their memory."""
        self.data = bytearray()
        self._budget.release(self._reserved)
        self._reserved = 0
