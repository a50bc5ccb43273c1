"""Records in the mount's state directory: JSON files that are replaced whole or not at all.

They must survive the worker, and the page cache does, so nothing is flushed to the disk: fsync
would block the event loop, and with it the mount, while the disk is busy. After a power failure of
the node a record may be missing or old, and so may the bytes that it describes.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

NEW_SUFFIX = ".new"  # of a record that is being written; one that is left behind is garbage


def read_json(path: Path) -> dict[str, Any]:
    """The record.

    Raises:
        OSError, ValueError: it cannot be read, or is not a JSON object.

    """
    record = json.loads(path.read_text())
    if not isinstance(record, dict):
        raise ValueError(f"{path.name}: a {type(record).__name__} is not a record")  # noqa: TRY004
    return record


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Replace the record; its directory is made at first need.

    Raises:
        OSError: the disk refuses; the record is what it was.

    """
    new = path.with_suffix(NEW_SUFFIX)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new.write_text(json.dumps(record))
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise
