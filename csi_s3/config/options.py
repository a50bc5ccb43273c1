"""THE table of mount options: every option of Mountpoint, the CSI driver's own, and ours.

Parsing, `--help`, docs/options.md and (later) the chart's schema are made from these rows and
from nothing else. An option is refused when ignoring it would change identity, safety or
meaning; it is a hint when it only tunes what we do otherwise. Rejected: argparse as the source,
because volumes and the command line would then have two parsers with two kinds of messages.
"""

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from enum import Enum
from itertools import chain
from types import MappingProxyType

from csi_s3.config import value_types
from csi_s3.config.value_types import GIB, ValueType, choice, integer, seconds
from csi_s3.config.volume import MIB


class Support(Enum):
    """What an option does in one place: on volumes, or on the command line."""

    WORKS = "works"
    HINT = "hint"  # accepted; one WARNING says what happens in its place
    REFUSED = "refused"
    DROPPED = "dropped"  # silently: it can mean nothing here


class Place(Enum):
    """Where options are given."""

    VOLUME = "mount option"
    COMMAND = "option"
    ATTRIBUTE = "volume attribute"

    def name_of(self, name: str) -> str:
        """Name an option as it is written here, to begin an error message."""
        dashes = "--" if self is Place.COMMAND and not name.startswith("-") else ""
        return f"{self.value} {dashes}{name}"


@dataclass(frozen=True, slots=True)
class Option:
    """One row: an option, or a volume attribute.

    form: None for a flag, which takes no value.
    sets: the fields it sets: "bucket.X" and "tree.X" of the config's parts, "X" of VolumeConfig,
        "command.X" of MountCommand. Empty: it is checked and changes nothing.
    why: what happens in its place (a hint), or the reason it is refused.
    default: words beside (or in place of) the default of the field.
    aliases: further spellings, short ones with their dash.
    """

    name: str
    help: str
    value_type: ValueType | None = None
    _: KW_ONLY
    sets: tuple[str, ...] = ()
    why: str = ""
    default: str = ""
    aliases: tuple[str, ...] = ()
    on_volume: Support = Support.WORKS
    on_command: Support = Support.WORKS

    def support(self, place: Place) -> Support:
        return self.on_command if place is Place.COMMAND else self.on_volume


def hint(name: str, help_: str, value_type: ValueType | None = None, *, why: str) -> Option:
    return Option(name, help_, value_type, why=why, on_volume=Support.HINT, on_command=Support.HINT)


def refused(name: str, help_: str, value_type: ValueType | None = None, *, why: str) -> Option:
    return Option(
        name, help_, value_type, why=why, on_volume=Support.REFUSED, on_command=Support.REFUSED
    )


_BUCKET = (
    Option("prefix", "Show only the keys below this prefix; a missing / at its end is added.",
           value_types.PREFIX, sets=("bucket.prefix",), default="the whole bucket"),
    Option("region", "Region of the bucket; a wrong one is corrected by S3's redirect.",
           value_types.REGION, sets=("bucket.region",),
           default="AWS_REGION, else the profile's, else us-east-1"),
    Option("endpoint-url", "URL of an S3-compatible store or of a private end point.",
           value_types.URL, sets=("bucket.endpoint_url",), default="AWS_ENDPOINT_URL, else AWS"),
    Option("force-path-style", "Put the bucket's name into the URL's path, not into its host.",
           sets=("bucket.force_path_style",), default="always on at end points that are not AWS's"),
    Option("transfer-acceleration", "Use the bucket's Transfer Acceleration end point.",
           sets=("bucket.transfer_acceleration",)),
    Option("dual-stack", "Use AWS's end points for IPv4 and IPv6.", sets=("bucket.dual_stack",)),
    Option("requester-pays", "Agree to pay for requests and traffic of a requester-pays bucket.",
           sets=("bucket.requester_pays",)),
    Option("bucket-type", "Type of the bucket.",
           choice("general-purpose", note="(directory buckets are not served yet)"),
           default="general-purpose"),
    Option("storage-class", "Storage class of new objects.", value_types.STORAGE_CLASS,
           sets=("bucket.storage_class",), default="the store's"),
    Option("expected-bucket-owner", "Fail every request unless this account owns the bucket.",
           value_types.ACCOUNT, sets=("bucket.expected_bucket_owner",), default="not checked"),
    Option("sse", "Server-side encryption of new objects.",
           choice("aws:kms", "aws:kms:dsse", "AES256"), sets=("bucket.sse",),
           default="the bucket's"),
    Option("sse-kms-key-id", "KMS key of new objects; needs sse=aws:kms or aws:kms:dsse.",
           value_types.KMS_KEY, sets=("bucket.sse_kms_key_id",), default="the bucket's"),
    Option("upload-checksums", "Checksum computed here and compared by S3 at each upload.",
           choice("crc32c", "crc64nvme", "off"), sets=("bucket.upload_checksums",)),
    Option("infer-content-type", "Derive a new object's Content-Type from its name.",
           sets=("bucket.infer_content_type",)),
)  # fmt: skip

