"""What earlier workers of this mount could not upload: sent now, or named with its path.

A file that its program had closed is uploaded, under the condition that S3 still holds the version
that it changes. What others have changed since, and what was still being written, may be incomplete
or unwanted: it stays in the spool for a person (`spool_leftovers`).
"""

import asyncio
import logging

from csi_s3.errors import ExistsError, StaleError, VolumeError
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.few_lines import FewLines
from csi_s3.fs.write.dirty_file import DirtyFile
from csi_s3.fs.write.remote_object import Basis, RemoteObject
from csi_s3.fs.write.spool import Spool, SpoolFile
from csi_s3.fs.write.spool_description import Description

log = logging.getLogger(__name__)


async def upload_leftovers(context: MountContext, spool: Spool) -> None:
    """Deal with every leftover of the spool. Failures reach the log; the leftover stays."""
    failed = FewLines(log, logging.ERROR)
    for number in await spool.leftovers(context.clock.realtime_ns() / 1e9):
        await asyncio.sleep(0)  # some need no answer of the store
        try:
            file, description = spool.take_over(number)
        except FileNotFoundError:
            continue  # written again since
        except (OSError, ValueError, TypeError) as exc:
            log.warning("file-%d cannot be opened and is left alone: %s", number, exc)
            continue
        if description.is_whole:
            await _upload(context, spool, file, description, failed)
        else:  # changed since
            file.close(keep=True)
    failed.end("%d more files that an earlier worker could not upload failed again")


async def _upload(
    context: MountContext,
    spool: Spool,
    file: SpoolFile,
    description: Description,
    failed: FewLines,
) -> None:
    base = description.base
    basis = Basis(base=base, is_exclusive=base is None, is_adopted=True)
    writer = DirtyFile(context, RemoteObject(context, lambda: description.key, basis), spool)
    writer.adopt(file, description)
    error: VolumeError | None = None
    try:
        async with context.key_lock.change(lambda: description.key):
            await writer.save()
    except VolumeError as exc:
        error = exc
        failed.log(
            "%s: what an earlier worker could not upload failed again: %s; its bytes are in %s",
            description.key,
            exc,
            file.path,
            code=exc.code,
        )
    else:
        log.info("%s: uploaded what an earlier worker could not", description.key)
    finally:
        writer.close()
    if isinstance(error, (StaleError, ExistsError)):
        spool.give_up(file)
