"""Keys in files and in the environment, as Kubernetes gives a Secret to a pod.

kubelet swaps all files of a mounted Secret at once (a symbolic link, `..data`); somebody else's
directory may be changed file by file. Either way a set of files that changed while it was read is
read again. inotify was rejected: the link is watched by nobody's inode, and three stats every few
seconds cost nothing.
"""

import logging
from pathlib import Path

from typing_extensions import override

from csi_s3.config import environment
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

    A directory without key_id, or none at all, is as if it were not given: a Secret may be optional
    and may come later. One that goes away leaves its keys in use until S3 refuses them.
    """

    def __init__(self, directory: Path, clock: CredentialClock) -> None:
        self._directory, self._clock = directory, clock
        secret = environment.credentials_secret()  # its reader does not know our pod's directories
        self._called, self._origin = str(directory), f"files in {directory}"
        if secret is not None:
            self._called = self._origin = f"Secret {secret} in the driver's namespace"
        self._stamp: Stamp | None = None
        self._keys: AccessKeys | None = None
        self._look_at = 0.0

    @override
    async def find(self) -> Credentials | str:
        self._keys = self._read()
        return self._found() if self._keys else f"{self._called} has no key_id"

    def newer(self, *, at_once: bool) -> Credentials | None:
        """What the files hold now, if it differs from what they held; `CredentialFinder.newer`.

        Files that cannot be used are told of once, and the present keys stay in use.
        """
        now = self._clock.monotonic_s()
        if not at_once and now < self._look_at:
            return None
        self._look_at = now + LOOK_EVERY_S
        before, known = self._stamp, self._keys
        if not at_once and self._stamp_now() == before:
            return None
        try:
            keys = self._read()
        except CredentialsError as exc:
            if self._stamp != before:
                log.warning("the new keys cannot be used: %s", exc)
            return None
        if keys is None or keys == known:
            return None
        self._keys = keys
        return self._found()

    def _found(self) -> Credentials:
        if self._keys is None:
            raise RuntimeError("no keys were read")
        return Credentials(keys=self._keys, origin=self._origin, source=self)

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
                f"{self._called} has key_id, but access_key is missing or empty",
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
        in_secret = self._called == self._origin
        return f"{self._called}: {name}" if in_secret else str(self._directory / name)


class EnvironmentKeys(CredentialSource):
    """AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN."""

    @override
    async def find(self) -> Credentials | str:
        key_id, secret, token = (
            printable(environment.aws(name) or "", f"AWS_{name}")
            for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")
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
    """The value without the blanks and line ends that files and Secrets get around it.

    Raises:
        CredentialsError: it holds what no key or token has; where names it, the value is not told.

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
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
