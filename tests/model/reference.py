"""The plainest possible model of what a mount shows: objects, and the mount's own changes."""

from dataclasses import dataclass, field

from csi_s3.fs.base.keys import is_visible
from csi_s3.fs.files.open_files import FALLOC_FL_KEEP_SIZE as KEEP_SIZE
from csi_s3.fs.files.open_files import FALLOC_FL_PUNCH_HOLE as PUNCH_HOLE
from csi_s3.fs.files.open_files import FALLOC_FL_ZERO_RANGE as ZERO_RANGE

DIR = None


@dataclass(eq=False)
class File:
    """A file that is being changed through the mount.

    path: None once it was removed, or replaced by a rename.
    base: the ETag of the version that is changed; None: whatever is there is replaced.
    is_known: the mount takes it for an object of its own, so unlink and rename touch the key.
    is_unsure: a request failed; what the bucket holds decides what it is.
    sources: what was copied into it since it was stored: paths, with the ETags they had.
    """

    path: str | None
    data: bytes
    base: str | None = None
    is_known: bool = False
    is_dirty: bool = False
    was_written: bool = False
    is_unsure: bool = False
    handles: list[int] = field(default_factory=list)
    sources: dict[str, str | None] = field(default_factory=dict)

    def write(self, offset: int, data: bytes) -> None:
        if data:
            self.data = self.data.ljust(offset, b"\0")
            self.data = self.data[:offset] + data + self.data[offset + len(data) :]
            self.is_dirty = self.was_written = True

    def fallocate(self, mode: int, offset: int, length: int) -> None:
        before, end = self.data, offset + length
        if not mode & KEEP_SIZE:
            self.data = self.data.ljust(end, b"\0")
        if mode & (PUNCH_HOLE | ZERO_RANGE):
            kept = self.data[:offset], self.data[end:]
            self.data = bytes(len(self.data) - len(kept[0]) - len(kept[1])).join(kept)
        is_within = bool(mode & (PUNCH_HOLE | ZERO_RANGE)) and offset < len(before)
        if is_within or self.data != before:
            self.is_dirty = self.was_written = True

    def truncate(self, size: int) -> None:
        if size != len(self.data):
            self.data = self.data[:size].ljust(size, b"\0")
            self.is_dirty, self.was_written = True, size > 0


@dataclass
class Reference:
    """objects: what is in the bucket. kept: directories that stay though S3 may have no key.

    writing: files open for writing, by path.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    writing: dict[str, File] = field(default_factory=dict)

    def tree(self) -> dict[str, bytes | None]:
        """Every visible path and its bytes, or DIR for a directory."""
        shown: dict[str, bytes | None] = {}
        for key, data in self.objects.items():
            *above, last = key.split("/")
            path = self._add_dirs(shown, above)
            if path is not None and last and is_visible(last):
                shown.setdefault(f"{path}{last}", data)
        for directory in self.kept:
            self._add_dirs(shown, directory.split("/"))
        for path, file in self.writing.items():
            self._add_dirs(shown, path.split("/")[:-1])
            for hidden in [p for p in shown if p.startswith(f"{path}/")]:
                del shown[hidden]
            shown[path] = file.data
        return shown

    def _add_dirs(self, shown, components) -> str | None:
        path = ""
        for component in components:
            if not is_visible(component):
                return None
            shown[f"{path}{component}"] = DIR
            path += f"{component}/"
        return path

    def is_dir(self, path: str) -> bool:
        return path == "" or (path in self.tree() and self.tree()[path] is DIR)

    def has_other_keys(self, directory: str) -> bool:
        """Whether there is a key below it besides its marker, shown or not."""
        prefix = f"{directory}/"
        below = [*self.objects, *self.writing, *(f"{k}/" for k in self.kept)]
        return any(k.startswith(prefix) and k != prefix for k in below)

    def removed(self, path: str) -> None:
        """A name was removed through the mount: the directory above stays."""
        self.kept.discard(path)
        above = path.rpartition("/")[0]
        if above:
            self.kept.add(above)

    def moved(self, old: str, new: str) -> None:
        """Local files and directories at and below a name have been renamed."""
        for path in [p for p in self.writing if _is_at(p, old)]:
            file = self.writing.pop(path)
            file.path = new + path[len(old) :]
            self.writing[file.path] = file
        self.kept.discard(new)
        for path in [p for p in self.kept if _is_at(p, old)]:
            self.kept.discard(path)
            self.kept.add(new + path[len(old) :])
        self.removed(old)


def _is_at(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}/")
