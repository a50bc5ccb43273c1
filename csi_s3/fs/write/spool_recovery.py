"""What earlier workers of this mount could not upload: sent now, or named with its path.

A file that its program had closed is uploaded, under the condition that S3 still holds the version
that it changes. One that was still being written may be incomplete: it stays in the spool.
"""

import logging

from csi_s3.errors import VolumeError
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.write.dirty_file import DirtyFile
from csi_s3.fs.write.remote_object import Basis, RemoteObject
from csi_s3.fs.write.spool import Description, Spool, SpoolFile

log = logging.getLogger(__name__)


async def upload_leftovers(context: MountContext, spool: Spool) -> None:
    """Deal with every leftover of the spool. Failures reach the log; the leftover stays."""
    for path, description in spool.leftovers():
        try:
            file = spool.take_over(path, description)
        except OSError as exc:
            log.warning("%s cannot be opened and is left alone: %s", path, exc)
            continue
        if description.is_whole:
            await _upload(context, spool, file, description)
        else:
            file.close(keep=True)
            log.warning(
                "%s was being changed when the process that served it ended, or was rewritten"
                " since; it was not uploaded, what was written to the node's disk is in %s: copy"
                " what you need, and remove it",
                description.key,
                path,
            )


async def _upload(
    context: MountContext, spool: Spool, file: SpoolFile, description: Description
) -> None:
    base = description.base
    basis = Basis(base=base, is_exclusive=base is None, is_adopted=True)
    writer = DirtyFile(context, RemoteObject(context, lambda: description.key, basis), spool)
    writer.adopt(file, description)
    try:
        async with context.key_lock.change(lambda: description.key):
            await writer.save()
    except VolumeError as exc:
        log.error(  # noqa: TRY400 - one line; what to do is in it
            "%s: what an earlier worker could not upload failed again: %s; its bytes are in %s",
            description.key,
            exc,
            file.path,
            extra={"code": exc.code},
        )
    else:
        log.info("%s: uploaded what an earlier worker could not", description.key)
    finally:
        writer.close()
