"""The interface between file system and object store: its calls, and the values they return.

Options of a whole volume (encryption, storage class, checksums, requester pays, ...) belong to the
store that is built for the volume, not to calls. Implementations: `s3.bucket.Bucket` (real),
`s3.memory_store.MemoryStore` (tests); both pass `tests/contract`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

from csi_s3.config import value_types
from csi_s3.errors import VolumeError

Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_KEY_BYTES = value_types.MAX_KEY_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a store's requests; the defaults are S3's."""

    min_part_bytes: int = 5 << 20  # every part but the last
    max_parts: int = 10_000
    max_put_bytes: int = 5 << 30  # one PUT, one part, one copy
    max_copy_part_bytes: int = 512 << 20  # larger copies are split, to run in parallel


@dataclass(frozen=True, slots=True)
class Version:
    """One state of one object. Versions are equal if they are the same state of it.

    etag: as the store writes it, quotes included; an opaque string; "": no known version.
    metadata_digest: of metadata that may change while the ETag stays; "" while none is read.
    size, last_modified: not compared, because the answer to a PUT does not carry all of them.
    """

    etag: str
    metadata_digest: str = ""
    size: int = field(default=0, compare=False)
    last_modified: float = field(default=0.0, compare=False)


class ObjectInfo(NamedTuple):
    """One version of one object, and where it is.

    One is made of each name in a listing: a frozen dataclass takes 1.5 µs more to make.

    etag: as of `Version`.
    last_modified: whole seconds since the epoch, because LIST and HEAD differ in the fraction; 0.0
        if the answer had no date (the answer to a PUT).
    archived: in an archive tier and not restored, so a read is refused.
    """

    key: str
    size: int
    etag: str
    last_modified: float
    storage_class: str = ""
    archived: bool = False

    @property
    def version(self) -> Version:
        return Version(self.etag, size=self.size, last_modified=self.last_modified)

    def is_version_of(self, other: "ObjectInfo") -> bool:
        """Whether their versions are equal."""
        return self.etag == other.etag


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPage:
    """One page of a listing, both parts in the store's order (UTF-8 bytes of the key).

    prefixes: each with a key below it. next_token: opaque; None on the last page only: a page
        may be empty and not be the last.
    """

    objects: Sequence[ObjectInfo]
    prefixes: Sequence[str]
    next_token: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Bytes of one version. `info.size` is the size of the whole object."""

    info: ObjectInfo
    data: Buffer


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part that the store has. `Upload.complete` takes them in the order of their numbers."""

    number: int
    etag: str
    size: int
    checksum: str = ""


class Upload(Protocol):
    """One multipart upload. Parts may be sent in parallel and in any order.

    After its parts have ended, the owner calls `complete`, again if no answer came, or `abort`.
    """

    async def part(self, number: int, data: Buffer) -> Part:
        """Send part `number` (from 1); all but the last have at least `Limits.min_part_bytes`."""

    async def part_from(self, number: int, source: ObjectInfo, start: int, length: int) -> Part:
        """Copy a range of that version inside the store.

        Raises:
            ObjectChangedError: the source is another version now, or gone.

        """

    async def complete(
        self, parts: Sequence[Part], *, if_none_match: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        """Make the object visible, whole.

        Raises:
            PreconditionFailedError: the key holds an object (if_none_match), or not this version
                (if_match). The upload is still to be aborted.
            NotFoundError: the upload is gone, or cannot be completed; a new upload may succeed.
            IntegrityError: the store's checksum differs.

        """

    async def made(self, parts: Sequence[Part]) -> ObjectInfo | None:
        """The object that a `complete` of these parts, whose answer was lost, has made.

        None if there is no such object, or if the answer does not prove that it is the one.
        """

    async def abort(self) -> None:
        """Delete the parts. A refusal is logged as one WARNING with the upload id, never raised."""


@dataclass(slots=True)
class Undeleted:
    """What a deletion of many keys left: how many, and the first, of each kind of error.

    One error for each key would take 0.9 KB of memory a key.
    """

    counts: dict[type[VolumeError], int] = field(default_factory=dict)
    first: dict[type[VolumeError], tuple[str, VolumeError]] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(self.counts.values())

    def add(self, key: str, error: VolumeError) -> None:
        kind = type(error)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.first.setdefault(kind, (key, error))


class ObjectStore(Protocol):
    """One bucket, with one identity. Keys are whole keys: the caller adds a mount's prefix.

    conditional_writes: whether it compares if_none_match and if_match; None: not known.

    Every call has a deadline and a bounded number of retries. Besides the errors below, each may
    raise AccessDeniedError, CredentialsError, NoSuchBucketError, StoreUnavailableError,
    StoreTimeoutError, StoreRefusedError.
    """

    limits: Limits
    conditional_writes: bool | None

    async def head(self, key: str) -> ObjectInfo:
        """Describe the object.

        Raises:
            NotFoundError: there is none.

        """

    async def list_page(
        self, prefix: str, *, delimiter: str = "/", token: str | None = None, max_keys: int = 1000
    ) -> ListPage:
        """One page of the keys under prefix; with a delimiter, grouped into prefixes at it."""

    async def read_range(
        self, key: str, start: int, length: int, *, etag: str | None = None
    ) -> Chunk:
        """Bytes [start, start + length), as far as the object has them.

        Raises:
            NotFoundError: there is no such object.
            ObjectChangedError: the object has another ETag.
            ArchivedError: the object must be restored first.

        """

    async def put(
        self,
        key: str,
        data: Buffer,
        *,
        if_none_match: bool = False,
        if_match: str | None = None,
        metadata: Mapping[str, str] | None = None,
        like: ObjectInfo | None = None,
    ) -> ObjectInfo:
        """Put the whole object (at most `Limits.max_put_bytes`).

        like: the object that it replaces, whose headers, user metadata and tags it keeps.

        Raises:
            PreconditionFailedError: the key holds an object (if_none_match), or not this version.
            NotImplementedByStoreError: the store does not support the condition.

        """

    async def copy(
        self, source: ObjectInfo, key: str, *, if_none_match: bool = False
    ) -> ObjectInfo:
        """Copy that version (at most `Limits.max_put_bytes`) to key, with its metadata and headers.

        A marker (key ends with `/`, no bytes) is a HEAD and a PUT: not every store copies one.

        Raises:
            NotFoundError: the source is gone.
            ObjectChangedError: the source is another version now.
            PreconditionFailedError: the key holds an object (if_none_match).

        """

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        """Delete the object; no error where there is none.

        Raises:
            ObjectChangedError: the store compares versions, and the object is another (if_match).

        """

    async def delete_many(self, objects: Iterable[tuple[str, str]]) -> Undeleted:
        """Delete in batches of 1000: keys, each with the ETag it must have ("": any).

        Returns what was not deleted, by the kind of error: ObjectChangedError if the store
        compares versions and the object is another.
        """

    async def create_upload(self, key: str, *, like: ObjectInfo | None = None) -> Upload:
        """Begin a multipart upload. like: as for `put`."""

    async def close(self) -> None:
        """Close connections; no call may be running."""
