"""A file that another machine changes, used here through what the kernel believes of it.

`tests/programs/apps_elsewhere.py` plays for minutes.
"""

import shlex
from collections import Counter

import pytest

from tests.mount.command import free_directory, mount
from tests.mount.elsewhere import (
    Rewriter,
    all_rounds,
    by_scandir,
    not_at_all,
    play,
    read_while_rewritten,
)
from tests.mount.mounted import OPEN, env, here, minio, mounted, sh

__all__ = ["env", "here", "minio", "mounted"]

EACH = 7  # of all rounds, so that every look, change and use comes
OPENS = 60


@pytest.fixture(scope="module")
def elsewhere(mounted):
    """Another mount of the same bucket: another worker."""
    with free_directory() as path:
        done = mount("data", path, *OPEN, env=mounted.env)
        assert done.returncode == 0, done.stderr
        yield path


def test_what_is_opened_has_the_size_of_its_version_whatever_was_seen_before(
    here, mounted, elsewhere
):
    """Promise: Read, append, seek to the end, mmap, copies and truncation use the size of the
    version that is opened, whatever size the kernel had before: an open that finds another version
    is answered ESTALE, and the kernel asks for the size and opens again. A program gets that ESTALE
    only if the second open also finds another version than the kernel knows.
    """
    rounds = list(all_rounds())[::EACH]
    assert len({r.use for r in rounds}) == len({r.use for r in all_rounds()})
    for n, this in enumerate(rounds):
        assert play(this, f"{here.name}/{n % 3}", mounted, elsewhere) is None


@pytest.mark.parametrize("look", [not_at_all, by_scandir])
def test_a_file_rewritten_all_the_time_is_whole_or_stale(here, mounted, elsewhere, look):
    path = here / "f"
    with Rewriter(elsewhere / here.name / "f"):
        came = Counter(read_while_rewritten(path, look) for _ in range(OPENS))
    assert set(came) <= {"whole", "stale at open", "stale at read"}
    assert came["whole"] > 0


def test_a_file_that_is_itself_a_mount_point_is_opened_in_the_version_of_then(here, elsewhere):
    """A subPath of one file: no look-up ever tells the kernel of another version."""
    there = shlex.quote(str(elsewhere / here.name / "f"))
    sh("echo first > f", here)
    script = f"""
        cd /tmp && at=$(mktemp) && trap 'rm $at' EXIT
        mount --bind {shlex.quote(str(here / "f"))} $at
        for n in 1 2 3; do
            cat $at > /dev/null
            echo elsewhere $n >> {there}
            echo here $n >> $at
        done
        cat $at
        umount $at
    """
    got = sh(f"unshare -m sh -ec {shlex.quote(script)}", here).stdout
    expected = "".join(f"elsewhere {n}\nhere {n}\n" for n in (1, 2, 3))
    assert got == f"first\n{expected}"
