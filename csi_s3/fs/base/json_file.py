"""Records in the mount's state directory: JSON files that are replaced whole or not at all.

They must survive the worker, and the page cache does, so nothing is flushed to the disk: fsync
would block the event loop, and with it the mount, while the disk is busy. After a power failure of
the node a record may be missing or old, and so may the bytes that it describes.

There may be very many records, so calls of os are used: those of pathlib take twice as long
(measured: 90 µs and 42 for a small record), and intern every name.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

NEW_SUFFIX = ".new"  # of a record that is being written; one that is left behind is garbage


def read_json(path: str | Path) -> dict[str, Any]:
    """The record.

    Raises:
        OSError, ValueError: it cannot be read, or is not a JSON object.

    """
    with open(path, "rb") as file:  # noqa: PTH123
        record = json.loads(file.read())
    if not isinstance(record, dict):
        raise ValueError(f"a {type(record).__name__} is not a record")  # noqa: TRY004
    return record


def write_json(path: str | Path, record: Mapping[str, Any]) -> int:
    """Replace the record; its directory is made at first need. Returns its bytes.

    Raises:
        OSError: the disk refuses; the record is what it was.

    """
    data = json.dumps(record).encode()
    new = os.path.splitext(path)[0] + NEW_SUFFIX  # noqa: PTH122
    try:
        try:
            _write(new, data)
        except FileNotFoundError:
            Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(new, data)
        os.replace(new, path)  # noqa: PTH105
    except OSError:
        with suppress(OSError):
            os.unlink(new)  # noqa: PTH108
        raise
    return len(data)


def create_json(path: str, record: Mapping[str, Any]) -> int:
    """Make a record in a directory that is there, without a moment's other name: half the time.

    A worker that is killed here leaves an empty or a torn file. Returns its bytes.

    Raises:
        OSError: the disk refuses; there is no record.

    """
    data = json.dumps(record).encode()
    try:
        _write(path, data)
    except OSError:
        with suppress(OSError):
            os.unlink(path)  # noqa: PTH108
        raise
    return len(data)


def _write(path: str | Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)
