"""One inode: the record that a number of the kernel's stands for, and its runtime half.

The record is what another process would need of it to go on serving the kernel: it includes what
the kernel holds (references, pages, a size). Such a process would also need the open handles, the
count of `Sizes` and the state of dirty files. The runtime half is what this process does with the
inode; it exists only while there is something in it, because a `find` leaves a million idle names.

Each field has one owner. Names, references and evictions are written by `Inodes`, all others by
the methods below.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from sys import getsizeof
from typing import Any, NamedTuple

from csi_s3.fs.base.memory import Account
from csi_s3.fs.listings.directory import Directory
from csi_s3.fs.listings.entries import Entry, Special, SymbolicLink
from csi_s3.fs.listings.listing_reader import DirectoryReader
from csi_s3.fs.names.record_chain import Link
from csi_s3.fs.read.reader import Reader
from csi_s3.fs.write.dirty_file import DirtyFile
from csi_s3.s3.store import ObjectInfo

ROOT = 1

# Measured with tracemalloc: 3,000 and 30,000 inodes. Strings and targets come on top. Hash tables
# are between half and a third full, which makes 50 bytes more or less.
RECORD_BYTES = 340  # with its number, its links and its places in the tables
VERSION_BYTES = 180  # ObjectInfo, and when it was asked for
RUNTIME_BYTES = 120
DIRECTORY_BYTES = 860  # the runtime half of a directory, with its Directory
NAMES_BYTES = 220  # the smallest table of children, and their place among idle names
NEW_INODE_BYTES = RECORD_BYTES + VERSION_BYTES + DIRECTORY_BYTES + NAMES_BYTES + 150  # at most


SPARSE_BYTES = 16 << 10  # a smaller table is not worth a copy
ENTRY_BYTES = 120  # of a dict at most, as long as it only grows (measured: 37 to 105)


def is_sparse(table: Mapping[Any, Any]) -> bool:
    """Whether most of a dict is empty, and that is much."""
    n = getsizeof(table)
    return n > SPARSE_BYTES and n > 2 * ENTRY_BYTES * len(table)


class Kind(Enum):
    FILE = "file"
    DIRECTORY = "directory"
    LINK = "symbolic link"


class InodeNumbers(NamedTuple):
    """Where a process begins to count: a successor goes on where its predecessor ended.

    generation: of the inodes that this process makes; (number, generation) is never used twice.
    """

    first: int = ROOT + 1
    generation: int = 0


FIRST_NUMBERS = InodeNumbers()


@dataclass(slots=True, eq=False)
class Runtime:
    """What this process does with an inode; written by methods of `Inode` only.

    children: how many inodes have it as their parent. names: of those that are linked.
    is_pinned: a directory that exists although S3 may have no key for it.
    handles, writable, creators: how many handles are open; of them, how many write, and how many
        made the file.
    writer: set while the file is being changed through this mount.
    directory: what is known of a directory's names beyond S3's answers.
    target: of a symbolic link, once it was read; of this version.
    """

    children: int = 0
    names: "dict[str, Inode]" = field(default_factory=lambda: _NO_NAMES)
    is_pinned: bool = False
    handles: int = 0
    writable: int = 0
    creators: int = 0
    writer: DirtyFile | None = None
    directory: "Directory[Inode] | None" = None
    target: bytes | None = None

    @property
    def is_needed(self) -> bool:
        """Whether there is something in it; who has names has children, who writes a handle."""
        has_parts = not (self.directory is None and self.writer is None and self.target is None)
        return has_parts or self.children > 0 or self.handles > 0 or self.is_pinned


_NO_NAMES: "dict[str, Inode]" = {}  # shared as well
_NOTHING = Runtime()  # shared by all inodes without a runtime half; never written


@dataclass(slots=True, eq=False)
class Inode(Link):
    """One file, directory or symbolic link that the kernel, a handle or a local change refers to.

    info: the version it stands for; None for directories and for files never stored. A symbolic
        link's is that of the object which holds its target.
    lookups: the kernel's references.
    is_linked: False once its name is gone or stands for another inode.
    has_pages: the kernel may hold pages of it.
    is_size_known: the kernel has the size of this version, or has made it what it is.
    is_eviction_pending: the kernel was asked to drop the name, and has not used it since.
    table_bytes: so much memory the table has counted for it. is_counted: it takes as much now;
        unset by all methods that change `memory_bytes`.
    question: the number of the question to S3 whose answer the version is; see `Sizes`.
    replaced_at: when another version was taken over, by the same count; 0: never.
    fresh_until: on the monotonic clock; until then `metadata-ttl` lets info answer without S3.
    mtime_ns: of a write or utimens on this mount, shown until the version changes.
    atime_ns: as mtime_ns, of utimens only.
    """

    ino: int
    generation: int
    parent: int
    name: str
    kind: Kind
    info: ObjectInfo | None = None
    lookups: int = 0
    is_linked: bool = True
    has_pages: bool = False
    is_size_known: bool = False
    is_eviction_pending: bool = False
    question: int = 0
    replaced_at: int = 0
    fresh_until: float = 0.0
    mtime_ns: int | None = None
    atime_ns: int | None = None
    table_bytes: int = 0
    is_counted: bool = False
    runtime: Runtime = field(default=_NOTHING, init=False, repr=False)
    before: Link | None = field(default=None, init=False, repr=False)
    after: Link | None = field(default=None, init=False, repr=False)

    @property
    def memory_bytes(self) -> int:
        """What it takes, with its places in the table, at this moment.

        Not what a file's runtime half takes: that is counted with its handles and its changes.
        """
        info, runtime = self.info, self.runtime
        n = RECORD_BYTES + getsizeof(self.name)
        if info is not None:
            n += VERSION_BYTES + getsizeof(info.key) + getsizeof(info.etag)
        if runtime is not _NOTHING:
            if runtime.target is not None:
                n += RUNTIME_BYTES + getsizeof(runtime.target)
            elif self.is_dir:
                n += DIRECTORY_BYTES + (NAMES_BYTES if runtime.names else 0)
        return n

    @property
    def is_dir(self) -> bool:
        return self.kind is Kind.DIRECTORY

    @property
    def is_link(self) -> bool:
        return self.kind is Kind.LINK

    @property
    def writer(self) -> DirtyFile | None:
        return self.runtime.writer

    @property
    def size(self) -> int:
        if self.writer is not None:
            return self.writer.size
        return 0 if self.info is None else self.info.size

    @property
    def handles(self) -> int:
        """How many are open."""
        return self.runtime.handles

    @property
    def is_in_use(self) -> bool:
        if self.lookups:
            return True
        r = self.runtime
        is_pinned = r.is_pinned or self.ino == ROOT
        return bool(r.children) or self.is_open or is_pinned

    @property
    def is_open(self) -> bool:
        r = self.runtime
        return r.handles > 0 or r.writer is not None

    @property
    def is_idle(self) -> bool:
        """Only the kernel's name cache holds it."""
        if not self.lookups or not self.is_linked:
            return False
        r = self.runtime
        if r is _NOTHING:
            return self.ino != ROOT
        if r.handles or r.writer is not None:
            return False
        has_names = r.children or (r.directory is not None and r.directory.local)
        return not (has_names or r.is_pinned or self.ino == ROOT)

    @property
    def is_missed(self) -> bool:
        """Whether the kernel's name holds what S3 cannot give back, or not for a request or two."""
        return self.has_pages or self.mtime_ns is not None or self.atime_ns is not None

    @property
    def has_runtime(self) -> bool:
        return self.runtime is not _NOTHING

    # the runtime half

    def _own(self) -> Runtime:
        """The runtime half, to be written."""
        if self.runtime is _NOTHING:
            self.runtime, self.is_counted = Runtime(), False
        return self.runtime

    def _trim(self) -> None:
        if not self.runtime.is_needed and self.runtime is not _NOTHING:
            self.runtime, self.is_counted = _NOTHING, False

    def add_children(self, n: int) -> None:
        """For `Inodes`: n more (or fewer) inodes have it as their parent."""
        runtime = self._own()
        runtime.children += n
        if not runtime.children:
            self._trim()

    def add_name(self, name: str, child: "Inode") -> None:
        """For `Inodes`: the name stands for that inode."""
        runtime = self._own()
        if runtime.names is _NO_NAMES:
            runtime.names, self.is_counted = {}, False
        runtime.names[name] = child

    def remove_name(self, name: str) -> None:
        """For `Inodes`."""
        names = self.runtime.names
        del names[name]
        if not names:
            self.runtime.names, self.is_counted = _NO_NAMES, False

    def compact_names(self) -> None:
        """For `Inodes`: the table of names takes what those need that are left."""
        if is_sparse(self.runtime.names):
            self.runtime.names = dict(self.runtime.names)

    def pin(self) -> None:
        """For `Inodes`."""
        self._own().is_pinned = True

    def unpin(self) -> None:
        """For `Inodes`: only references hold it from now on."""
        if self.runtime.is_pinned:
            self.runtime.is_pinned = False

    def known_names(self, changes: Account) -> "Directory[Inode]":
        """Of a directory, made at first need. changes: the account that it counts them in."""
        runtime = self._own()
        if runtime.directory is None:
            runtime.directory = Directory(changes)
        return runtime.directory

    def set_target(self, target: bytes | None) -> None:
        if self.runtime.target is not target:
            self._own().target, self.is_counted = target, False
            self._trim()

    def set_times(self, *, mtime_ns: int | None = None, atime_ns: int | None = None) -> None:
        """Show these from now on; None leaves the time as it is."""
        if mtime_ns is not None:
            self.mtime_ns = mtime_ns
        if atime_ns is not None:
            self.atime_ns = atime_ns

    def add_handle(self, handle: "FileHandle | DirHandle") -> None:
        self._count_handle(handle, 1)

    def remove_handle(self, handle: "FileHandle | DirHandle") -> None:
        """Once, after `add_handle`."""
        self._count_handle(handle, -1)
        self._trim()

    def _count_handle(self, handle: "FileHandle | DirHandle", n: int) -> None:
        runtime, handle.is_open = self._own(), n > 0
        runtime.handles += n
        if isinstance(handle, FileHandle):
            runtime.writable += n * handle.is_writable
            runtime.creators += n * handle.is_creator

    def set_writer(self, writer: DirtyFile | None) -> None:
        """The file is being changed from now on, or (None) is not any more."""
        self._own().writer = writer
        self._trim()

    # the version, and what the kernel has of it

    def is_version(self, info: ObjectInfo) -> bool:
        known = self.info
        return known is info or (known is not None and known.is_version_of(info))

    @property
    def has_version(self) -> bool:
        """Whether it stands for a known version: not for none, and not for one that was lost."""
        return self.info is not None and bool(self.info.etag)

    def set_version(self, info: ObjectInfo, *, question: int | None = None) -> None:
        """The same bytes as this version from now on. question: None leaves it as it is."""
        known = self.info
        if known is None or known.key != info.key or known.etag != info.etag:
            self.is_counted = False
        self.info = info
        if question is not None:
            self.question = question

    def replace_version(self, info: ObjectInfo, *, at: int) -> None:
        """Other bytes, of which the kernel has no page and no size. at: by the count of `Sizes`."""
        self.info, self.has_pages, self.is_size_known = info, False, False
        self.is_counted = False
        self.mtime_ns = self.atime_ns = None
        self.replaced_at = at
        self.set_target(None)

    def lose_version(self) -> None:
        """What was written could not be stored: no version has the bytes that the kernel has."""
        if self.info is not None:
            self.info, self.fresh_until = self.info._replace(etag=""), 0.0
            self.is_counted = False

    def set_fresh(self, until_s: float) -> None:
        self.fresh_until = until_s

    def note_pages(self) -> None:
        self.has_pages = True

    def note_size(self) -> None:
        self.is_size_known = True

    # what a look-up finds

    def info_of(self, entry: Entry | None) -> ObjectInfo | None:
        """The version in an entry of its name, if the entry is still the same kind of thing."""
        if self.is_link:
            return entry.info if isinstance(entry, SymbolicLink) else None
        return entry if isinstance(entry, ObjectInfo) else None

    def entry(self, info: ObjectInfo | None) -> Entry:
        """What a look-up finds of it; info: the version of a file or symbolic link."""
        if self.is_dir:
            return Special.DIRECTORY
        if info is None:
            return Special.LOCAL
        return SymbolicLink(info) if self.is_link else info


@dataclass(slots=True, eq=False)
class FileHandle:
    """is_creator: it made the file, which exempts the file from the guards while it is open.

    reader: made at first need where open did not bring bytes along; set by `Handles`.
    is_open: set by `Inode`, which counts it.
    """

    inode: Inode
    is_writable: bool = False
    is_creator: bool = False
    reader: Reader | None = None
    is_open: bool = False


@dataclass(slots=True, eq=False)
class DirHandle:
    """is_open: as of `FileHandle`."""

    inode: Inode
    reader: DirectoryReader
    is_open: bool = False
