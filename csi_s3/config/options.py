"""The table of mount options: every option of Mountpoint, of its CSI driver, and this driver's own.

Parsing, `--help`, docs/options.md and the schema of the chart's values are made from these rows
only. An option is refused when ignoring it would change identity, safety or meaning; it is a hint
when it only tunes something that this driver does in another way. Rejected: argparse as the source,
because volumes and the command line would then have two parsers with different messages.
"""

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, MISSING, dataclass
from enum import Enum
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import Any, TypeAlias

from csi_s3.config import value_types
from csi_s3.config.value_types import GIB, ValueType, choice, integer, seconds
from csi_s3.config.volume import MIB, BucketConfig, CommandOptions, TreeConfig, VolumeConfig


class Support(Enum):
    """The effect of an option on volumes, or on the command line."""

    WORKS = "works"
    HINT = "hint"  # accepted; one WARNING says what is done instead
    REFUSED = "refused"
    DROPPED = "dropped"  # silently: it has no meaning there


class OptionKind(Enum):
    """Where an option is written."""

    VOLUME = "mount option"
    COMMAND = "option"
    ATTRIBUTE = "volume attribute"

    def name_of(self, name: str) -> str:
        """Name an option as it is written there, to begin an error message."""
        dashes = "--" if self is OptionKind.COMMAND and not name.startswith("-") else ""
        return f"{self.value} {dashes}{name}"


ConfigPart: TypeAlias = type[BucketConfig | TreeConfig | VolumeConfig | CommandOptions]


def fields_of(part: ConfigPart, *names: str) -> tuple[tuple[ConfigPart, str], ...]:
    """Fields of a part of the configuration. A name that it does not have is a KeyError."""
    return tuple((part, part.__dataclass_fields__[name].name) for name in names)


_bucket, _tree = partial(fields_of, BucketConfig), partial(fields_of, TreeConfig)
_volume, _command = partial(fields_of, VolumeConfig), partial(fields_of, CommandOptions)


@dataclass(frozen=True, slots=True)
class Option:
    """One row: a mount option or a volume attribute.

    value_type: None for a flag, which takes no value.
    sets: the fields that get the value. Empty: it is checked and changes nothing.
    why: what is done instead (a hint), or the reason why it is refused.
    default: words after (or instead of) the default of the field.
    aliases: further spellings, short ones with their dash.
    """

    name: str
    help: str
    value_type: ValueType | None = None
    _: KW_ONLY
    sets: tuple[tuple[ConfigPart, str], ...] = ()
    why: str = ""
    default: str = ""
    aliases: tuple[str, ...] = ()
    on_volume: Support = Support.WORKS
    on_command: Support = Support.WORKS

    @property
    def field_default(self) -> Any:  # noqa: ANN401 - the field's type
        """Of the first field that it sets; None if there is none."""
        part, name = self.sets[0] if self.sets else (BucketConfig, "bucket")
        default = part.__dataclass_fields__[name].default
        return None if default is MISSING else default

    @property
    def default_text(self) -> str:
        """The default of the field that the option sets, then the words of the table."""
        if Support.WORKS not in {self.on_volume, self.on_command}:
            return ""
        if self.value_type is None:
            text = "off"
        else:
            value = self.field_default
            text = "" if value in {None, ""} else self.value_type.write(value)
        return "; ".join(filter(None, (text, self.default)))

    def support(self, kind: OptionKind) -> Support:
        return self.on_command if kind is OptionKind.COMMAND else self.on_volume


def hint(name: str, help_: str, value_type: ValueType | None = None, *, why: str) -> Option:
    return Option(name, help_, value_type, why=why, on_volume=Support.HINT, on_command=Support.HINT)


def refused(name: str, help_: str, value_type: ValueType | None = None, *, why: str) -> Option:
    return Option(
        name, help_, value_type, why=why, on_volume=Support.REFUSED, on_command=Support.REFUSED
    )


BUCKET_NAME = Option("bucketName", "The bucket, or an access point's alias. Required.",
                     value_types.BUCKET, sets=_bucket("bucket"))  # fmt: skip

