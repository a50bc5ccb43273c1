"""The spool's files on the disk: in the mount's state directory, two for each spool file.

    <state dir>/file-<number>.data    the bytes, at their offsets in the file; sparse
    <state dir>/file-<number>.json    which object they belong to (`Description`)

A .data without a .json belongs to no object: its file was unlinked, or its worker died while it
made it. The next worker removes it.
"""

import json
import os
import re
from contextlib import suppress
from pathlib import Path

from csi_s3.fs.base.json_file import create_json, read_json, write_json
from csi_s3.fs.write.spool_description import Description
from csi_s3.fs.write.spool_space import size_on_disk

NAME = re.compile(r"file-(\d+)(\.\w+)")
DATA_SUFFIX, DESCRIPTION_SUFFIX = ".data", ".json"
UNNAMED = "waiting.data"  # has a name for a moment; the next one takes the same
_HEAD_BYTES = 16 << 10  # a key of 1024 bytes takes 6 KiB at most
_MAP = b', "extents": '  # the last field


class SpoolDirectory:
    """Names, and what is done with them. Plain calls, in microseconds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = f"{path}/file-"

    def data(self, number: int) -> str:
        return f"{self._start}{number}{DATA_SUFFIX}"

    def description(self, number: int) -> str:
        return f"{self._start}{number}{DESCRIPTION_SUFFIX}"

    def create_unnamed(self) -> int:
        """A descriptor of a new file without a name. Raises OSError."""
        path = f"{self.path}/{UNNAMED}"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(path, flags, 0o600)
        try:
            os.unlink(path)  # noqa: PTH108 - as in `json_file`
        except OSError:
            os.close(fd)
            raise
        return fd

    def read(self, number: int) -> Description:
        """What the file is.

        Raises:
            OSError, ValueError, TypeError: it cannot be read.

        """
        return Description.from_json(read_json(self.description(number)))

    def read_head(self, number: int) -> Description:
        """As `read`, but of a long one without its map, which alone may take a while.

        In JSON, quotes within a string are escaped, so the key cannot look like the map.
        """
        with open(self.description(number), "rb") as file:  # noqa: PTH123 - as in `json_file`
            head = file.read(_HEAD_BYTES)
        end = head.find(_MAP)
        if len(head) < _HEAD_BYTES or end < 0:
            return self.read(number)
        return Description.from_json(json.loads(head[:end] + b"}"))

    def describe(self, number: int, description: Description) -> int:
        """Replace the description, whole or not at all. Returns its bytes; raises OSError."""
        return write_json(self.description(number), description.to_json())

    def describe_new(self, number: int, key: str) -> int:
        """Describe a new file. Returns the description's bytes; raises OSError."""
        return create_json(self.description(number), {"key": key, "is_whole": False})

    def size(self, number: int) -> int:
        """What both take of the disk."""
        return size_on_disk(self.data(number), self.description(number))

    def has_bytes(self, number: int) -> bool:
        try:
            return os.lstat(self.data(number)).st_size > 0
        except OSError:
            return True  # unknown

    def undescribe(self, number: int) -> None:
        """Leave nothing for another worker: it removes what is not described. Raises OSError."""
        with suppress(FileNotFoundError):
            os.unlink(self.description(number))  # noqa: PTH108 - as `remove`

    def remove(self, number: int) -> None:
        """Remove both, as far as they are there. Raises OSError."""
        self.undescribe(number)
        with suppress(FileNotFoundError):
            os.unlink(self.data(number))  # noqa: PTH108 - at each close of a file; half the time
