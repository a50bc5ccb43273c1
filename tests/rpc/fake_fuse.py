"""A worker for tests: answers the kernel on a /dev/fuse descriptor, in a thread, from memory.

Speaks the protocol itself (include/uapi/linux/fuse.h), because libfuse serves one mount per
process, and these tests want many that can be silenced and killed one by one. The tests reach
into the mount from other processes only.
"""

import os
import struct
import threading
from errno import ENOENT, ENOSYS

_IN = struct.Struct("<IIQQIIII")
_OUT = struct.Struct("<IiQ")
_FILE, _DIR, _LINK = 0o100666, 0o040777, 0o120777
NO_REPLY = {2, 36, 42}  # forget, interrupt, batch_forget


class FakeFuse:
    """Serves `files` (name to bytes) as one flat directory until the connection is over.

    link: where its file `hello` leads to, as a symbolic link.
    """

    def __init__(self, fd: int, init: bytes, *, link: bytes = b"") -> None:
        self.files = {b"hello": bytearray(link or b"hello\n")}
        self._file = _LINK if link else _FILE
        self.over = threading.Event()
        self._fd = fd
        self._lock = threading.Lock()
        self._is_closed = self._is_ended = False
        self._silent = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(init,), daemon=True)
        self._thread.start()

    def silence(self) -> None:
        """Answer no further request: callers wait."""
        self._silent.set()

    def close(self) -> None:
        """Close the descriptor, as the end of the process would.

        Its number stays taken as long as the thread may use it: else it would be another file's.
        """
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            if self._is_ended:
                os.close(self._fd)
            else:
                null = os.open(os.devnull, os.O_RDWR)
                os.dup2(null, self._fd, inheritable=False)
                os.close(null)

    def _run(self, init: bytes) -> None:
        try:
            self._serve(self._fd, init)
        finally:
            with self._lock:
                self._is_ended = True
                if self._is_closed:
                    os.close(self._fd)

    def _serve(self, fd: int, init: bytes) -> None:
        request = init
        while True:
            self._answer(fd, request)
            try:
                request = os.read(fd, (1 << 20) + (1 << 16))
            except OSError:  # ENODEV: unmounted everywhere; ECONNABORTED
                request = b""
            if not request:  # closed by us
                self.over.set()
                return
            if self._silent.is_set():
                return

    def _answer(self, fd: int, request: bytes) -> None:
        _, opcode, unique, node, *_ = _IN.unpack_from(request)
        if opcode in NO_REPLY:
            return
        try:
            reply, error = self._reply(opcode, node, request[_IN.size :]), 0
        except OSError as exc:
            reply, error = b"", -exc.errno
        try:
            os.write(fd, _OUT.pack(_OUT.size + len(reply), error, unique) + reply)
        except OSError:
            self.over.set()

    def _reply(self, opcode: int, node: int, body: bytes) -> bytes:  # noqa: C901, PLR0911 - a table
        match opcode:
            case 26:  # init
                return struct.pack(
                    "<IIIIHHIIHHI28x", 7, 31, 1 << 20, 0, 64, 48, 1 << 20, 1, 256, 0, 0
                )
            case 1:  # lookup
                return self._entry(body.rstrip(b"\0"))
            case 3 | 4:  # getattr, setattr
                return struct.pack("<QII", 0, 0, 0) + self._attr(node)
            case 14 | 27:  # open, opendir
                return struct.pack("<QIi", node, 0, 0)
            case 5:  # readlink
                return bytes(self._content(node))
            case 15:  # read
                offset, size = struct.unpack_from("<QI", body, 8)
                return bytes(self._content(node)[offset : offset + size])
            case 16:  # write
                offset, size = struct.unpack_from("<QI", body, 8)
                self._content(node)[offset : offset + size] = body[40 : 40 + size]
                return struct.pack("<II", size, 0)
            case 28:  # readdir
                return self._entries(*struct.unpack_from("<QI", body, 8))
            case 35:  # create
                name = body[16:].rstrip(b"\0")
                self.files.setdefault(name, bytearray())
                entry = self._entry(name)
                return entry + struct.pack("<QIi", struct.unpack_from("<Q", entry)[0], 0, 0)
            case 17:  # statfs
                return struct.pack(
                    "<QQQQQIIII24x", 1 << 51, 1 << 51, 1 << 51, 0, 0, 4096, 255, 4096, 0
                )
            case 18 | 25 | 29:  # release, flush, releasedir
                return b""
        raise OSError(ENOSYS, "")

    def _names(self) -> list[bytes]:
        return list(self.files)

    def _content(self, node: int) -> bytearray:
        return self.files[self._names()[node - 2]]

    def _attr(self, node: int) -> bytes:
        size = 0 if node == 1 else len(self._content(node))
        mode = _DIR if node == 1 else self._file
        return struct.pack("<6Q10I", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def _entry(self, name: bytes) -> bytes:
        if name not in self.files:
            raise OSError(ENOENT, "")
        node = self._names().index(name) + 2
        return struct.pack("<QQQQII", node, 0, 0, 0, 0, 0) + self._attr(node)

    def _entries(self, offset: int, size: int) -> bytes:
        found = b""
        for number, name in enumerate(self._names()[offset:], offset + 1):
            entry = struct.pack("<QQII", number + 1, number, len(name), 8) + name
            entry += bytes(-len(entry) % 8)
            if len(found) + len(entry) > size:
                break
            found += entry
        return found
