"""Which inode number stands for what: name, kind and version, and whether the kernel holds it.

An inode number of a file stands for one version (ETag) of one key for as long as a handle is open
on it, because page cache and size belong to the inode, not to the handle. Keys are not stored:
they follow from parent and name, so that renaming a directory will move one inode and not all
that are below it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from csi_s3.errors import StaleError
from csi_s3.fs.base.keys import LINK_SUFFIX, child_key
from csi_s3.fs.names.directory import Directory
from csi_s3.fs.names.entries import Entry, SymbolicLink
from csi_s3.fs.names.idle import IdleFiles
from csi_s3.fs.write.dirty_file import DirtyFile
from csi_s3.s3.store import ObjectInfo

ROOT = 1


@dataclass(slots=True, eq=False)
class Inode:
    """One file, directory or symbolic link that the kernel, a handle or a local change refers to.

    info: the version it stands for; None for directories and for files never stored. A symbolic
        link's is that of the object which holds its target.
    target: of a symbolic link, once it was read; of this version.
    mtime_ns: set by us (a write, utimens) and shown while the version is ours; else None.
    atime_ns: as mtime_ns, by utimens only.
    fresh_until: on the monotonic clock; until then `metadata-ttl` lets info answer without S3.
    is_linked: False once its name is gone or stands for another inode.
    maybe_cached: the kernel may hold pages of it.
    is_told: the kernel was told the size of this version, or has made it what it is.
    renewed: when another version was taken over, by the count of `sizes`; 0: never.
    asked: when S3 was asked that question whose answer the version is, by the same count.
    writer: set while the file is being changed through this mount.
    directory: what is known of a directory's names beyond S3's answers; made at first need.
    is_kept: a directory that exists although S3 may have no key for it.
    is_ours: made through this mount (a directory), so that rmdir needs no allow-delete; such a
        one is not forgotten.
    was_asked: the kernel was asked to drop its name, and it has not been used since.
    """

    ino: int
    parent: int
    name: str
    is_dir: bool
    is_link: bool = False
    info: ObjectInfo | None = None
    target: bytes | None = None
    mtime_ns: int | None = None
    atime_ns: int | None = None
    fresh_until: float = 0.0
    lookups: int = 0
    handles: int = 0
    children: int = 0
    is_linked: bool = True
    maybe_cached: bool = False
    is_told: bool = False
    renewed: int = 0
    asked: int = 0
    is_kept: bool = False
    is_ours: bool = False
    was_asked: bool = False
    writer: DirtyFile | None = None
    directory: "Directory[Inode] | None" = None

    @property
    def is_in_use(self) -> bool:
        return bool(
            self.lookups
            or self.handles
            or self.children
            or self.is_kept
            or self.is_ours
            or self.writer is not None
            or self.ino == ROOT
        )

    @property
    def is_open(self) -> bool:
        return bool(self.handles) or self.writer is not None

    @property
    def is_idle(self) -> bool:
        """A file that only the kernel's name cache holds."""
        return bool(self.lookups) and self.is_linked and not (self.is_dir or self.is_open)

    def is_version(self, info: ObjectInfo) -> bool:
        return self.info is not None and self.info.etag == info.etag


