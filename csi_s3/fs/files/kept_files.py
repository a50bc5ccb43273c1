"""Files that could not be uploaded: the spool keeps them for the mount's next worker, if it can."""

import logging
from dataclasses import replace
from pathlib import Path

from csi_s3.errors import SpoolFullError, VolumeError
from csi_s3.fs.base.few_lines import FewLines
from csi_s3.fs.names.inode import Inode
from csi_s3.fs.write.dirty_file import DirtyFile

log = logging.getLogger(__name__)


class KeptFiles:
    """Has them kept, and says so in the log: one line for each, but few at the mount's end.

    Concurrency: plain code.
    """

    def __init__(self) -> None:
        self._lines_at_end = FewLines(log, logging.ERROR)

    def for_later(
        self, inode: Inode, writer: DirtyFile, exc: VolumeError, *, at_end: bool = False
    ) -> VolumeError:
        """Keep what another attempt may store. Returns the error, or one that also says where.

        at_end: of the mount, where this may be one of many files.
        """
        lines = self._lines_at_end if at_end else None
        path = self._keep(inode, writer, exc.code, lines) if exc.keeps_bytes else None
        if path is None:
            return exc
        hints = [exc.hint, f"the volume's next mount on this node uploads it from {path}"]
        return replace(exc, hint="; ".join(filter(None, hints)))

    def _keep(
        self, inode: Inode, writer: DirtyFile, code: str, lines: FewLines | None = None
    ) -> Path | None:
        """Have the spool keep the bytes for the next worker. None: nothing is kept.

        lines: of the log, if this is one of many files.
        """
        was_kept = writer.is_kept
        try:
            path = writer.keep()
        except SpoolFullError as full:
            log.error("%s: lost: %s", inode.name, full, extra={"code": full.code})  # noqa: TRY400
            return None
        if path is not None and not was_kept:
            (lines or FewLines(log, logging.ERROR)).log(
                "%s could not be uploaded and is kept in %s for the next worker of this mount",
                inode.name,
                path,
                code=code,
            )
        return path

    def at_end(self, inode: Inode, writer: DirtyFile) -> None:
        if writer.state.is_dirty and inode.is_linked:
            self._keep(inode, writer, "not-uploaded", self._lines_at_end)

    def end(self) -> None:
        """All are kept."""
        self._lines_at_end.end(
            "%d more files could not be uploaded and are kept for the next worker of this mount"
        )
