"""What a PersistentVolume says: volumeAttributes and mountOptions, as the AWS driver spells them.

A drop-in for manifests written for it, except that nothing is ignored in silence there: a name
that is not known is an error, and so are two values for one option.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from csi_s3.config import value_types
from csi_s3.config.defaults import FLAG, DefaultOptions, blame
from csi_s3.config.option_parser import (
    OptionParser,
    config,
    fields_of,
    read_value,
    split_commas,
    split_item,
)
from csi_s3.config.options import OPTIONS, SPELLINGS, Option, Place, hint, refused
from csi_s3.config.value_types import Value, choice
from csi_s3.config.volume import VolumeConfig
from csi_s3.errors import BadOptionError

# Put there by kubelet and the external provisioner, never by the author of a volume.
KUBERNETES_PREFIXES = ("csi.storage.k8s.io/", "storage.kubernetes.io/")
FS_GROUP_DIR_MODE, FS_GROUP_FILE_MODE = 0o770, 0o660

# What other drivers call the option, in lower case.
_MEANT = dict.fromkeys(("bucketprefix", "directory", "path", "subdir", "subpath"), "prefix")

_CACHE_WHY = "there is no disk cache yet; data is read from S3 and kept in the page cache"
_POD_WHY = "volumes share the driver's mounter; give it resources in the chart"
_PROXY_WHY = "proxies are set for the whole mounter, as HTTPS_PROXY and NO_PROXY in its environment"

ATTRIBUTES: tuple[Option, ...] = (
    Option("bucketName", "The bucket, or an access point's alias. Required.", value_types.BUCKET,
           sets=("bucket.bucket",)),
    Option("authenticationSource", "Whose identity asks S3: the driver's.",
           choice("driver", note="(a pod's or a secret's identity is not built yet)"),
           default="driver"),
    hint("stsRegion", "Region of STS for a pod's identity.", value_types.ANY,
         why="it matters to a pod's identity only"),
    hint("cache", "Kind of the disk cache.", value_types.ANY, why=_CACHE_WHY),
    hint("cacheEmptyDirSizeLimit", "Size of the disk cache.", value_types.ANY, why=_CACHE_WHY),
    hint("cacheEmptyDirMedium", "Medium of the disk cache.", value_types.ANY, why=_CACHE_WHY),
    hint("cacheEphemeralStorageClassName", "Storage class of the disk cache.", value_types.ANY,
         why=_CACHE_WHY),
    hint("cacheEphemeralStorageResourceRequest", "Size of the disk cache.", value_types.ANY,
         why=_CACHE_WHY),
    refused("mountpointPodServiceAccountName", "Service account of the serving pod.",
            value_types.ANY,
            why="all volumes have the identity of the driver's own service account"),
    hint("mountpointContainerResourcesRequestsCpu", "CPU request.", value_types.ANY, why=_POD_WHY),
    hint("mountpointContainerResourcesRequestsMemory", "Memory request.", value_types.ANY,
         why=_POD_WHY),
    hint("mountpointContainerResourcesLimitsCpu", "CPU limit.", value_types.ANY, why=_POD_WHY),
    hint("mountpointContainerResourcesLimitsMemory", "Memory limit.", value_types.ANY,
         why=_POD_WHY),
    refused("mountpointEnv.HTTPS_PROXY", "Proxy for requests to S3.", value_types.ANY,
            why=_PROXY_WHY),
    refused("mountpointEnv.NO_PROXY", "Hosts that need no proxy.", value_types.ANY, why=_PROXY_WHY),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeRequest:
    """warnings: one sentence for each hint, in a fixed order, for the log and an Event."""

    config: VolumeConfig
    warnings: tuple[str, ...]


def parse_volume(
    volume_context: Mapping[str, str],
    mount_flags: Sequence[str],
    *,
    volume_mount_group: str = "",
    readonly: bool = False,
    default_options: DefaultOptions = DefaultOptions(),  # noqa: B008 - frozen
) -> VolumeRequest:
    """Read NodePublishVolume's volume_context and its capability's mount_flags, in any order.

    default_options: give way to fsGroup, as the program's own defaults do, and to mount_flags.

    Raises:
        BadOptionError: names attribute or option, value, expected form, and the nearest known
            name of an unknown one.

    """
    attributes = _attributes(volume_context)
    options = _options(mount_flags)
    kept = default_options.beside(options.values)
    defaults: dict[str, Value] = {
        "allow_other": True,
        "read_only": readonly,
        **fields_of(kept, OPTIONS),
        "bucket.bucket": attributes.values["bucketName"],
        **_group_defaults(volume_mount_group),
    }
    try:
        volume_config = config(options.values, OPTIONS, defaults)
    except BadOptionError as exc:
        hints = filter(None, (exc.hint, blame(exc.what, kept)))
        raise BadOptionError(exc.what, "; ".join(hints)) from exc
    return VolumeRequest(config=volume_config, warnings=(*attributes.warnings, *options.warnings))


def parse_defaults(items: Sequence[str]) -> DefaultOptions:
    """Read the mount options that every volume starts from, written as in a volume.

    Raises:
        BadOptionError: as for a volume's own, and names the flag.

    """
    try:
        options = _options(items)
        config(options.values, OPTIONS, {"bucket.bucket": "any"})
    except BadOptionError as exc:
        raise BadOptionError(f"{FLAG}: {exc.what}", exc.hint) from exc
    return DefaultOptions(values=options.values, warnings=options.warnings)


def _options(items: Sequence[str]) -> OptionParser:
    options = OptionParser(
        Place.VOLUME, OPTIONS, elsewhere="docs/options.md lists the options there are"
    )
    for item in chain.from_iterable(_split_list(item, options) for item in items):
        name, text = split_item(item)
        _refuse_misplaced(name, item)
        options.add(name, text)
    return options


def _attributes(volume_context: Mapping[str, str]) -> OptionParser:
    options = OptionParser(
        Place.ATTRIBUTE, ATTRIBUTES, elsewhere="docs/options.md lists the attributes there are"
    )
    for name, text in sorted(volume_context.items()):  # a map: of two errors always the same one
        if name.startswith(KUBERNETES_PREFIXES):
            continue
        meant = _MEANT.get(name.lower(), name.lower())
        if options.find(name) is None and meant in SPELLINGS:
            raise BadOptionError(
                f"volume attribute {name} is not known",
                f"{meant} is a mount option: put it into the volume's mountOptions",
            )
        options.add(name, text)
    if "bucketName" not in options.values:
        raise BadOptionError(
            "volume attribute bucketName is missing", f"expected {value_types.BUCKET.expected}"
        )
    return options


def _group_defaults(volume_mount_group: str) -> dict[str, Value]:
    """Owner and modes that come with fsGroup (VOLUME_MOUNT_GROUP)."""
    if not volume_mount_group:
        return {}
    return {
        "tree.gid": read_value("volume_mount_group (fsGroup)", value_types.ID, volume_mount_group),
        "tree.dir_mode": FS_GROUP_DIR_MODE,
        "tree.file_mode": FS_GROUP_FILE_MODE,
    }


def _split_list(item: str, options: OptionParser) -> list[str]:
    """Split at commas if every piece is then a known option with a value where it takes one.

    Else the commas belong to the value, as in `prefix=a,b/`; where there is no value to hold
    them, the list is split all the same, so that the error names its wrong piece.
    """
    pieces = split_commas(item)
    if all(options.is_spelling(*split_item(piece)) for piece in pieces):
        return pieces
    return pieces if "," in split_item(item)[0] else [item]


def _refuse_misplaced(name: str, item: str) -> None:
    if re.match(r"\s*[^\s=]+\s+=", item):
        raise BadOptionError(
            f"mount option {name} is followed by a blank and '='",
            f"write {name}=VALUE, without blanks around the '='",
        )
    if name in _ATTRIBUTE_NAMES and name not in SPELLINGS:
        raise BadOptionError(
            f"mount option {name} is not known",
            f"{name} is a volume attribute: put it into the volume's volumeAttributes",
        )


_ATTRIBUTE_NAMES = frozenset(row.name for row in ATTRIBUTES)