class Inodes:
    """The table. Concurrency: plain code only, so it is consistent between awaits.

    Lifetime of an entry: from `add` until nothing refers to it any more (`drop_unused`). Numbers
    are never used twice in a worker's life, so no generation is needed.

    idle: the files that the kernel may be asked to drop. asked: so many of the table it was asked
    to drop, and has not yet.
    """

    def __init__(self, prefix: str) -> None:
        self.idle: IdleFiles[Inode] = IdleFiles()
        self.asked = 0
        self._prefix = prefix
        self._by_number: dict[int, Inode] = {}
        self._by_name: dict[tuple[int, str], Inode] = {}
        self._next = ROOT + 1
        self._by_number[ROOT] = Inode(ino=ROOT, parent=0, name="", is_dir=True)

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[Inode]:
        return iter(list(self._by_number.values()))

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
        return self._by_name.get((parent, name))

    def key(self, inode: Inode) -> str:
        """The key it stands for; a directory's ends with "/", the root's is the prefix."""
        if inode.ino == ROOT:
            return self._prefix
        return self.key_at(inode, self.get(inode.parent), inode.name)

    def _prefix_of(self, directory: Inode) -> str:
        """Its key. Not by recursion: a key may have 512 components, Python's stack has not."""
        names = []
        while directory.ino != ROOT:
            names.append(directory.name)
            directory = self.get(directory.parent)
        return self._prefix + "".join(f"{name}/" for name in reversed(names))

    def key_at(self, inode: Inode, parent: Inode, name: str) -> str:
        """The key it would stand for under that name."""
        suffix = LINK_SUFFIX if inode.is_link else ""
        return child_key(self._prefix_of(parent), f"{name}{suffix}", is_dir=inode.is_dir)

    def add(
        self,
        parent: int,
        name: str,
        *,
        is_dir: bool,
        is_link: bool = False,
        info: ObjectInfo | None = None,
    ) -> Inode:
        """A new inode under a name; the one that had the name is unlinked."""
        old = self._by_name.get((parent, name))
        if old is not None:
            self.unlink(old)
        inode = Inode(
            ino=self._next, parent=parent, name=name, is_dir=is_dir, is_link=is_link, info=info
        )
        self._next += 1
        self._by_number[inode.ino] = inode
        self._by_name[parent, name] = inode
        self._by_number[parent].children += 1
        return inode

    def move(self, inode: Inode, parent: int, name: str) -> None:
        """Give a linked inode another name; the one that had it is unlinked."""
        there = self._by_name.get((parent, name))
        if there is not None and there is not inode:
            self.unlink(there)
        self.idle.discard(inode)
        before = self._by_number[inode.parent]
        del self._by_name[inode.parent, inode.name]
        self._by_number[parent].children += 1
        inode.parent, inode.name = parent, name
        self._by_name[parent, name] = inode
        before.children -= 1
        self._used(inode)
        self.drop_unused(before)

    def is_below(self, inode: Inode, directory: Inode) -> bool:
        """Whether it is that directory, or under it at any depth."""
        while inode is not directory and inode.ino != ROOT:
            inode = self._by_number[inode.parent]
        return inode is directory

    def below(self, directory: Inode) -> list[Inode]:
        """All linked inodes under a directory, at any depth."""
        inside: dict[int, bool] = {directory.ino: True, ROOT: directory.ino == ROOT}

        def is_inside(inode: Inode) -> bool:
            known = inside.get(inode.ino)
            if known is None:
                known = inside[inode.ino] = inode.is_linked and is_inside(
                    self._by_number[inode.parent]
                )
            return known

        return [i for i in self._by_number.values() if i is not directory and is_inside(i)]

    def unlink(self, inode: Inode) -> None:
        """The name is gone, or another's; the inode lives on while it is in use."""
        if not inode.is_linked or inode.ino == ROOT:
            return
        self.idle.discard(inode)
        inode.is_linked = False
        inode.is_kept = inode.is_ours = False
        if self._by_name.get((inode.parent, inode.name)) is inode:
            del self._by_name[inode.parent, inode.name]
        self.drop_unused(inode)

    def drop_unused(self, inode: Inode) -> None:
        """Something that it was used for has ended: forget it, and its parents, if that was all."""
        while not inode.is_in_use and inode.ino in self._by_number:
            self.idle.discard(inode)
            self.asked -= inode.was_asked
            del self._by_number[inode.ino]
            if inode.is_linked:
                del self._by_name[inode.parent, inode.name]
            parent = self._by_number[inode.parent]
            parent.children -= 1
            inode = parent
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

    def ask(self) -> Inode | None:
        """The idle file that was used longest ago, which the kernel is asked to drop now."""
        while (inode := self.idle.take()) is not None:
            if inode.is_idle:
                inode.was_asked = True
                self.asked += 1
                return inode
        return None  # those that are open come back when they are closed

    def not_asked(self, ino: int) -> None:
        """The kernel could not be asked for it."""
        inode = self._by_number.get(ino)
        if inode is not None:
            self._used(inode)

    def _used(self, inode: Inode) -> None:
        self.asked -= inode.was_asked
        inode.was_asked = False
        if inode.is_idle:
            self.idle.add(inode)
        else:
            self.idle.discard(inode)


def info_of(inode: Inode, found: Entry | None) -> ObjectInfo | None:
    """The version found of a file or symbolic link, if it still is that kind of thing."""
    if inode.is_link:
        return found.info if isinstance(found, SymbolicLink) else None
    return found if isinstance(found, ObjectInfo) else None