_BUCKET = (
    Option("prefix", "Show only the keys below this prefix; a missing / at its end is added.",
           value_types.PREFIX, sets=_bucket("prefix"), default="the whole bucket"),
    Option("region", "Region of the bucket; a wrong one is corrected by S3's redirect.",
           value_types.REGION, sets=_bucket("region"),
           default="AWS_REGION, else the profile's, else us-east-1"),
    Option("endpoint-url", "URL of an S3-compatible store, or of a private endpoint. Volumes may"
           " not name loopback or link-local addresses.",
           value_types.URL, sets=_bucket("endpoint_url"), default="AWS_ENDPOINT_URL, else AWS"),
    Option("force-path-style", "Put the bucket's name into the URL's path, not into its host.",
           sets=_bucket("force_path_style"), default="always on for endpoints that are not AWS's"),
    Option("transfer-acceleration", "Use the bucket's Transfer Acceleration endpoint.",
           sets=_bucket("transfer_acceleration")),
    Option("dual-stack", "Use AWS's endpoints for IPv4 and IPv6.", sets=_bucket("dual_stack")),
    Option("requester-pays", "Agree to pay for requests and traffic of a requester-pays bucket.",
           sets=_bucket("requester_pays")),
    Option("bucket-type", "Type of the bucket.",
           choice("general-purpose", note="(directory buckets are not supported yet)"),
           default="general-purpose"),
    Option("storage-class", "Storage class of new objects.", value_types.STORAGE_CLASS,
           sets=_bucket("storage_class"), default="the store's"),
    Option("expected-bucket-owner", "Fail every request unless this account owns the bucket.",
           value_types.ACCOUNT, sets=_bucket("expected_bucket_owner"), default="not checked"),
    Option("sse", "Server-side encryption of new objects.",
           choice("aws:kms", "aws:kms:dsse", "AES256"), sets=_bucket("sse"),
           default="the bucket's"),
    Option("sse-kms-key-id", "KMS key of new objects; needs sse=aws:kms or aws:kms:dsse.",
           value_types.KMS_KEY, sets=_bucket("sse_kms_key_id"), default="the bucket's"),
    Option("upload-checksums", "Checksum that is computed here and verified by S3 at each upload.",
           choice("crc32c", "crc64nvme", "off"), sets=_bucket("upload_checksums")),
    Option("infer-content-type", "Derive a new object's Content-Type from its name.",
           sets=_bucket("infer_content_type")),
)  # fmt: skip

_CREDENTIALS = (
    Option("no-sign-request", "Read a public bucket without credentials.",
           sets=_bucket("no_sign_request")),
    Option("profile", "Profile of the shared AWS files that holds credentials and region.",
           value_types.PROFILE, sets=_bucket("profile"),
           default="AWS_PROFILE, else the SDK's chain"),
)  # fmt: skip

_LABEL_DEFAULT = "the policy's, where the node has SELinux"
_MOUNT = (
    Option("read-only", "Mount read-only; every change fails with EROFS.",
           sets=_volume("read_only"), aliases=("ro", "-r")),
    Option("allow-delete", "Allow files and directories to be removed and renamed.",
           sets=_tree("allow_delete")),
    Option("allow-overwrite", "Allow existing objects to be changed or replaced.",
           sets=_tree("allow_overwrite")),
    Option("allow-other", "Let every user access the mount; modes decide what they may do.",
           sets=_volume("allow_other"), default="on volumes always on"),
    Option("allow-root", "Let root access the mount as well.", sets=_volume("allow_root"),
           on_volume=Support.HINT,
           why="every user can access a volume; uid, gid and the modes decide"),
    Option("uid", "Owner of every file and directory.", value_types.ID, sets=_tree("uid"),
           default="on the command line the caller's"),
    Option("gid", "Group of every file and directory.", value_types.ID, sets=_tree("gid"),
           default="with fsGroup that group; on the command line the caller's"),
    Option("dir-mode", "Permissions of directories.", value_types.OCTAL, sets=_tree("dir_mode"),
           default="with fsGroup 0770"),
    Option("file-mode", "Permissions of files.", value_types.OCTAL, sets=_tree("file_mode"),
           default="with fsGroup 0660"),
    Option("context", "SELinux label of the mount and all files in it; kubelet sets it itself.",
           value_types.LABEL, sets=_volume("context"), default=_LABEL_DEFAULT),
    Option("fscontext", "SELinux label of the mount itself.", value_types.LABEL,
           sets=_volume("fscontext"), default=_LABEL_DEFAULT),
    Option("rootcontext", "SELinux label of the mount's top directory.", value_types.LABEL,
           sets=_volume("rootcontext"), default=_LABEL_DEFAULT),
    refused("defcontext", "SELinux label of files without one.", value_types.LABEL,
            why="the kernel takes it only for file systems that store labels; use context"),
    Option("dir-markers", "Whether mkdir creates an empty object `dir/` for other mounts to see.",
           value_types.SWITCH, sets=_tree("dir_markers")),
    Option("drain-timeout", "Time to upload open files when the mount is stopped.", seconds(3600),
           sets=_tree("drain_timeout_s")),
    Option("noexec", "Let no program be run from the mount; implied by `user` in fstab.",
           sets=_command("no_exec"), on_volume=Support.REFUSED,
           why="the image and the securityContext of a pod decide what it runs"),
    Option("auto-unmount", "Unmount also when the serving process is killed.",
           sets=_command("auto_unmount"), on_volume=Support.HINT, why="the driver always unmounts"),
    hint("incremental-upload", "Append to objects of directory buckets.",
         why="files are uploaded at fsync and close"),
    Option("symlinks", "Show the object NAME.rclonelink as the symbolic link NAME.",
           value_types.SWITCH, sets=_tree("symlinks")),
    refused("posix-metadata", "Keep mode, owner and times in the objects' metadata.",
            why="it is not supported yet; mode and owner are those of the options"),
    Option("-o", "A comma-separated list of options, as in mount(8) and fstab.", value_types.ANY,
           on_volume=Support.REFUSED, why="each item of mountOptions is one option"),
)  # fmt: skip