_CREDENTIALS = (
    Option("no-sign-request", "Read a public bucket without credentials.",
           sets=("bucket.no_sign_request",)),
    Option("profile", "Profile of the shared AWS files that holds credentials and region.",
           value_types.PROFILE,
           sets=("bucket.profile",), default="AWS_PROFILE, else the SDK's chain"),
)  # fmt: skip

_LABEL_DEFAULT = "the policy's, where the node has SELinux"
_MOUNT = (
    Option("read-only", "Mount read-only; every change is answered EROFS.",
           sets=("read_only",), aliases=("ro", "-r")),
    Option("allow-delete", "Allow files and directories to be removed and renamed.",
           sets=("tree.allow_delete",)),
    Option("allow-overwrite", "Allow existing objects to be changed or replaced.",
           sets=("tree.allow_overwrite",)),
    Option("allow-other", "Let every user reach the mount; modes decide what they may do.",
           sets=("allow_other",), default="on volumes always on"),
    Option("allow-root", "Let root reach the mount, too.", sets=("allow_root",),
           on_volume=Support.HINT,
           why="everybody may reach a volume; uid, gid and the modes decide"),
    Option("uid", "Owner of every file and directory.", value_types.ID, sets=("tree.uid",),
           default="on the command line the caller's"),
    Option("gid", "Group of every file and directory.", value_types.ID, sets=("tree.gid",),
           default="with fsGroup that group; on the command line the caller's"),
    Option("dir-mode", "Permissions of directories.", value_types.OCTAL, sets=("tree.dir_mode",),
           default="with fsGroup 0770"),
    Option("file-mode", "Permissions of files.", value_types.OCTAL, sets=("tree.file_mode",),
           default="with fsGroup 0660"),
    Option("context", "SELinux label of the mount and all files in it; kubelet gives it by itself.",
           value_types.LABEL, sets=("context",), default=_LABEL_DEFAULT),
    Option("fscontext", "SELinux label of the mount itself.", value_types.LABEL,
           sets=("fscontext",),
           default=_LABEL_DEFAULT),
    Option("rootcontext", "SELinux label of the mount's top directory.", value_types.LABEL,
           sets=("rootcontext",), default=_LABEL_DEFAULT),
    refused("defcontext", "SELinux label of files that have none.", value_types.LABEL,
            why="the kernel takes it only for file systems that store labels; use context"),
    Option("dir-markers", "Whether mkdir puts an empty object `dir/`, so that all mounts see it.",
           value_types.SWITCH, sets=("tree.dir_markers",)),
    Option("drain-timeout", "How long open files may be uploaded when the mount is stopped.",
           seconds(3600), sets=("tree.drain_timeout_s",)),
    Option("noexec", "Let no program be run from the mount; an fstab line with `user` says it.",
           sets=("command.no_exec",), on_volume=Support.REFUSED,
           why="what a pod runs is its image's and its securityContext's matter"),
    Option("auto-unmount", "Unmount also when the serving process is killed.",
           sets=("command.auto_unmount",), on_volume=Support.HINT,
           why="the driver always unmounts"),
    hint("incremental-upload", "Append to objects of directory buckets.",
         why="files are uploaded at fsync and close"),
    Option("symlinks", "Show the object NAME.rclonelink as the symbolic link NAME.",
           value_types.SWITCH,
           sets=("tree.symlinks",)),
    refused("posix-metadata", "Keep mode, owner and times in the objects' metadata.",
            why="it is not built yet; mode and owner are those of the options"),
    Option("-o", "A comma list of options, as mount(8) and fstab give it.", value_types.ANY,
           on_volume=Support.REFUSED, why="each item of mountOptions is an option by itself"),
)  # fmt: skip

_CLIENT = (
    Option("memory-target", "Memory for the mount's buffers; writers wait when it is used up.",
           integer(64, 1 << 20, metavar="MIB", unit="MiB", factor=MIB),
           sets=("tree.memory_bytes",),
           default="512; on a volume, and at most, its share of the mounter's memory limit"),
    Option("spool-size", "Disk space for changed bytes that are not in S3 yet (random writes).",
           integer(0, 1 << 30, metavar="MIB", unit="MiB", factor=MIB), sets=("tree.spool_bytes",)),
    Option("unlinked-open-limit", "Bytes of a removed, still open file to keep readable.",
           integer(0, 1 << 40, metavar="BYTES", unit="bytes"),
           sets=("tree.unlinked_open_bytes",)),
    Option("part-size", "Size of the parts that are read and written in parallel.",
           value_types.PART,
           sets=("tree.read_part_bytes", "tree.write_part_bytes")),
    Option("read-part-size", "As part-size, for reading only.",
           integer(64 << 10, 5 * GIB, metavar="BYTES", unit="bytes: 64 KiB to 5 GiB"),
           sets=("tree.read_part_bytes",)),
    Option("write-part-size", "As part-size, for writing only; parts grow with a long file.",
           value_types.PART, sets=("tree.write_part_bytes",)),
    Option("aws-max-attempts", "How often a request is tried before it has failed.",
           integer(1, 100), sets=("bucket.max_attempts",)),
    Option("ca-bundle", "PEM file of the authorities to trust (volumes: in the mounter's pod).",
           value_types.PATH,
           sets=("bucket.ca_bundle",), default="AWS_CA_BUNDLE, else the system's"),
    Option("user-agent-prefix", "Text put before the User-Agent of every request.",
           value_types.AGENT, sets=("bucket.user_agent_prefix",), default="none"),
    hint("maximum-throughput-gbps", "Throughput to aim for.", value_types.ANY,
         why="connections are opened as requests need them"),
    hint("max-threads", "Threads that serve the file system.", value_types.ANY,
         why="one event loop serves all requests at once"),
    hint("bind", "Network interfaces to use.", value_types.ANY,
         why="the kernel's routes choose the interface"),
)  # fmt: skip

