"""The Python API: a bucket as a directory for the time of a `with` block.

    with csi_s3.Mount("s3://bucket/prefix/", "/data/here", read_only=True) as path:
        ...

It is synchronous, so that it works in notebooks, in threads, and in programs with or without an
event loop.
"""

import atexit
import os
import threading
import warnings
from pathlib import Path
from types import TracebackType

from typing_extensions import override

from csi_s3.config.mount_command import parse_command
from csi_s3.errors import BadOptionError, MountError, VolumeError
from csi_s3.local.command import worker_log
from csi_s3.local.mount_session import MountSession

OptionValue = str | int | float | bool | os.PathLike[str] | None


class Mount:
    """A bucket, or the part of it below a prefix, mounted on an existing directory.

    Options are those of `csi-s3 mount`, with underscores: `allow_delete=True`,
    `endpoint_url="https://…"`, `metadata_ttl=60`. False and None leave an option out.
    `anonymous` is short for `no_sign_request`: public buckets need no credentials. Credentials
    come from the environment, the shared files, or the machine's role, as for any AWS SDK.

    A UserWarning names each option that has no effect.

    Lifetime: from `mount` (or entering) to `unmount` (or leaving, or the end of the interpreter).
    A separate process serves it; the caller is never forked. It can be mounted again afterwards.
    Concurrency: any thread may call any method. After a fork the child's copy does nothing.

    Raises:
        BadOptionError: an option is unknown, or its value does not have the expected form.

    """

    def __init__(
        self,
        source: str,
        directory: str | os.PathLike[str],
        *,
        read_only: bool = False,
        anonymous: bool = False,
        endpoint_url: str | None = None,
        **options: OptionValue,
    ) -> None:
        values: dict[str, OptionValue] = {
            **options,
            "read_only": read_only,
            "no_sign_request": anonymous or options.get("no_sign_request"),
            "endpoint_url": endpoint_url,
        }
        if values.get("foreground"):
            raise BadOptionError(
                "option foreground has no meaning here", "the mount lasts until unmount()"
            )
        self.source, self.directory = source, Path(os.path.abspath(directory))  # noqa: PTH100 - resolve() would touch it
        argv = [flag for name, value in values.items() for flag in _flags(name, value)]
        self._command = parse_command(
            [*argv, "--", source, str(self.directory)], uid=os.geteuid(), gid=os.getegid()
        )
        for text in self._command.warnings:
            warnings.warn(text, stacklevel=2)
        self._lock = threading.Lock()
        self._session: MountSession | None = None
        self._pid = os.getpid()  # of the process that mounted

    @property
    def is_mounted(self) -> bool:
        """Whether this object has mounted; its process is not checked."""
        return self._session is not None

    def mount(self) -> Path:
        """Mount, and return the directory once the bucket has answered.

        Raises:
            VolumeError: a class of `csi_s3.errors`; it says what failed and what to do. Nothing is
                left mounted.

        """
        with self._lock:
            if self._session is not None:
                raise MountError(f"{self.directory} is already mounted by this object")
            with worker_log(self._command) as log:
                self._session = MountSession.start(self._command, log=log)
            self._pid = os.getpid()
            atexit.register(self.unmount)
        return self.directory

    def unmount(self) -> None:
        """Upload open files and unmount. Does nothing when not mounted.

        Raises:
            VolumeError: a file could not be uploaded, or the serving process had died. It is
                unmounted in any case.

        """
        with self._lock:
            session, self._session = self._session, None
            if session is None or os.getpid() != self._pid:
                return
            atexit.unregister(self.unmount)
            session.stop()

    def __enter__(self) -> Path:
        return self.mount()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.unmount()
        except VolumeError as exc:
            if error is None:
                raise
            error.add_note(f"and unmounting {self.directory} failed: {exc}")

    @override
    def __repr__(self) -> str:
        state = "mounted" if self.is_mounted else "not mounted"
        return f"<Mount {self.source} at {self.directory}, {state}>"


def _flags(name: str, value: OptionValue) -> list[str]:
    """One keyword argument as on the command line."""
    option = "--" + name.replace("_", "-")
    if value is None or value is False:
        return []
    if value is True:
        return [option]
    return [f"{option}={os.fspath(value) if isinstance(value, os.PathLike) else value}"]
