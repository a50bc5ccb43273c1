"""Record the messages of a mount: `python -m tests.unit.fuse_corpus.record`, as root.

A file of the corpus is a sequence of messages, each with a byte for its direction before it (`>`:
from the kernel, `<`: to it); their lengths are in their headers. One of each kind and direction is
kept, the first; data of reads and writes are short. The name has the kernel's version.

The replies of Linux 6.18 with names and attributes are libfuse's, to which ours are compared: they
were recorded when pyfuse3 answered them. Another recording has our own.
"""

import asyncio
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from csi_s3.config.volume import TreeConfig
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.filesystem import FileSystem
from csi_s3.fuse.bridge import Bridge
from csi_s3.fuse.protocol import parse_header, parse_reply_header
from csi_s3.fuse.session import Session
from csi_s3.kernel import mount
from csi_s3.s3.memory_store import MemoryStore

HERE = Path(__file__).parent
PROGRAM = """
import ctypes, errno, os
os.mkdir("d"); os.makedirs("d/e")
open("d/f", "wb").write(b"0123456789")
os.stat("d/f"); os.listdir("d"); os.symlink("f", "d/l"); os.readlink("d/l")
os.rename("d/f", "d/g"); os.truncate("d/g", 5); os.utime("d/g", (1, 2)); os.statvfs("d")
with open("d/g", "r+b", buffering=0) as file:
    file.read(3); os.fsync(file.fileno()); os.lseek(file.fileno(), 0, os.SEEK_DATA)
    for call in (
        lambda: os.posix_fallocate(file.fileno(), 0, 10),
        lambda: os.setxattr("d/g", "user.a", b"v"),
        lambda: os.link("d/g", "d/h"),
        lambda: os.mknod("d/i"),
        lambda: os.stat("d/nothing"),
        lambda: os.open("d", os.O_TMPFILE | os.O_RDWR),
    ):
        try:
            call()
        except OSError:
            pass
    with open("d/k", "wb") as target:
        try:
            os.copy_file_range(file.fileno(), target.fileno(), 3)
        except OSError:
            pass
for name in ("g", "l", "i", "k"):
    os.unlink("d/" + name)
os.rmdir("d/e"); os.rmdir("d")
for n in range(40):
    os.mkdir(str(n))
open("/proc/sys/vm/drop_caches", "w").write("2")
for n in range(40):
    os.rmdir(str(n))
"""


def record(path: Path) -> list[bytes]:
    """Direction and message, of each kind the first."""
    found: dict[tuple[str, int, bool], bytes] = {}
    opcodes: dict[int, int] = {}
    readv, writev, write = os.readv, os.writev, os.write

    def took(message: bytes) -> None:
        _, opcode, unique, *_ = parse_header(message)
        opcodes[unique] = opcode
        found.setdefault((">", opcode, False), b">" + message)

    def gave(message: bytes) -> None:
        _, error, unique = parse_reply_header(message)
        kind = opcodes.get(unique, -error)
        found.setdefault(("<", kind, bool(error) and bool(unique)), b"<" + message)

    def reading(fd: int, buffers: list[memoryview]) -> int:
        n = readv(fd, buffers)
        took(bytes(buffers[0][:n]))
        return n

    def writing(fd: int, buffers: list[bytes]) -> int:
        gave(b"".join(map(bytes, buffers)))
        return writev(fd, buffers)

    def writing_one(fd: int, data: bytes) -> int:
        if fd == fuse_fd:
            gave(bytes(data))
        return write(fd, data)

    fuse_fd = mount.open_fuse()
    mount.mount_fuse(fuse_fd, path, source_name="record")
    init = mount.read_init(fuse_fd, 10)
    took(init)
    os.readv, os.writev, os.write = reading, writing, writing_one
    asyncio.run(_serve(fuse_fd, init, path))
    return list(found.values())


async def _serve(fuse_fd: int, init: bytes, path: Path) -> None:
    session = Session(fuse_fd, init)
    async with asyncio.TaskGroup() as group:
        config = TreeConfig(allow_delete=True, allow_overwrite=True)
        context = MountContext.create(MemoryStore(), config, group)
        fs = FileSystem(context, prefix="", kernel=session)
        serving = group.create_task(session.serve(Bridge(fs)))
        await session.is_answered.wait()
        words = [sys.executable, "-c", f"import os; os.chdir({str(path)!r})\n{PROGRAM}"]
        await asyncio.to_thread(subprocess.run, words, check=True, timeout=60)
        await asyncio.to_thread(mount.umount, path)
        await serving
        await fs.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        messages = record(Path(directory))
    version = ".".join(platform.release().split(".")[:2])
    (HERE / f"linux-{version}.bin").write_bytes(b"".join(messages))
