"""Target paths: kubelet's directories on which volumes appear, and the only paths we ever act on.

A target comes from a request, so it is data. It is taken apart by components (a string prefix
would let /var/lib/kubelet-evil pass) and reached from kubelet's directory by openat2, which
follows no symlink and no `..`; what was opened is what is mounted on. Nothing is ever removed but
the target directory itself, empty. Everything here blocks: call it in a thread.

Mounts can be stacked on one path: `node.binds` says why they are.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EBUSY, EEXIST, ELOOP, ENOENT, ENOTDIR, ENOTEMPTY, EXDEV
from pathlib import Path, PurePosixPath

from csi_s3.errors import BadOptionError, BadRequestError, MountError, NotEmptyError
from csi_s3.kernel import mount, syscalls
from csi_s3.kernel.mountinfo import MountEntry, mount_at, mounts_at

_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_MAX_STACKED = 16
_SUBPATHS = "volume-subpaths"
_MODE = 0o750  # kubelet's own; the mount's root covers it


@dataclass(frozen=True, slots=True)
class Target:
    """One directory below kubelet's, `path` as mountinfo would show it."""

    root: str
    relative: str

    @property
    def path(self) -> str:
        return f"{self.root.rstrip('/')}/{self.relative}"

    @property
    def name(self) -> str:
        return self.relative.rpartition("/")[2]

    @property
    def pod_and_volume(self) -> tuple[str, str] | None:
        """The pod's uid and the volume's name, of which kubelet makes the path."""
        match self.relative.split("/"):
            case ["pods", uid, "volumes", _, volume, _]:
                return uid, volume
        return None

    @property
    def is_subpath(self) -> bool:
        """A bind of kubelet's own for a container's subPath."""
        return self.relative.split("/")[2:3] == [_SUBPATHS]

    def subpaths(self, entries: list[MountEntry]) -> dict["Target", MountEntry]:
        """Kubelet's binds for containers that use a part of this target; each's topmost mount.

        Their paths are pods/UID/volume-subpaths/VOLUME/CONTAINER/NUMBER.
        """
        if (names := self.pod_and_volume) is None:
            return {}
        above = f"pods/{names[0]}/{_SUBPATHS}/{names[1]}/"
        at = f"{self.root.rstrip('/')}/"
        return {
            Target(self.root, entry.mount_point.removeprefix(at)): entry
            for entry in entries
            if entry.mount_point.startswith(at + above)
        }

    def mounted(self) -> MountEntry | None:
        """The topmost mount on it, found without touching it."""
        return mount_at(self.path)

    def layers(self) -> list[MountEntry]:
        """All mounts on it, the topmost last, found without touching them."""
        return mounts_at(self.path)

    def create(self) -> bool:
        """Make the directory if it is missing; its parent is kubelet's to make. True if made.

        Raises:
            BadRequestError: the way to it is not plain directories, or its parent is missing.

        """
        with self.parent() as parent:
            try:
                os.mkdir(self.name, _MODE, dir_fd=parent)
            except FileExistsError:
                return False
            except OSError as exc:
                raise self._refusal(exc) from exc
        return True

    def has_files(self) -> bool:
        """Is there anything in the directory? Only to be asked while nothing is mounted on it."""
        with self.parent() as parent:
            try:
                directory = syscalls.open_beneath(parent, self.name, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as exc:
                raise self._refusal(exc) from exc
        try:
            with os.scandir(directory) as found:
                return next(found, None) is not None
        finally:
            os.close(directory)

    @contextmanager
    def opened(self, flags: int = _DIRECTORY) -> Iterator[int]:
        """A descriptor of it (O_PATH), or of the root of the topmost mount on it; asks no daemon.

        Raises:
            BadRequestError: it is no directory, or a symlink.

        """
        with self.parent() as parent:
            try:
                place = syscalls.open_beneath(parent, self.name, flags)
            except OSError as exc:
                raise self._refusal(exc) from exc
        try:
            yield place
        finally:
            os.close(place)

    def detach(self, *, down_to: int = 0) -> None:
        """Unmount what FUSE has mounted on it, live, dead or busy; no error where nothing is.

        Any FUSE mount: kubelet gives the path to us, and what an earlier driver of the same name
        left there must not keep a pod from ending.

        down_to: how many of several stay, the lowest.

        Raises:
            MountError: something else is mounted there, or the kernel refused.

        """
        for _ in range(_MAX_STACKED):
            layers = self.layers()
            if len(layers) <= down_to:
                return
            entry = layers[-1]
            if not entry.is_fuse:
                raise MountError(
                    f"{self.path} holds a mount that is not ours: "
                    f"{entry.source} of type {entry.fs_type}",
                    f"find out who mounted it, then: umount {self.path}",
                )
            with self.parent() as parent:
                mount.umount(f"/proc/self/fd/{parent}/{self.name}")
        raise MountError(f"{self.path} is mounted anew as often as it is unmounted")

    def remove(self) -> None:
        """Remove the empty directory; no error where there is none.

        Raises:
            NotEmptyError: somebody put files into it. Nothing was deleted.
            BadRequestError: the way to it is not plain directories.

        """
        try:
            with self.parent() as parent:
                os.rmdir(self.name, dir_fd=parent)
        except FileNotFoundError:
            return
        except BadRequestError as exc:
            if isinstance(exc.__cause__, FileNotFoundError):
                return  # its parent is gone
            raise
        except OSError as exc:
            if exc.errno in {ENOTEMPTY, EEXIST}:
                raise NotEmptyError(f"there are files in {self.path}") from exc
            if exc.errno == EBUSY:
                raise MountError(f"{self.path} was mounted on while it was removed") from exc
            raise self._refusal(exc) from exc

    @contextmanager
    def parent(self) -> Iterator[int]:
        """A descriptor (O_PATH) of the directory above it."""
        root = os.open(self.root, _DIRECTORY | os.O_CLOEXEC)
        try:
            above = self.relative.rpartition("/")[0] or "."
            try:
                parent = syscalls.open_beneath(root, above, _DIRECTORY)
            except OSError as exc:
                raise self._refusal(exc) from exc
        finally:
            os.close(root)
        try:
            yield parent
        finally:
            os.close(parent)

    def _refusal(self, exc: OSError) -> BadRequestError:
        if exc.errno in {ELOOP, EXDEV}:
            return BadRequestError(
                f"target {self.path} leads through a symbolic link",
                "kubelet makes plain directories: find out who put the link there",
            )
        if exc.errno == ENOTDIR:
            return BadRequestError(
                f"target {self.path} is not a directory", "remove the file or link that is there"
            )
        if exc.errno == ENOENT:
            return BadRequestError(
                f"the directory above target {self.path} does not exist", "kubelet makes it first"
            )
        return BadRequestError(f"target {self.path} cannot be used: {exc.strerror}")


class Targets:
    """Kubelet's directory, in which targets are found."""

    def __init__(self, kubelet_dir: Path) -> None:
        try:
            self._root = str(kubelet_dir.resolve(strict=True))
        except OSError as exc:
            raise BadOptionError(
                f"--kubelet-dir {str(kubelet_dir)!r}: {exc.strerror}",
                "expected kubelet's root directory, e.g. /var/lib/kubelet",
            ) from exc
        self._prefixes = (PurePosixPath(kubelet_dir), PurePosixPath(self._root))

    def find(self, path: str) -> Target:
        """Take a request's path; touches nothing.

        Raises:
            BadRequestError: it is not below kubelet's directory.

        """
        pure = PurePosixPath(path)
        if "\0" in path or ".." in pure.parts:
            raise self._outside(path)
        for prefix in self._prefixes:
            if pure.is_relative_to(prefix) and pure != prefix:
                return Target(self._root, str(pure.relative_to(prefix)))
        raise self._outside(path)

    def all_on(
        self, device: str, entries: list[MountEntry], *, besides: Path
    ) -> dict[Target, bool]:
        """The targets on which a file system is mounted on top; each with whether it is read-only.

        besides: below it is nobody's target; our own sources may lie below kubelet's directory.
        A bind of a part of it is a pod's subPath, which kubelet makes and unmounts itself: taken
        for a target it would be waited for ever.
        """
        found: dict[Target, bool] = {}
        for path, entry in {entry.mount_point: entry for entry in entries}.items():
            if entry.device != device or entry.root != "/" or path.startswith(f"{besides}/"):
                continue
            if path.startswith(f"{self._root}/"):
                target = Target(self._root, path.removeprefix(f"{self._root}/"))
                if not target.is_subpath:
                    found[target] = entry.read_only
        return found

    def _outside(self, path: str) -> BadRequestError:
        return BadRequestError(
            f"target {path!r} is not below {self._prefixes[0]}",
            "expected a path below kubelet's directory, without '..'; see --kubelet-dir",
        )
