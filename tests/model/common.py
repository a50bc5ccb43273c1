"""The base of the file system's state machine: its state, other clients, faults, the invariant.

Rules about names are in `names`, rules about files in `files`, the ends of workers in the test.
"""

import os
from itertools import product

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from csi_s3.errors import (
    IsDirectoryError,
    NotDirectoryError,
    NotFoundError,
    ObjectChangedError,
    StaleError,
    StoreUnavailableError,
)
from tests.model.kernel import Kernel
from tests.model.machine import REPLACED
from tests.model.reference import File, Reference

NAMES_BELOW = ["a", "a-", "b"]
TOP_NAMES = [*NAMES_BELOW, "é"]
TOP, BELOW = st.sampled_from(TOP_NAMES), st.sampled_from(NAMES_BELOW)
PATHS = st.one_of(
    TOP, TOP, st.builds("{}/{}".format, TOP, BELOW), st.builds("{}/{}/{}".format, TOP, BELOW, BELOW)
)
ALL_PATHS = [
    "/".join(names) for depth in range(3) for names in product(TOP_NAMES, *[NAMES_BELOW] * depth)
]
ODD = st.sampled_from(["a//b", "a/./b", "../a", "a/", "a/b/", "/a", "a\0", "x" * 256])
PICK = st.integers(0, 40)
PLACES = st.one_of(PICK, PATHS, PICK, PICK)  # a number is one of those that are there
KEYS = st.one_of(PATHS, PATHS.map(lambda p: p + "/"), ODD)
DATA = st.binary(max_size=20)
KINDS = st.sampled_from(["HEAD", "LIST", "GET", "PUT", "COPY", "DELETE", "DELETE_MANY",
                         "UPLOAD_PART", "UPLOAD_PART_COPY", "CREATE_UPLOAD",
                         "COMPLETE_UPLOAD"])  # fmt: skip
NEW, REWRITE, EDIT = os.O_CREAT, os.O_CREAT | os.O_TRUNC, 0
WAYS = st.sampled_from([NEW, REWRITE, EDIT, NEW | os.O_EXCL])
NO_PATH = (NotFoundError, NotDirectoryError, IsDirectoryError)
STALE = (StaleError, ObjectChangedError)


