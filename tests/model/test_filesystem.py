"""The file system next to the plainest model of it: every operation, other writers, faults, ends.

A tiny alphabet on purpose: `a`, `a-`, `a/`, `a/a` collide, and that is the test. What may differ
from a local disk: a file that somebody else replaced gives ESTALE when it is stored; a request that
fails is told to the caller, and then the bucket says what took effect.
"""

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import precondition, rule

from tests.model.common import PATHS, PLACES
from tests.model.files import Files
from tests.model.names import Names
from tests.model.reference import Reference


class MountModel(Names, Files):
    @rule(one_in=st.integers(0, 15), is_killed=st.booleans())
    def the_worker_ends_and_the_next_one_begins(self, one_in, is_killed):
        if one_in:
            return
        self.kernel.disarm()
        unsure = any(f.is_unsure for f in self.open_files) or self.kernel.leftovers()
        expected = dict(self.model.objects)
        if is_killed:
            self.kernel.kill()
        else:
            for file in self.open_files:
                if file.path is not None and file.is_dirty and not self.is_stale(file):
                    expected[file.path] = file.data
            self.kernel.restart()
        self.begin_anew(None if unsure else expected)

    def begin_anew(self, expected):
        stored = {k: v.data for k, v in self.kernel.bucket.items()}
        if expected is not None:
            assert stored == expected
        self.model = Reference(objects=stored)
        self.open_files, self.readers = [], []

    @precondition(lambda self: not (self.kernel.is_armed or self.open_files))
    @precondition(lambda self: not self.kernel.leftovers())  # or they would be uploaded
    @rule(
        one_in=st.integers(0, 15),
        old=PLACES,
        new=PATHS,
        at=st.tuples(
            st.sampled_from(["LIST", "COPY", "PUT", "DELETE", "DELETE_MANY"]),
            st.integers(0, 3),
            st.booleans(),
        ),
    )
    def the_worker_is_killed_in_a_rename(self, one_in, old, new, at):
        """Each file is whole under one name at least; of a directory, only the new one is left."""
        old = self.place(old)
        if one_in or f"{old}/".startswith(f"{new}/") or f"{new}/".startswith(f"{old}/"):
            return
        before = self.all_data()
        kind, n, after = at
        self.kernel.killed_in_rename(old, new, kind, n, after=after)
        stored = {k: v.data for k, v in self.kernel.bucket.items()}
        for path, data in before.items():
            moved = new + path[len(old) :] if path.startswith(f"{old}/") or path == old else path
            assert data in (stored.get(path), stored.get(moved)) or path == new, path
        assert not list(self.kernel.intents()), "half done"
        self.begin_anew(None)


MountModel.TestCase.settings = settings(deadline=None)  # examples and steps: the profile's
TestMountModel = pytest.mark.warnings_expected(".*")(pytest.mark.timeout(0)(MountModel.TestCase))
