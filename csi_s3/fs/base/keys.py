"""Names and keys: what a directory can show of S3's key space, and which key a name stands for."""

from csi_s3.errors import InvalidNameError, KeyTooLongError
from csi_s3.s3.store import MAX_KEY_BYTES

MAX_NAME_BYTES = 255
LINK_SUFFIX = ".rclonelink"  # rclone's convention: visible in a listing without HEAD


def is_visible(component: str) -> bool:
    """Whether a file system can show this key component.

    Empty, ".", ".." and NUL mean something else to the kernel; longer names do not fit a dirent;
    what is not UTF-8 (lone surrogates here) is no key of S3, see `decode_name`.
    """
    try:
        name = component.encode()
    except UnicodeEncodeError:
        return False
    return name not in {b"", b".", b".."} and b"\0" not in name and len(name) <= MAX_NAME_BYTES


def link_name(component: str) -> str | None:
    """The symbolic link's name that the last component of an object's key stands for, if it does.

    A name must be left without the suffix: `.rclonelink` itself is a file.
    """
    name = component.removesuffix(LINK_SUFFIX)
    return name if name != component and name not in ("", ".", "..") else None


def decode_name(name: bytes) -> str:
    """The name as S3 spells it; no normalisation.

    Raises:
        InvalidNameError: not UTF-8, which S3 requires of keys.
        KeyTooLongError: longer than a directory can show.

    """
    if len(name) > MAX_NAME_BYTES:
        raise KeyTooLongError(f"a name of {len(name)} bytes", "255 at most: shorten it")
    try:
        return name.decode()
    except UnicodeDecodeError as exc:
        raise InvalidNameError(
            f"name {name!r} is not UTF-8", "S3 keys are UTF-8: use another name"
        ) from exc


def child_key(directory: str, name: str, *, is_dir: bool) -> str:
    """The key of a name in a directory (whose key is "" or ends with "/").

    Raises:
        KeyTooLongError: as `check_key`.

    """
    key = f"{directory}{name}/" if is_dir else f"{directory}{name}"
    check_key(key)
    return key


def check_key(key: str) -> None:
    """Whether an object can have the key.

    Raises:
        KeyTooLongError: S3's limit of 1024 bytes of UTF-8.

    """
    if (size := len(key.encode())) > MAX_KEY_BYTES:
        raise KeyTooLongError(
            f"{key}: a key of {size} bytes", f"S3 takes at most {MAX_KEY_BYTES}: shorten names"
        )
