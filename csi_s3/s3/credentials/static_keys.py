"""Keys in files, as kubelet mounts a Secret, and keys in the environment.

kubelet swaps all files of a mounted Secret at once (a symbolic link, `..data`); other directories
may be changed file by file. Either way a set of files that changed while it was read is read again.
inotify was rejected: it watches inodes, not the link, and three stats every few seconds cost
nothing.
"""

import logging
from pathlib import Path

from typing_extensions import override

from csi_s3.errors import CredentialsError
from csi_s3.s3.credentials.refresh import (
    AccessKeys,
    CredentialClock,
    Credentials,
    CredentialSource,
    Secret,
)

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
FILES = ("key_id", "access_key", "session_token")
_SETTLE = 5  # readings until a set of files holds still
_LONGEST = 16 << 10

Stamp = tuple[tuple[int, int, int] | None, ...]


class KeyFiles(CredentialSource):
    """A directory with files key_id, access_key and, for keys that end, session_token.

    A directory without key_id, or none at all, gives no keys: a Secret may be optional and may come
    later. One that is removed leaves its keys in use until S3 refuses them.
    secret: the name of the Secret that is mounted there, for messages: users do not know the
    directories of the driver's pods.
    """

    def __init__(
        self, directory: Path, clock: CredentialClock, *, secret: str | None = None
    ) -> None:
        self._directory, self._clock = directory, clock
        self._name, self._origin = str(directory), f"files in {directory}"
        if secret is not None:
            self._name = self._origin = f"Secret {secret} in the driver's namespace"
        self._stamp: Stamp | None = None
        self._keys: AccessKeys | None = None
        self._look_at = 0.0

    @override
    async def find(self) -> Credentials | str:
        self._keys = keys = self._read()
        return self._credentials(keys) if keys else f"{self._name} has no key_id"

    def newer(self, *, at_once: bool) -> Credentials | None:
        """As `CredentialFinder.newer`: the files' keys, if they differ from the last ones.

        Files that cannot be used are logged once, and the present keys stay in use.
        """
        now = self._clock.monotonic_s()
        if not at_once and now < self._look_at:
            return None
        self._look_at = now + LOOK_EVERY_S
        before, present = self._stamp, self._keys
        if not at_once and self._stamp_now() == before:
            return None
        try:
            keys = self._read()
        except CredentialsError as exc:
            if self._stamp != before:
                log.warning("the new keys cannot be used: %s", exc)
            return None
        if keys is None or keys == present:
            return None
        self._keys = keys
        return self._credentials(keys)

    def _credentials(self, keys: AccessKeys) -> Credentials:
        return Credentials(keys=keys, origin=self._origin, source=self)

    def _stamp_now(self) -> Stamp:
        return tuple(_stamp(self._directory / name) for name in FILES)

    def _read(self) -> AccessKeys | None:
        for _ in range(_SETTLE):
            self._stamp = self._stamp_now()
            keys = self._read_once()
            if self._stamp_now() == self._stamp:
                break
        return keys

    def _read_once(self) -> AccessKeys | None:
        key_id, access_key, session_token = (self._value(name) for name in FILES)
        if not key_id:
            return None
        if not access_key:
            raise CredentialsError(
                f"{self._name} has key_id, but access_key is missing or empty",
                "the Secret needs both keys: key_id and access_key",
            )
        return AccessKeys(
            key_id, Secret(access_key), Secret(session_token) if session_token else None
        )

    def _value(self, name: str) -> str:
        path = self._directory / name
        try:
            with path.open("rb") as file:
                data = file.read(_LONGEST)
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as exc:
            raise CredentialsError(
                f"{self._file(name)} cannot be read: {exc.strerror}",
                "the mounter's user must be able to read the Secret (its volume's defaultMode)",
            ) from exc
        return printable(data.decode("utf-8", "replace"), self._file(name))

    def _file(self, name: str) -> str:
        in_secret = self._name == self._origin
        return f"{self._name}: {name}" if in_secret else str(self._directory / name)


class EnvironmentKeys(CredentialSource):
    """The values of AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN."""

    def __init__(self, key_id: str | None, secret_key: str | None, token: str | None) -> None:
        self._values = {
            "AWS_ACCESS_KEY_ID": key_id,
            "AWS_SECRET_ACCESS_KEY": Secret(secret_key or ""),
            "AWS_SESSION_TOKEN": Secret(token or ""),
        }

    @override
    async def find(self) -> Credentials | str:
        key_id, secret, token = (
            printable(value or "", name) for name, value in self._values.items()
        )
        if not key_id:
            return "AWS_ACCESS_KEY_ID is not set"
        if not secret:
            raise CredentialsError(
                "AWS_ACCESS_KEY_ID is set, AWS_SECRET_ACCESS_KEY is not", "set both, or neither"
            )
        keys = AccessKeys(key_id, Secret(secret), Secret(token) if token else None)
        return Credentials(keys=keys, origin="env", source=self)


def printable(value: str, where: str) -> str:
    """The value without leading and trailing white space, which files and Secrets often have.

    Raises:
        CredentialsError: it holds what no key or token has. The message has where, not the value.

    """
    value = value.strip()
    if any(not "!" <= c <= "~" for c in value):
        raise CredentialsError(
            f"{where} holds characters that no key has (blanks, control characters or not ASCII)",
            "write the bare value; base64 (once) belongs only into a Secret's `data`",
        )
    return value


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
