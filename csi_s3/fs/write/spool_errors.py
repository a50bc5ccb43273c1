"""What a failure of the spool's disk is to programs."""

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC

from csi_s3.errors import SpoolFullError


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raises SpoolFullError for every OSError."""
    try:
        yield
    except OSError as exc:
        is_full = exc.errno in (ENOSPC, EDQUOT)
        hint = "it is full: make room" if is_full else "see the node's kernel log for this disk"
        where = f" ({exc.filename})" if exc.filename else ""
        raise SpoolFullError(f"the spool's disk: {exc.strerror or exc}{where}", hint) from exc
