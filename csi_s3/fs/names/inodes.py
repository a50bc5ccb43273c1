"""The table of inodes: by number, as the kernel names them, and by directory and name.

An inode number of a file stands for one version of one key for as long as a handle is open on it,
because page cache and size belong to the inode, not to the handle. Keys are not stored: they
follow from parent and name, so that renaming a directory moves one inode and not all that are
below it.
"""

from collections import OrderedDict

from csi_s3.errors import StaleError
from csi_s3.fs.base.keys import LINK_SUFFIX, child_key
from csi_s3.fs.base.memory import Account
from csi_s3.fs.names.idle import IdleNames
from csi_s3.fs.names.inode import FIRST_NUMBERS, ROOT, Inode, InodeNumbers, Kind, is_sparse
from csi_s3.fs.names.record_chain import Chain, remove
from csi_s3.s3.store import ObjectInfo


class Inodes:
    """The table. Concurrency: plain code only, so it is consistent between awaits.

    Lifetime of an entry: from `add` until nothing refers to it any more (`drop_unused`). No number
    is used twice.

    account: counts each inode, as of its last use. idle: the inodes that the kernel may be asked to
    drop. evictions_pending, pending_bytes: so many of the table it was asked to drop, and has not.
    pending_in: how many of these each directory has.
    kept, local_only: the numbers of directories that exist although S3 may have no key for them,
    the latest last; and of those of which it has never had one.
    """

    def __init__(
        self, prefix: str, numbers: InodeNumbers = FIRST_NUMBERS, *, account: Account
    ) -> None:
        self.idle = IdleNames()
        self.evictions_pending = self.pending_bytes = 0
        self.pending_in: dict[int, int] = {}
        self.account = account
        self.kept: OrderedDict[int, None] = OrderedDict()
        self.local_only: dict[int, None] = {}
        self._asked: Chain[Inode] = Chain()
        self._prefix = prefix
        self._by_number: dict[int, Inode] = {}
        self._next, self._generation = numbers
        root = Inode(ROOT, self._generation, 0, "", Kind.DIRECTORY)
        self._by_number[ROOT] = root
        self.recount(root)

    def __len__(self) -> int:
        return len(self._by_number)

    def get(self, ino: int) -> Inode:
        """The inode.

        Raises:
            StaleError: the kernel asks for a number that it has forgotten.

        """
        try:
            return self._by_number[ino]
        except KeyError as exc:
            raise StaleError(f"inode {ino} is gone") from exc

    def child(self, parent: int, name: str) -> Inode | None:
        above = self._by_number.get(parent)
        return None if above is None else above.runtime.names.get(name)

    def key(self, inode: Inode) -> str:
        """The key it stands for; a directory's ends with "/", the root's is the prefix."""
        if inode.is_dir:
            return self.key_of_directory(inode)
        return self.key_at(inode, self.get(inode.parent), inode.name)

    def key_of_directory(self, directory: Inode) -> str:
        """Without recursion, as everywhere here: a key may have 512 components."""
        path, by_number = "", self._by_number
        try:
            while directory.ino != ROOT:
                path = f"{directory.name}/{path}"
                directory = by_number[directory.parent]
        except KeyError as exc:
            raise StaleError(f"inode {directory.parent} is gone") from exc
        return self._prefix + path

    def key_at(self, inode: Inode, parent: Inode, name: str) -> str:
        """The key it would stand for under that name."""
        suffix = LINK_SUFFIX if inode.is_link else ""
        return child_key(self.key_of_directory(parent), f"{name}{suffix}", is_dir=inode.is_dir)

    def add(
        self,
        parent: int,
        name: str,
        kind: Kind,
        *,
        info: ObjectInfo | None = None,
        question: int = 0,
    ) -> Inode:
        """A new inode under a name; the one that had the name is unlinked."""
        above, number = self._by_number[parent], self._next
        above.add_children(1)
        if (old := above.runtime.names.get(name)) is not None:
            self.unlink(old)
        self._next = number + 1
        inode = self._by_number[number] = Inode(
            number, self._generation, parent, name, kind, info, question=question
        )
        above.add_name(name, inode)
        if above.before is not None or not above.is_counted:  # in an order; or it is made now
            self._used(above)
        self.recount(inode)
        return inode

    def move(self, inode: Inode, parent: int, name: str) -> None:
        """Give a linked inode another name; the one that had it is unlinked."""
        before, above = self._by_number[inode.parent], self._by_number[parent]
        above.add_children(1)
        there = above.runtime.names.get(name)
        if there is not None and there is not inode:
            self.unlink(there)
        self._settle(inode)
        before.remove_name(inode.name)
        inode.parent, inode.name, inode.is_counted = parent, name, False
        above.add_name(name, inode)
        before.add_children(-1)
        self._used(above)
        self._used(inode)
        self.drop_unused(before)

    def is_below(self, inode: Inode, directory: Inode) -> bool:
        """Whether it is that directory, or under it at any depth."""
        while inode is not directory and inode.ino != ROOT:
            inode = self._by_number[inode.parent]
        return inode is directory

    @property
    def next_number(self) -> int:
        """Of the next inode that is added; no other was ever higher."""
        return self._next

    def numbered(self, first: int, end: int) -> list[Inode]:
        """Those that have one of these numbers, in the order in which they were added."""
        return [self._by_number[n] for n in range(first, end) if n in self._by_number]

    def unlink(self, inode: Inode) -> None:
        """The name is gone, or has another inode; this one stays while it is in use."""
        if not inode.is_linked or inode.ino == ROOT:
            return
        self._settle(inode)
        inode.is_linked = False
        self._unpin(inode)
        if self.child(inode.parent, inode.name) is inode:  # else it was forgotten
            self._by_number[inode.parent].remove_name(inode.name)
        self.drop_unused(inode)

    def keep(self, directory: Inode, *, is_local: bool = False) -> None:
        """Let it stay although nothing refers to it; is_local: S3 has never had a key of it."""
        self._settle(directory)
        directory.pin()
        if is_local:
            self.local_only[directory.ino] = None
        elif directory.ino not in self.local_only:
            self.kept[directory.ino] = None
            self.kept.move_to_end(directory.ino)
        self.recount(directory)

    def note_keys_below(self, directory: Inode) -> None:
        """S3 has, or had, a key below the directory."""
        while directory.ino in self.local_only:
            del self.local_only[directory.ino]
            self.kept[directory.ino] = None
            directory = self._by_number[directory.parent]

    def let_go(self, directory: Inode) -> None:
        """Only references hold it from now on."""
        self._unpin(directory)
        self.drop_unused(directory)

    def _unpin(self, inode: Inode) -> None:
        if inode.runtime.is_pinned:
            self.kept.pop(inode.ino, None)
            self.local_only.pop(inode.ino, None)
            inode.unpin()

    def drop_unused(self, inode: Inode) -> None:
        """A use of it has ended: forget it, and its parents, if that was the last."""
        while not inode.is_in_use and inode.ino in self._by_number:
            self._settle(inode)
            del self._by_number[inode.ino]
            self.account.add(-inode.table_bytes)
            inode.table_bytes = 0
            parent = self._by_number[inode.parent]
            if inode.is_linked:
                parent.remove_name(inode.name)
            parent.add_children(-1)
            inode = parent
        if inode.ino in self._by_number:
            self._used(inode)

    def remember(self, inode: Inode) -> None:
        """The kernel was given the inode once more."""
        inode.lookups += 1
        self._used(inode)

    def forget(self, ino: int, n: int) -> None:
        """The kernel gives back n of its references."""
        inode = self._by_number.get(ino)
        if inode is None:
            return
        inode.lookups = max(0, inode.lookups - n)
        self.drop_unused(inode)

    def hold(self, inode: Inode) -> None:
        """Let it stay until `release`, whatever the kernel forgets; that is no use of it."""
        inode.lookups += 1

    def release(self, inode: Inode) -> None:
        """Once, after `hold`."""
        inode.lookups -= 1
        if not inode.lookups:
            self.drop_unused(inode)

    def evict_oldest(self, *, directories: bool) -> Inode | None:
        """The least recently used idle inode; the caller asks the kernel to drop it.

        directories: whether one may be taken.
        """
        while (inode := self.idle.take()) is not None:
            if inode.is_idle and (directories or not inode.is_dir):
                self._pend(inode)
                return inode
        return None  # open files are idle again when they are closed

    def evict(self, inode: Inode) -> None:
        """One of `idle`; the caller asks the kernel to drop it."""
        self.idle.discard(inode)
        self._pend(inode)

    def _pend(self, inode: Inode) -> None:
        inode.is_eviction_pending = True
        self.evictions_pending += 1
        self.pending_bytes += inode.table_bytes
        self.pending_in[inode.parent] = self.pending_in.get(inode.parent, 0) + 1
        self._asked.append(inode)

    def ask_again(self) -> Inode | None:
        """The inode that the kernel was asked for longest ago, and has not dropped."""
        if (inode := self._asked.first) is not None:
            self._asked.append(inode)
        return inode

    def eviction_failed(self, ino: int) -> None:
        """The kernel could not be asked for it."""
        inode = self._by_number.get(ino)
        if inode is not None:
            self._used(inode)

    def compact(self) -> None:
        """Make tables smaller that have few members left: a dict does not become smaller itself."""
        if not is_sparse(self._by_number):
            return
        self._by_number = dict(self._by_number)
        for inode in self._by_number.values():
            inode.compact_names()

    def recount(self, inode: Inode) -> None:
        """What is known of it has changed: count the memory that it takes now."""
        n, inode.is_counted = inode.memory_bytes, True
        if n != inode.table_bytes:
            difference = n - inode.table_bytes
            inode.table_bytes = n
            if inode.is_eviction_pending:
                self.pending_bytes += difference
            self.account.add(difference)

    def _used(self, inode: Inode) -> None:
        if inode.is_eviction_pending:
            self._settle(inode)
        if not inode.is_counted:
            self.recount(inode)
        if inode.is_idle:
            self.idle.add(inode)
        else:
            self.idle.discard(inode)

    def _settle(self, inode: Inode) -> None:
        """Take it out of every order."""
        if inode.is_eviction_pending:
            inode.is_eviction_pending = False
            self.evictions_pending -= 1
            self.pending_bytes -= inode.table_bytes
            if left := self.pending_in.pop(inode.parent) - 1:
                self.pending_in[inode.parent] = left
            remove(inode)
        else:
            self.idle.discard(inode)
