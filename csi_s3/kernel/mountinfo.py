"""The mounts in /proc/self/mountinfo, read without touching a mount.

A stat of a mount whose daemon does not answer blocks; reading this file never does.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ESCAPED = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class MountEntry:
    """One line (proc_pid_mountinfo(5)). Strings are unescaped and decoded by os.fsdecode.

    device: "major:minor", the same for all mounts of one file system.
    options: of this mount, such as `ro` of a bind; super_options: of the file system.
    """

    mount_id: int
    device: str
    root: str
    mount_point: str
    options: frozenset[str]
    fs_type: str
    source: str
    super_options: frozenset[str]

    @property
    def is_fuse(self) -> bool:
        """Whether it is a FUSE mount, of this driver or of another program."""
        return self.fs_type == "fuse" or self.fs_type.startswith("fuse.")

    @property
    def read_only(self) -> bool:
        return "ro" in self.options

    @property
    def minor(self) -> int:
        """Of a FUSE mount also the name of its connection in fusectl."""
        return int(self.device.partition(":")[2])


def parse_mountinfo(data: bytes) -> Iterator[MountEntry]:
    """The entries in the kernel's order: the last of several on one mount point is on top.

    Raises:
        ValueError: a line does not have this format.

    """
    for line in filter(None, data.split(b"\n")):  # not splitlines: a path may hold a \r
        head, separator, tail = line.partition(b" - ")
        fields, rest = head.split(b" "), tail.split(b" ")
        if not separator or len(fields) < 6 or len(rest) < 3:  # noqa: PLR2004 - the format's
            raise ValueError(f"not a line of mountinfo: {line!r}")
        yield MountEntry(
            mount_id=int(fields[0]),
            device=fields[2].decode(),
            root=_text(fields[3]),
            mount_point=_text(fields[4]),
            options=frozenset(_text(fields[5]).split(",")),
            fs_type=_text(rest[0]),
            source=_text(rest[1]),
            super_options=frozenset(_text(rest[2]).split(",")),
        )


def read_mountinfo() -> list[MountEntry]:
    """The mounts in this process's namespace."""
    return list(parse_mountinfo(Path("/proc/self/mountinfo").read_bytes()))


def mount_at(path: str) -> MountEntry | None:
    """The topmost mount on exactly this path (resolved: no symlink in it)."""
    return next(reversed(mounts_at(path)), None)


def mounts_at(path: str) -> list[MountEntry]:
    """All mounts on exactly this path (resolved: no symlink in it), the topmost last."""
    return [entry for entry in read_mountinfo() if entry.mount_point == path]


def _text(field: bytes) -> str:
    """Undo the octal escapes of blank, tab, newline, backslash and #."""
    return os.fsdecode(_ESCAPED.sub(lambda m: bytes([int(m[1], 8)]), field))