def are_related(one: str, other: str) -> bool:
    """Whether they are the same, or one is below the other."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


class Common(RuleBasedStateMachine):
    """With allow-delete and allow-overwrite; what is refused without them has tests of its own."""

    has_little_memory = False

    def __init__(self) -> None:
        super().__init__()
        self.kernel = Kernel(has_little_memory=self.has_little_memory)
        self.model = Reference()
        self.ever: set[bytes] = {b""}  # every version of anything
        self.open_files: list[File] = []
        self.readers: list[int] = []
        self.steps = 0  # of the worker that serves now

    def place(self, path_or_number):
        """A path; a number stands for one that exists, if any does."""
        if isinstance(path_or_number, str):
            return path_or_number
        there = sorted(self.model.tree()) or ["a"]
        return there[path_or_number % len(there)]

    def unrelated(self, path, number):
        """A path whose directory exists, and that is neither above nor below this one."""
        tree = self.model.tree()
        above = {"", *(p for p in tree if tree[p] is None)}
        paths = [p for p in ALL_PATHS if p.rpartition("/")[0] in above and not are_related(p, path)]
        return paths[number % len(paths)]

    def picked(self, number):
        """A handle that is open for writing, and its file."""
        handles = [(fh, file) for file in self.open_files for fh in file.handles]
        return handles[number % len(handles)]

    def teardown(self) -> None:
        self.kernel.close()

    # other clients

    @initialize(
        objects=st.dictionaries(PATHS, DATA, min_size=3, max_size=9), is_sparse=st.booleans()
    )
    def there_are_files(self, objects, is_sparse):
        """is_sparse: listings have empty pages, as S3's have where it skips delete markers."""
        self.kernel.mount.store.is_sparse = is_sparse
        for path, data in objects.items():
            self.put_elsewhere(path, data)

    @rule(key=KEYS, data=DATA)
    def another_client_puts(self, key, data):
        self.put_elsewhere(key, data)

    def put_elsewhere(self, key, data):
        self.kernel.mount.store.put_now(key, data)
        self.model.objects[key] = data
        self.kernel.mount.time.now_s += 2

    @rule(key=KEYS)
    def another_client_deletes(self, key):
        self.kernel.mount.store.delete_now(key)
        self.model.objects.pop(key, None)
        self.kernel.mount.time.now_s += 2

    @rule(kind=KINDS, lost_answer=st.booleans())
    def next_request_fails(self, kind, lost_answer):
        self.kernel.arm(kind, lost_answer=lost_answer)

    def attempt(self, call, *expected):
        """Make a call. None: a request failed, and the bucket shows what took effect."""
        self.look_for_faults()
        try:
            result = call()
        except StoreUnavailableError:
            earlier = any(file.is_unsure for file in self.open_files)
            assert self.kernel.was_met or earlier, "a fault that was not injected"
            self.kernel.was_met = True
            result = None
        except expected as exc:
            result = exc
        was_hit = self.look_for_faults()
        return None if was_hit and isinstance(result, Exception) else result

    def look_for_faults(self):
        """After a failed request, take the bucket as it is: the request may have taken effect."""
        if not self.kernel.was_met:
            return False
        self.kernel.was_met = False
        self.model.objects = {k: v.data for k, v in self.kernel.bucket.items()}
        for file in self.open_files:
            file.is_unsure = True
        return True

    # what is known

    def is_stale(self, file):
        return file.base is not None and (
            file.path is None or self.kernel.etag(file.path) != file.base
        )

    def lacks_source(self, file):
        """Whether what was copied into it can only be stored, not read or changed."""
        return any(self.kernel.etag(path) != etag for path, etag in file.sources.items())

    def is_unsure(self, path):
        return any(f.is_unsure for f in self.open_files if f.path == path)

    def sync(self, file):
        self.model.objects = {k: v.data for k, v in self.kernel.bucket.items()}

    def let_go(self, file):
        if file is not None:
            self.model.writing.pop(file.path, None)
            file.path = None

    def stored(self, file):
        file.is_dirty = file.was_written = False
        file.sources = {}
        file.base, file.is_known = self.kernel.etag(file.path), True

    @property
    def has_readers(self):
        return len(self.kernel.mount.fs._handles) > 0

    def all_data(self):
        self.stale_before = [f for f in self.open_files if self.is_stale(f)]
        return {k: v.data for k, v in self.kernel.bucket.items() if not k.endswith("/")}

    # what must hold

    @invariant()
    def bucket_and_tree_are_what_the_model_says(self):
        kernel = self.kernel
        self.steps += 1
        self.look_for_faults()
        was_armed, kernel.is_armed = kernel.is_armed, False
        self.ever |= set(self.model.objects.values()) | {f.data for f in self.open_files}
        stored = {k: v.data for k, v in kernel.bucket.items()}
        unsure = {f.path for f in self.open_files if f.is_unsure}
        assert {k: v for k, v in stored.items() if k not in unsure} == {
            k: v for k, v in self.model.objects.items() if k not in unsure
        }
        shown, expected = kernel.mount.tree(), self.model.tree()
        for file in self.open_files:
            if file.path is not None and (file.is_unsure or shown.get(file.path) is REPLACED):
                assert file.is_unsure or self.is_stale(file) or self.lacks_source(file)
                shown.pop(file.path, None)
                expected.pop(file.path, None)
        assert shown == expected
        assert kernel.mount.fs.usage().dirty_bytes == kernel.mount.dirty_bytes()
        kernel.is_armed = was_armed
