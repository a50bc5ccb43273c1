"""scripts/apt.sh with the real apt, whose lists, cache and dpkg are directories of the test."""

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

APT = Path(__file__).parents[2] / "scripts" / "apt.sh"
WITHIN_S = 100


@pytest.fixture
def state(tmp_path):
    """Where apt's own state is: nothing is installed, and there is no source of packages."""
    for name in ("lists/partial", "cache/archives/partial", "dpkg", "etc"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "dpkg" / "status").touch()
    (tmp_path / "etc" / "sources.list").touch()
    (tmp_path / "apt.conf").write_text(
        f'Dir::State::lists "{tmp_path}/lists"; Dir::State::status "{tmp_path}/dpkg/status";\n'
        f'Dir::Cache "{tmp_path}/cache"; Dir::Etc::sourceparts "-";\n'
        f'Dir::Etc::sourcelist "{tmp_path}/etc/sources.list";\n'
    )
    return tmp_path


def start(state, *packages: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [APT, *packages],
        env={**os.environ, "APT_CONFIG": str(state / "apt.conf")},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_lock_of_the_package_lists_is_waited_for(state):
    with (state / "lists" / "lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        process = start(state)
        assert "another program holds" in process.stderr.readline()
        assert process.poll() is None
    assert process.communicate(timeout=WITHIN_S) == ("", "")
    assert process.returncode == 0


def test_the_lock_of_dpkg_is_waited_for(state):
    with (state / "dpkg" / "lock-frontend").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        process = start(state)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)
    process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0


def test_what_cannot_be_installed_ends_at_once_with_apts_own_words(state):
    _, said = start(state, "no-such-package").communicate(timeout=WITHIN_S)
    assert "Unable to locate package no-such-package" in said


def test_a_failed_update_ends_at_once_with_apts_own_words(state):
    (state / "etc" / "sources.list").write_text("this is no source\n")
    process = start(state)
    _, said = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 1
    assert "is not known on line 1 in source list" in said
