"""INIT: what the kernel offers, and what this file system takes. The only list of flags and limits.

libfuse gets an INIT of its own, which offers what pyfuse3 needs and nothing that would change the
messages it is passed.
"""

from csi_s3.fuse.init_messages import InitReply, InitRequest
from csi_s3.fuse.protocol import MAJOR, InitFlag

MAX_WRITE_BYTES = 1 << 20  # a request has at most 256 pages (FUSE_MAX_MAX_PAGES before 6.13)
MAX_PAGES = 256
MAX_READAHEAD_BYTES = 1 << 20  # node sets as much in /sys/class/bdi
MAX_BACKGROUND = 128  # reads ahead and direct I/O of all programs; 12 by default
CONGESTION_THRESHOLD = 96  # three quarters, as the kernel's own
TIME_GRAN_NS = 1
MINOR = 45  # the newest whose messages `protocol` has
LIBFUSE_MINOR = 31  # the oldest that is supported: what libfuse gets is the same in all

# All of them are in Linux 5.10. AUTO_INVAL_DATA: pages go when another size or time is answered.
# ATOMIC_O_TRUNC: open(2) with O_TRUNC is one request. ASYNC_READ: read-ahead has several requests
# under way. BIG_WRITES, MAX_PAGES: requests of 1 MiB. ASYNC_DIO is not taken: with it Linux waits
# for direct I/O and hears no signal, so that a killed program stays until it is answered.
# PARALLEL_DIROPS: look-ups in one directory go side by side; five of one second each took 1.01 s
# instead of 5.01 s. READDIRPLUS_AUTO is not taken: a listing brings the attributes anyway.
_WANTED = (
    InitFlag.ASYNC_READ
    | InitFlag.ATOMIC_O_TRUNC
    | InitFlag.BIG_WRITES
    | InitFlag.AUTO_INVAL_DATA
    | InitFlag.DO_READDIRPLUS
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.MAX_PAGES
    | InitFlag.INIT_EXT
)
_NEEDED = InitFlag.DO_READDIRPLUS | InitFlag.MAX_PAGES | InitFlag.BIG_WRITES


def answer(request: InitRequest) -> InitReply:
    """The reply to the kernel.

    Raises:
        ValueError: it does not speak this protocol, or cannot do what is needed.

    """
    if request.major != MAJOR:
        raise ValueError(f"protocol {request.major}.{request.minor}, expected {MAJOR}.x")
    missing = _NEEDED & ~request.flags
    if missing:
        raise ValueError(f"the kernel lacks {missing!r}")
    return InitReply(
        minor=min(request.minor, MINOR),
        max_readahead=MAX_READAHEAD_BYTES,
        flags=request.flags & _WANTED,
        max_background=MAX_BACKGROUND,
        congestion_threshold=CONGESTION_THRESHOLD,
        max_write=MAX_WRITE_BYTES,
        time_gran=TIME_GRAN_NS,
        max_pages=MAX_PAGES,
    )


def for_libfuse(request: InitRequest) -> InitRequest:
    """The INIT that libfuse gets, of a kernel that splices nothing and knows no extensions."""
    return InitRequest(
        unique=request.unique,
        major=MAJOR,
        minor=min(request.minor, LIBFUSE_MINOR),
        max_readahead=MAX_READAHEAD_BYTES,
        flags=request.flags & _WANTED & ~InitFlag.INIT_EXT & ~InitFlag.PARALLEL_DIROPS,
    )
