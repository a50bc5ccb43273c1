"""Target paths: kubelet's directories on which volumes appear, and the only paths node acts on.

A target comes from a request and is not trusted. It is compared by components (a string prefix
would let /var/lib/kubelet-evil pass) and reached from kubelet's directory by openat2, which
follows no symlink and no `..`; the opened descriptor is what is mounted on. Nothing is removed but
the target directory itself, empty. Everything here blocks: call it in a thread.

Mounts can be stacked on one path: `node.binds` says why they are.
"""

import os
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EBUSY, EEXIST, ELOOP, ENOENT, ENOTDIR, ENOTEMPTY, EXDEV
from pathlib import Path, PurePosixPath

from csi_s3.errors import BadOptionError, BadRequestError, MountError, NotEmptyError
from csi_s3.kernel import mount, syscalls
from csi_s3.kernel.mountinfo import MountEntry, mount_at, mounts_at
from csi_s3.kernel.syscalls import open_fd

_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_MAX_STACKED = 16
_SUBPATHS = "volume-subpaths"
_MODE = 0o750  # kubelet's own; the mount's root covers it


@dataclass(frozen=True, slots=True)
class Target:
    """One directory below kubelet's; `path` is as in mountinfo."""

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
        """The pod's uid and the volume's name, from which kubelet makes the path."""
        match self.relative.split("/"):
            case ["pods", uid, "volumes", _, volume, _]:
                return uid, volume
        return None

    @property
    def is_subpath(self) -> bool:
        """Whether this is kubelet's bind for the subPath of a container."""
        return self.relative.split("/")[2:3] == [_SUBPATHS]

    def subpaths(self, entries: list[MountEntry]) -> dict["Target", MountEntry]:
        """Kubelet's binds for containers that use a part of this target; each with its top mount.

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
        """Make the directory if it is missing; kubelet makes its parent. True if made.

        Raises:
            BadRequestError: its path is not made of plain directories, or its parent is missing.

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
        """Whether the directory has entries. Only while nothing is mounted on it."""
        with (
            self.opened(os.O_RDONLY | os.O_DIRECTORY) as directory,
            os.scandir(directory) as entries,
        ):
            return next(entries, None) is not None

    @contextmanager
    def opened(self, flags: int = _DIRECTORY) -> Iterator[int]:
        """A descriptor (O_PATH) of it, or of the root of the top mount on it; asks no daemon.

        Raises:
            BadRequestError: it is a symlink or no directory.

        """
        with self.parent() as parent:
            try:
                fd = syscalls.open_beneath(parent, self.name, flags)
            except OSError as exc:
                raise self._refusal(exc) from exc
        with open_fd(fd):
            yield fd

    def detach(self, *, down_to: int = 0, of_any_type: bool = False) -> None:
        """Unmount the FUSE mounts on it, live, dead or busy; no error if there are none.

        Any FUSE mount: the path belongs to this driver, and a mount that an earlier driver of the
        same name left there must not keep a pod from ending.

        down_to: how many of the lowest mounts stay. of_any_type: mounts that this process has just
        attached, which may turn out to be others.

        Raises:
            MountError: another file system is mounted there, or the kernel refused.

        """
        for _ in range(_MAX_STACKED):
            layers = self.layers()
            if len(layers) <= down_to:
                return
            entry = layers[-1]
            if not (entry.is_fuse or of_any_type):
                raise MountError(
                    f"{self.path} holds a mount of another program: "
                    f"{entry.source} of type {entry.fs_type}",
                    f"find out what mounted it, then: umount {self.path}",
                )
            with self.parent() as parent:
                mount.umount(f"/proc/self/fd/{parent}/{self.name}")
        raise MountError(f"{self.path} is mounted again each time it is unmounted")

    def remove(self) -> None:
        """Remove the empty directory; no error where there is none.

        Raises:
            NotEmptyError: there are files in it. Nothing was deleted.
            BadRequestError: its path is not made of plain directories.

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
                raise MountError(f"{self.path} was mounted on while it was being removed") from exc
            raise self._refusal(exc) from exc

    @contextmanager
    def parent(self) -> Iterator[int]:
        """A descriptor (O_PATH) of the directory above it."""
        above = self.relative.rpartition("/")[0] or "."
        with open_fd(os.open(self.root, _DIRECTORY | os.O_CLOEXEC)) as root:
            try:
                parent = syscalls.open_beneath(root, above, _DIRECTORY)
            except OSError as exc:
                raise self._refusal(exc) from exc
        with open_fd(parent):
            yield parent

    def _refusal(self, exc: OSError) -> BadRequestError:
        if exc.errno in {ELOOP, EXDEV}:
            return BadRequestError(
                f"target {self.path} leads through a symbolic link",
                "kubelet makes plain directories: find out where the link comes from",
            )
        if exc.errno == ENOTDIR:
            return BadRequestError(
                f"target {self.path} is not a directory", "remove the file or link at that path"
            )
        if exc.errno == ENOENT:
            return BadRequestError(
                f"the directory above target {self.path} does not exist",
                "kubelet makes it before it publishes a volume",
            )
        return BadRequestError(f"target {self.path} cannot be used: {exc.strerror}")


class Targets:
    """state_dir: node's own, which may lie below kubelet's directory and is never a target."""

    def __init__(self, kubelet_dir: Path, state_dir: Path) -> None:
        try:
            self._root = str(kubelet_dir.resolve(strict=True))
        except OSError as exc:
            raise BadOptionError(
                f"--kubelet-dir {str(kubelet_dir)!r}: {exc.strerror}",
                "expected kubelet's root directory, e.g. /var/lib/kubelet",
            ) from exc
        self._prefixes = (PurePosixPath(kubelet_dir), PurePosixPath(self._root))
        self._own = PurePosixPath(state_dir.resolve())

    def find(self, path: str) -> Target:
        """The target at a request's path; touches no file.

        Raises:
            BadRequestError: it is not below kubelet's directory, or is this driver's own.

        """
        pure = PurePosixPath(path)
        if "\0" in path or ".." in pure.parts:
            raise self._outside(path)
        for prefix in self._prefixes:
            if pure.is_relative_to(prefix) and pure != prefix:
                target = Target(self._root, str(pure.relative_to(prefix)))
                self._refuse_own(PurePosixPath(target.path))
                return target
        raise self._outside(path)

    def _refuse_own(self, path: PurePosixPath) -> None:
        """Refuse the state directory, what is in it, and the directories in which it is."""
        if path.is_relative_to(self._own) or self._own.is_relative_to(path):
            raise BadRequestError(
                f"target {str(path)!r} belongs to this driver's --state-dir {self._own}",
                "expected a directory that kubelet has made for a pod",
            )

    def all_on(
        self, devices: AbstractSet[str], entries: list[MountEntry]
    ) -> dict[str, dict[Target, bool]]:
        """By device, the targets whose top mount is of it; the value: whether it is read-only.

        The source mounts are none. A bind of a part of the file system is a subPath, which kubelet
        makes and unmounts itself: no unpublish would come for it.
        """
        on_device: dict[str, dict[Target, bool]] = {device: {} for device in devices}
        for path, entry in {entry.mount_point: entry for entry in entries}.items():
            if entry.device not in devices or entry.root != "/" or path.startswith(f"{self._own}/"):
                continue
            if path.startswith(f"{self._root}/"):
                target = Target(self._root, path.removeprefix(f"{self._root}/"))
                if not target.is_subpath:
                    on_device[entry.device][target] = entry.read_only
        return on_device

    def _outside(self, path: str) -> BadRequestError:
        return BadRequestError(
            f"target {path!r} is not below {self._prefixes[0]}",
            "expected a path below kubelet's directory, without '..'; see --kubelet-dir",
        )
