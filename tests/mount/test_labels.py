"""SELinux labels on the command line: a mistake is an error that leaves nothing behind."""

from csi_s3.kernel.mountinfo import mount_at
from tests.mount.command import AS_USER, directory, env, mount, s3, workers

__all__ = ["directory", "env", "s3"]

LABEL = "no_such_u:no_such_r:no_such_t:s0:c1,c2"


def test_a_label_that_the_kernel_cannot_take_is_named(env, directory):
    done = mount("data", directory, "-o", f'ro,context="{LABEL}"', env=env)
    assert done.returncode == 2
    assert f"option context={LABEL!r} " in done.stderr
    assert "SELinux" in done.stderr
    assert mount_at(str(directory)) is None
    assert workers(directory) == []


def test_an_ordinary_user_is_told_that_labels_are_for_root(env, directory):
    done = mount("data", directory, f"--context={LABEL}", env=env, before=AS_USER)
    assert done.returncode == 2
    assert "context: an ordinary user may not label a mount for SELinux" in done.stderr
    assert mount_at(str(directory)) is None
