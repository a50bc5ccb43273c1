"""What a failure of the spool's disk is to programs."""

from collections.abc import Iterator
from contextlib import contextmanager

from csi_s3.errors import SpoolFullError


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raises SpoolFullError for every OSError."""
    try:
        yield
    except OSError as exc:
        hint = "check whether the disk that holds it is full"
        raise SpoolFullError(f"the spool's disk: {exc.strerror or exc}", hint) from exc
