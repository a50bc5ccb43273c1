"""A directory through another mount of its file system.

rename(2) compares mounts, not file systems: between two binds of one disk, as a container has them,
it is EXDEV. A handle of the directory, opened on the other mount, is the same directory there.
"""

import ctypes
import os
from errno import EXDEV

_AT_EMPTY_PATH = 0x1000
_MAX_HANDLE_BYTES = 128  # MAX_HANDLE_SZ

_libc = ctypes.CDLL(None, use_errno=True)


class _FileHandle(ctypes.Structure):
    _fields_ = (
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("f_handle", ctypes.c_ubyte * _MAX_HANDLE_BYTES),
    )


def open_on_mount(directory: int, mount: int) -> int:
    """Open a directory on the mount that another one was opened on.

    Needs CAP_DAC_READ_SEARCH: open_by_handle_at(2). mount: a descriptor without O_PATH.

    Raises:
        OSError: EXDEV: they are on different file systems; EOPNOTSUPP: it has no handles.

    """
    handle, mount_id = _FileHandle(handle_bytes=_MAX_HANDLE_BYTES), ctypes.c_int()
    found = os.fstat(directory)
    if found.st_dev != os.fstat(mount).st_dev:
        raise OSError(EXDEV, os.strerror(EXDEV))
    _checked(
        _libc.name_to_handle_at(
            directory, b"", ctypes.byref(handle), ctypes.byref(mount_id), _AT_EMPTY_PATH
        )
    )
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    opened = _checked(_libc.open_by_handle_at(mount, ctypes.byref(handle), flags))
    if not os.path.samestat(found, os.fstat(opened)):
        os.close(opened)
        raise OSError(EXDEV, os.strerror(EXDEV))
    return opened


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
