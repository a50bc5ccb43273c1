"""Which keys were noted of late: a set whose size is bounded."""

from csi_s3.fs.base.memory import Account

KEY_BYTES = 110  # a number and its place in a set; measured, sets as full as they are on average


class RecentKeys:
    """The latest keys, `limit` of them at least and twice as many at most; plain code.

    Only their hashes are kept, so a key may be taken for another one: not for what must be exact.
    """

    def __init__(self, account: Account, *, limit: int) -> None:
        """account: of the memory that it takes."""
        self._account, self._limit = account, max(1, limit)
        self._new: set[int] = set()
        self._old: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._new or self._old)

    def __contains__(self, key: str) -> bool:
        return hash(key) in self._new or hash(key) in self._old

    def add(self, key: str) -> None:
        self.discard(key)
        self._new.add(hash(key))
        self._account.add(KEY_BYTES)
        if len(self._new) >= self._limit:
            self._account.add(-KEY_BYTES * len(self._old))
            self._old, self._new = self._new, set()

    def discard(self, key: str) -> None:
        for keys in (self._new, self._old):
            if hash(key) in keys:
                keys.discard(hash(key))
                self._account.add(-KEY_BYTES)