_LOG_WHY = "the mounter logs to standard error, which kubectl logs shows"
_LEVEL_WHY = "a volume cannot change the log level of the driver"
_METRICS_WHY = "metrics are neither logged nor pushed"
_LOGGING = (
    Option("foreground", "Stay in the foreground.", sets=("command.foreground",),
           aliases=("-f",), on_volume=Support.DROPPED),
    Option("debug", "Log every operation and request.", sets=("command.debug",),
           aliases=("-d",), on_volume=Support.HINT,
           why=_LEVEL_WHY),
    Option("debug-crt", "As debug.", sets=("command.debug",), on_volume=Support.HINT,
           why=_LEVEL_WHY),
    Option("log-directory", "Directory for log files.", value_types.PATH,
           sets=("command.log_directory",), aliases=("-l",), default="none",
           on_volume=Support.HINT, why=_LOG_WHY),
    Option("no-log", "Log nothing.", sets=("command.no_log",), on_volume=Support.HINT,
           why=_LOG_WHY),
    hint("log-metrics", "Write metrics into the log.",
         why=_METRICS_WHY),
    hint("otlp-endpoint", "Where to push metrics.", value_types.ANY,
         why=_METRICS_WHY),
    hint("otlp-export-interval", "How often to push metrics.", value_types.ANY,
         why=_METRICS_WHY),
    Option("help", "Show this help.", aliases=("-h",), on_volume=Support.DROPPED),
    Option("version", "Show the version.", aliases=("-V",), on_volume=Support.DROPPED),
    Option("-v", "Said by mount(8), and dropped by the AWS driver.",
           on_volume=Support.DROPPED, on_command=Support.DROPPED),
)  # fmt: skip

_CACHE_WHY = "there is no disk cache yet; data is read from S3 and kept in the page cache"
_CACHING = (
    Option("metadata-ttl", "How long look-ups are trusted; given by hand, open trusts them, too.",
           value_types.TTL, sets=("tree.metadata_ttl_s",)),
    Option("negative-metadata-ttl", "How long names that were not found are remembered.",
           value_types.TTL, sets=("tree.negative_metadata_ttl_s",)),
    hint("cache", "Directory of a disk cache.", value_types.ANY, why=_CACHE_WHY),
    hint("max-cache-size", "Size of the disk cache.", value_types.ANY, why=_CACHE_WHY),
    hint("cache-block-size", "Size of a block of the disk cache.", value_types.ANY, why=_CACHE_WHY),
    hint("cache-xz", "Directory bucket used as a shared cache.", value_types.ANY, why=_CACHE_WHY),
)  # fmt: skip

GROUPS: Mapping[str, tuple[Option, ...]] = MappingProxyType(
    {
        "Bucket": _BUCKET,
        "Credentials": _CREDENTIALS,
        "Mount": _MOUNT,
        "Client": _CLIENT,
        "Logging and metrics": _LOGGING,
        "Caching": _CACHING,
    }
)
OPTIONS: tuple[Option, ...] = tuple(chain.from_iterable(GROUPS.values()))

# Pairs that contradict each other, with the reason. (AWS's end point rules refuse the three
# about end points; the others are ours or Mountpoint's.)
CLASHES: tuple[tuple[str, str, str], ...] = (
    ("part-size", "read-part-size", "part-size sets both sizes"),
    ("part-size", "write-part-size", "part-size sets both sizes"),
    ("transfer-acceleration", "force-path-style", "acceleration needs the bucket in the host"),
    ("transfer-acceleration", "endpoint-url", "acceleration has an end point of its own"),
    ("dual-stack", "endpoint-url", "dual-stack chooses an end point itself"),
    ("no-sign-request", "profile", "an unsigned request has no identity"),
    ("no-sign-request", "requester-pays", "an anonymous requester cannot pay"),
    ("allow-other", "allow-root", "everybody includes root"),
    ("log-directory", "no-log", "no-log logs nothing"),
)


def by_spelling(rows: Iterable[Option]) -> Mapping[str, Option]:
    """Every name and alias, short ones with their dash."""
    return MappingProxyType(
        {spelling: row for row in rows for spelling in (row.name, *row.aliases)}
    )


SPELLINGS: Mapping[str, Option] = by_spelling(OPTIONS)
