"""A rename between two binds of one disk, as the node plugin's container has them."""

import subprocess
import sys

import pytest

WITHIN_S = 60
PROGRAM = """
import errno, os, subprocess, sys
from csi_s3.kernel.file_handles import open_on_mount

def run(*command):
    subprocess.run(command, check=True, timeout=30)

base, kind = sys.argv[1:]
os.chdir(base)
run("mount", "-t", "tmpfs", "tmpfs", base)
os.chdir(base)
for name in ("disk/from", "disk/to", "from", "to"):
    os.makedirs(name)
run("mount", "--bind", "disk/from", "from")
if kind == "same":
    run("mount", "--bind", "disk/to", "to")
else:
    run("mount", "-t", "tmpfs", "tmpfs", "to")
os.makedirs("from/files")
with open("from/files/precious", "w") as file:
    file.write("data")
source, to = (os.open(d, os.O_RDONLY | os.O_DIRECTORY) for d in ("from", "to"))
try:
    os.rename("files", "files", src_dir_fd=source, dst_dir_fd=to)
except OSError as exc:
    assert exc.errno == errno.EXDEV
else:
    raise SystemExit("no such handle is needed")
try:
    again = open_on_mount(to, source)
except OSError as exc:
    print(exc.strerror)
else:
    os.rename("files", "files", src_dir_fd=source, dst_dir_fd=again)
    print(open("to/files/precious").read(), os.listdir("from"))
"""


@pytest.mark.parametrize(
    ("kind", "said"), [("same", "data []"), ("other", "Invalid cross-device link")]
)
def test_a_directory_moves_between_mounts_of_one_disk_only(tmp_path, kind, said):
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", PROGRAM, tmp_path, kind],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"{said}\n", "")
