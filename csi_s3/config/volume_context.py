"""volumeAttributes and mountOptions of a PersistentVolume, with the names of the AWS driver.

Manifests written for that driver work, except that nothing is ignored silently: an unknown name is
an error, and so are two values for one option.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from csi_s3.config import value_types
from csi_s3.config.defaults import FLAG, DefaultOptions, blame
from csi_s3.config.option_parser import (
    OptionParser,
    config,
    read_value,
    split_commas,
    split_item,
)
from csi_s3.config.options import BUCKET_NAME, OPTIONS, SPELLINGS, Option, OptionKind, hint, refused
from csi_s3.config.value_types import Value, choice
from csi_s3.config.volume import VolumeConfig
from csi_s3.errors import BadOptionError

# Added by kubelet and the external provisioner, never by the author of a volume.
KUBERNETES_PREFIXES = ("csi.storage.k8s.io/", "storage.kubernetes.io/")
FS_GROUP_DIR_MODE, FS_GROUP_FILE_MODE = 0o770, 0o660

# Names of an option in other drivers, in lower case.
_FOREIGN_NAMES = dict.fromkeys(("bucketprefix", "directory", "path", "subdir", "subpath"), "prefix")

_CACHE_WHY = "there is no disk cache yet; data is read from S3 and stays in the page cache"
_POD_WHY = "volumes share the driver's mounter; set its resources in the chart"
_PROXY_WHY = "proxies are set for the whole mounter, by HTTPS_PROXY and NO_PROXY in its environment"

ATTRIBUTES: tuple[Option, ...] = (
    BUCKET_NAME,
    Option("authenticationSource", "The identity that is used for S3: the driver's.",
           choice("driver", note="(the identity of a pod or a Secret is not supported yet)"),
           default="driver"),
    hint("stsRegion", "Region of STS for a pod's identity.", value_types.ANY,
         why="it is used for a pod's identity only"),
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

    default_options: fsGroup and mount_flags take precedence over them.

    Raises:
        BadOptionError: names attribute or option, value, expected form, and for an unknown name the
            nearest known one.

    """
    attributes = _attributes(volume_context)
    options = _options(mount_flags)
    bucket = {"bucketName": attributes.values["bucketName"]}
    always = {"allow-other": True, "read-only": readonly}
    defaults = default_options.beside(options.values)
    group = _group_defaults(volume_mount_group)
    try:
        volume_config = config(options.values, defaults=(bucket, always, defaults, group))
    except BadOptionError as exc:
        hints = filter(None, (exc.hint, blame(exc.what, defaults)))
        raise BadOptionError(exc.what, "; ".join(hints)) from exc
    return VolumeRequest(config=volume_config, warnings=(*attributes.warnings, *options.warnings))


def parse_defaults(items: Sequence[str]) -> DefaultOptions:
    """Read the mount options that every volume starts from, in the form of a volume's.

    Raises:
        BadOptionError: as for a volume's own; also names the flag.

    """
    try:
        options = _options(items)
        config(options.values, defaults=[{"bucketName": "any"}])
    except BadOptionError as exc:
        raise BadOptionError(f"{FLAG}: {exc.what}", exc.hint) from exc
    return DefaultOptions(values=options.values, warnings=options.warnings)


def _options(items: Sequence[str]) -> OptionParser:
    options = OptionParser(
        OptionKind.VOLUME, OPTIONS, list_hint="see docs/options.md for all options"
    )
    for item in items:
        for text, name, value in _split(item, options):
            _refuse_misplaced(name, text)
            options.add(name, value)
    return options


def _attributes(volume_context: Mapping[str, str]) -> OptionParser:
    options = OptionParser(
        OptionKind.ATTRIBUTE, ATTRIBUTES, list_hint="see docs/options.md for all attributes"
    )
    for name, text in sorted(volume_context.items()):  # a map: report always the same error first
        if name.startswith(KUBERNETES_PREFIXES):
            continue
        option = _FOREIGN_NAMES.get(name.lower(), name.lower())
        if options.find(name) is None and option in SPELLINGS:
            raise BadOptionError(
                f"volume attribute {name} is not known",
                f"{option} is a mount option: put it into the volume's mountOptions",
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
        "gid": read_value("volume_mount_group (fsGroup)", value_types.ID, volume_mount_group),
        "dir-mode": FS_GROUP_DIR_MODE,
        "file-mode": FS_GROUP_FILE_MODE,
    }


def _split(item: str, options: OptionParser) -> list[tuple[str, str, str | None]]:
    """Split an item at its commas into options: (text, name, value) of each.

    Only if every piece is then a known option, with a value if it takes one. Else the commas belong
    to the value, as in `prefix=a,b/`; if there is no value, the item is split all the same, so that
    the error names the wrong piece.
    """
    pieces = [(piece, *split_item(piece)) for piece in split_commas(item)]
    whole = (item, *split_item(item))
    is_list = all(options.is_spelling(name, value) for _, name, value in pieces)
    return pieces if is_list or "," in whole[1] else [whole]


def _refuse_misplaced(name: str, text: str) -> None:
    if re.match(r"\s*[^\s=]+\s+=", text):
        raise BadOptionError(
            f"mount option {name} is followed by a blank and '='",
            f"write {name}=VALUE, without blanks around '='",
        )
    if name in _ATTRIBUTE_NAMES and name not in SPELLINGS:
        raise BadOptionError(
            f"mount option {name} is not known",
            f"{name} is a volume attribute: put it into the volume's volumeAttributes",
        )


_ATTRIBUTE_NAMES = frozenset(row.name for row in ATTRIBUTES)
