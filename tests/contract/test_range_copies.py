"""copy_file_range of the file system over real servers: what crosses the network, and what not."""

import asyncio
import os
from collections import Counter
from dataclasses import replace

import pytest

from csi_s3.config.volume import TreeConfig
from csi_s3.errors import NotCopiedError
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.filesystem import FileSystem
from csi_s3.fs.names.inode import ROOT

MIB = 1 << 20
DATA = b"".join(n.to_bytes(8, "little") for n in range(23 * MIB // 8)) + b"end"


class NoKernel:
    """It has nothing in its caches."""

    can_drop_directories = False

    async def invalidate_inode(self, ino):
        pass

    def invalidate_attributes(self, ino):
        pass

    def forget_name(self, parent, name):
        pass

    async def drop_names(self, names, *, is_read):
        return ()


async def test_a_copy_inside_a_bucket_moves_no_byte_of_a_file(served, tmp_path):
    """With parts of 10 MiB in place of 64: cp of a large file is what it is of this one."""
    served.store.limits = replace(served.store.limits, max_copy_part_bytes=10 * MIB)
    await served.store.put("source", DATA)
    async with asyncio.TaskGroup() as group:
        config = TreeConfig(memory_bytes=64 * MIB, allow_overwrite=True)
        context = MountContext.create(served.store, config, group)
        fs = FileSystem(context, prefix="", kernel=NoKernel(), state_dir=tmp_path / "state")
        files, found = fs.files, await fs.lookup(ROOT, b"source")
        source = await files.open(found.ino, os.O_RDONLY)
        served.records.clear()
        target, made = await files.create(ROOT, b"copy", os.O_RDWR | os.O_EXCL)
        at = 0
        while n := await files.copy_file_range(source, at, target, at, len(DATA)):
            at += n
        await files.flush(target)
        assert at == len(DATA)
        requests = Counter(record.kind for record in served.records)
        assert requests["PART-COPY"] == 3
        assert requests["PART"] == requests["GET"] == 0
        assert sum(record.bytes_up for record in served.records) < 10_000
        assert sum(record.bytes_down for record in served.records) < 10_000
        await files.write(target, 9 * MIB, b"changed")
        await files.flush(target)
        with pytest.raises(NotCopiedError):
            await files.copy_file_range(source, 0, target, len(DATA), 5 * MIB - 1)
        for fh in (source, target):
            await files.release(fh)
        fs.forget(found.ino, 1)
        fs.forget(made.ino, 1)
        await fs.close()
    chunk = await served.store.read_range("copy", 0, len(DATA) + 1)
    assert bytes(chunk.data) == DATA[: 9 * MIB] + b"changed" + DATA[9 * MIB + 7 :]
