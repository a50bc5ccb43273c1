"""The plainest possible model of what a mount shows: objects, and what the mount itself did."""

from dataclasses import dataclass, field

from csi_s3.fs.keys import is_visible

DIR = None


@dataclass
class Reference:
    """objects: what is in the bucket. kept: directories that stay though S3 may have no key.

    writing: files open for writing through the mount, with the bytes accepted so far.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    writing: dict[str, bytes] = field(default_factory=dict)

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
        for path, data in self.writing.items():
            self._add_dirs(shown, path.split("/")[:-1])
            for hidden in [p for p in shown if p.startswith(f"{path}/")]:
                del shown[hidden]
            shown[path] = data
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
        """Whether anything but its marker is below it, shown or not."""
        prefix = f"{directory}/"
        below = [*self.objects, *self.writing, *(f"{k}/" for k in self.kept)]
        return any(k.startswith(prefix) and k != prefix for k in below)

    def removed(self, path: str) -> None:
        """A name was removed through the mount: the directory above stays."""
        self.kept.discard(path)
        above = path.rpartition("/")[0]
        if above:
            self.kept.add(above)
