"""The configuration of one volume: parsed once, then never changed.

These values cross the link from node to mounter (`link.spec`), so they are plain data: no secrets,
no open files. How an option is written, checked and documented is in `config.options`.
"""

import json
from dataclasses import asdict, dataclass, field

MIB = 1 << 20
DEFAULT_MEMORY_BYTES = 512 * MIB
LEAST_RECORDS_BYTES = 16 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketConfig:
    """The bucket, how it is reached, and what is added to requests."""

    bucket: str
    prefix: str = ""  # empty, or ends with "/"
    region: str | None = None  # None: environment, profile, else us-east-1; redirects are followed
    endpoint_url: str | None = None
    force_path_style: bool = False
    transfer_acceleration: bool = False
    dual_stack: bool = False
    no_sign_request: bool = False
    profile: str | None = None
    requester_pays: bool = False
    expected_bucket_owner: str | None = None
    sse: str | None = None  # aws:kms, aws:kms:dsse, AES256
    sse_kms_key_id: str | None = None
    storage_class: str | None = None
    upload_checksums: str = "crc32c"  # crc32c, crc64nvme, off
    ca_bundle: str | None = None  # path of a PEM file, read by the worker
    infer_content_type: bool = False
    max_attempts: int = 10
    user_agent_prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeConfig:
    """How the bucket appears as a file system, and which changes are allowed."""

    uid: int = 0
    gid: int = 0
    dir_mode: int = 0o755
    file_mode: int = 0o644
    allow_delete: bool = False
    allow_overwrite: bool = False
    metadata_ttl_s: float = 1.0  # math.inf: indefinite; 0: minimal
    metadata_ttl_by_hand: bool = False  # set by the user: open relies on it without a request
    negative_metadata_ttl_s: float = 0.0
    dir_markers: bool = True
    read_part_bytes: int = 8 * MIB
    write_part_bytes: int = 8 * MIB
    memory_bytes: int | None = None  # None: not set; the mounter's share, else the default
    spool_bytes: int = 10 << 30  # changed bytes that are not in S3 yet, on the node's disk
    unlinked_open_bytes: int = 1 << 30  # of a removed file that is still open, to keep readable
    symlinks: bool = True
    drain_timeout_s: float = 30.0  # at SIGTERM and unmount, to upload open files

    @property
    def budget_bytes(self) -> int:
        """The memory for all buffers."""
        return DEFAULT_MEMORY_BYTES if self.memory_bytes is None else self.memory_bytes

    @property
    def records_bytes(self) -> int:
        """The memory for everything that is not a buffer: inodes, listings, handles, ..."""
        return records_bytes(self.budget_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolRules:
    """What the node has to say about a spool.

    free_percent: of the disk's bytes, and of its inodes, that stay free; 0: no such floor.
    kept_s: how long what no worker will upload is kept.
    """

    free_percent: int = 0
    kept_s: float = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeConfig:
    """The configuration of a worker and of its mount.

    read_only is a property of the bind (CSI) or of the mount (command line), not of the worker, so
    it does not distinguish mounts.
    """

    bucket: BucketConfig
    tree: TreeConfig = field(default_factory=TreeConfig)
    read_only: bool = False
    allow_other: bool = True  # command line only: CSI volumes always allow all users
    allow_root: bool = False
    context: str = ""  # SELinux: context, fscontext and rootcontext of mount(8)
    fscontext: str = ""
    rootcontext: str = ""

    @property
    def labels(self) -> dict[str, str]:
        """The SELinux labels to mount with, by the kernel's option."""
        names = ("context", "fscontext", "rootcontext")
        return {name: label for name in names if (label := getattr(self, name))}


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandOptions:
    """Options of the mount command only."""

    foreground: bool = False
    debug: bool = False
    log_directory: str | None = None  # absolute
    no_log: bool = False
    auto_unmount: bool = False
    no_exec: bool = False


def records_bytes(budget_bytes: int) -> int:
    """What a volume with this budget for buffers may hold in records."""
    return max(budget_bytes // 4, LEAST_RECORDS_BYTES)


def canonical(config: VolumeConfig) -> str:
    """The same text for equal configurations, to distinguish mounts; without read_only."""
    data = asdict(config)
    del data["read_only"]
    return json.dumps(data, sort_keys=True, separators=(",", ":"))
