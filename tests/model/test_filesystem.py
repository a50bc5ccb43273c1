"""The file system next to the plainest model of it: every operation, other writers, faults, ends.

A tiny alphabet on purpose: `a`, `a-`, `a/`, `a/a` collide, and that is the test. What may differ
from a local disk: a file that another client replaced gives ESTALE when it is stored; a request
that fails is the caller's error, and then the bucket shows what took effect.
"""

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import precondition, rule

from tests.model.common import PICK
from tests.model.files import Files
from tests.model.names import Names
from tests.model.reference import Reference

LEAST_STEPS = 8  # of one worker, so that there is something to end


class MountModel(Names, Files):
    @precondition(lambda self: self.steps >= LEAST_STEPS)
    @rule(is_killed=st.booleans())
    def the_worker_ends_and_the_next_one_begins(self, is_killed):
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
        self.begin(None if unsure else expected)

    def begin(self, expected):
        stored = {k: v.data for k, v in self.kernel.bucket.items()}
        if expected is not None:
            assert stored == expected
        self.model = Reference(objects=stored)
        self.open_files, self.readers, self.steps = [], [], 0

    @precondition(lambda self: not (self.kernel.is_armed or self.open_files))
    @precondition(lambda self: not self.kernel.leftovers())  # or they would be uploaded
    @rule(old=PICK, new=PICK, n=st.integers(0, 3), after=st.booleans())
    def the_worker_is_killed_in_a_rename(self, old, new, n, after):
        """Each file is whole under one name at least; of a directory, only the new one is left."""
        old = self.place(old)
        new = self.unrelated(old, new)
        before = self.all_data()
        self.kernel.killed_in_rename(old, new, n, after=after)
        stored = {k: v.data for k, v in self.kernel.bucket.items()}
        for path, data in before.items():
            moved = new + path[len(old) :] if path.startswith(f"{old}/") or path == old else path
            assert data in (stored.get(path), stored.get(moved)) or path == new, path
        assert not list(self.kernel.intents()), "half done"
        self.begin(None)


class LittleMemoryModel(MountModel):
    """Tails go to the spool, pages of listings are dropped, inodes are forgotten."""

    has_little_memory = True

    @rule()
    def the_kernel_forgets(self):
        self.kernel.mount.forget_all()


# An example takes 0.2 s; on a machine that is many times slower the test still ends. A call that
# waits for nothing fails earlier (CALL_WITHIN_S in tests.model.machine), and its steps are shown.
EXAMPLE_WITHIN_S = 6

# Examples and steps: the profile's.
MountModel.TestCase.settings = LittleMemoryModel.TestCase.settings = settings(deadline=None)


WITHIN_S = pytest.mark.timeout(EXAMPLE_WITHIN_S * settings.default.max_examples)
LEFTOVERS = pytest.mark.warnings_expected(
    r"^csi_s3\.fs\.files\.kept_files: .* is kept in .*/file-\d+\.data for the next worker",
    r"^csi_s3\.fs\.write\.spool_leftovers: .* was not uploaded, .* is in .*/file-\d+\.data",
    r"^csi_s3\.fs\.write\.spool_recovery: .* failed again: .* are in .*/file-\d+\.data",
)


@WITHIN_S
@LEFTOVERS
class TestMountModel(MountModel.TestCase):
    pass


@WITHIN_S
@LEFTOVERS
class TestLittleMemoryModel(LittleMemoryModel.TestCase):
    pass