_CLIENT = (
    Option("memory-target", "Memory for the mount's buffers; writers wait when it is full.",
           integer(64, 1 << 20, metavar="MIB", unit="MiB", factor=MIB), sets=_tree("memory_bytes"),
           default="512; on a volume, and at most, its share of the mounter's memory limit"),
    Option("spool-size", "Disk space for changed bytes that are not in S3 yet (random writes).",
           integer(0, 1 << 30, metavar="MIB", unit="MiB", factor=MIB), sets=_tree("spool_bytes")),
    Option("unlinked-open-limit", "Bytes of a removed, still open file to keep readable.",
           integer(0, 1 << 40, metavar="BYTES", unit="bytes"), sets=_tree("unlinked_open_bytes")),
    Option("part-size", "Size of the parts that are read and written in parallel.",
           value_types.PART, sets=_tree("read_part_bytes", "write_part_bytes")),
    Option("read-part-size", "As part-size, for reading only.",
           integer(64 << 10, 5 * GIB, metavar="BYTES", unit="bytes: 64 KiB to 5 GiB"),
           sets=_tree("read_part_bytes")),
    Option("write-part-size", "As part-size, for writing only; parts grow with a long file.",
           value_types.PART, sets=_tree("write_part_bytes")),
    Option("aws-max-attempts", "Number of tries of a request before it fails.", integer(1, 100),
           sets=_bucket("max_attempts")),
    Option("ca-bundle", "PEM file of trusted authorities. Volumes name one below /etc/csi-s3/ca"
           " or /etc/ssl of the mounter.",
           value_types.PATH, sets=_bucket("ca_bundle"), default="AWS_CA_BUNDLE, else the system's"),
    Option("user-agent-prefix", "Prefix of the User-Agent of every request.", value_types.AGENT,
           sets=_bucket("user_agent_prefix"), default="none"),
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
    Option("foreground", "Stay in the foreground.", sets=_command("foreground"), aliases=("-f",),
           on_volume=Support.DROPPED),
    Option("debug", "Log every operation and request.", sets=_command("debug"), aliases=("-d",),
           on_volume=Support.HINT, why=_LEVEL_WHY),
    Option("debug-crt", "As debug.", sets=_command("debug"), on_volume=Support.HINT,
           why=_LEVEL_WHY),
    Option("log-directory", "Directory for log files.", value_types.PATH,
           sets=_command("log_directory"), aliases=("-l",), default="none", on_volume=Support.HINT,
           why=_LOG_WHY),
    Option("no-log", "Log nothing.", sets=_command("no_log"), on_volume=Support.HINT, why=_LOG_WHY),
    hint("log-metrics", "Write metrics into the log.", why=_METRICS_WHY),
    hint("otlp-endpoint", "Where to push metrics.", value_types.ANY, why=_METRICS_WHY),
    hint("otlp-export-interval", "How often to push metrics.", value_types.ANY, why=_METRICS_WHY),
    Option("help", "Show this help.", aliases=("-h",), on_volume=Support.DROPPED),
    Option("version", "Show the version.", aliases=("-V",), on_volume=Support.DROPPED),
    Option("-v", "Added by mount(8), and dropped by the AWS driver.", on_volume=Support.DROPPED,
           on_command=Support.DROPPED),
)  # fmt: skip

_CACHE_WHY = "there is no disk cache yet; data is read from S3 and stays in the page cache"
_CACHING = (
    Option("metadata-ttl", "How long lookups are cached; if set explicitly, also for open.",
           value_types.TTL, sets=_tree("metadata_ttl_s")),
    Option("negative-metadata-ttl", "How long failed lookups are cached.", value_types.TTL,
           sets=_tree("negative_metadata_ttl_s")),
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

# Pairs that contradict each other, with the reason. (AWS's endpoint rules refuse the three about
# endpoints; Mountpoint or this driver refuses the others.)
CLASHES: tuple[tuple[str, str, str], ...] = (
    ("part-size", "read-part-size", "part-size sets both sizes"),
    ("part-size", "write-part-size", "part-size sets both sizes"),
    ("transfer-acceleration", "force-path-style", "acceleration needs the bucket in the host"),
    ("transfer-acceleration", "endpoint-url", "acceleration has an endpoint of its own"),
    ("dual-stack", "endpoint-url", "dual-stack chooses the endpoint itself"),
    ("no-sign-request", "profile", "an unsigned request has no identity"),
    ("no-sign-request", "requester-pays", "an anonymous requester cannot pay"),
    ("allow-other", "allow-root", "every user includes root"),
    ("log-directory", "no-log", "no-log disables logs"),
)


def by_spelling(rows: Iterable[Option]) -> Mapping[str, Option]:
    """Every name and alias, short ones with their dash."""
    return MappingProxyType(
        {spelling: row for row in rows for spelling in (row.name, *row.aliases)}
    )


SPELLINGS: Mapping[str, Option] = by_spelling(OPTIONS)
