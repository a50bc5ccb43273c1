"""Who is measured, and with which flags: fixed here, the best that each one's manual offers.

Every system runs in the foreground, so that its processes can be found, counted and ended.
Nothing is taken from the caller's environment or configuration files.
"""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.binaries import binary

BUCKET = "bench"
ACCESS_KEY = "benchaccess"
SECRET_KEY = "bench-secret-key"
REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one mount is made: what the words in braces of a command stand for."""

    url: str
    directory: Path
    work: Path  # a tmpfs directory of the run

    def fill_in(self, text: str) -> str:
        return text.format(url=self.url, bucket=BUCKET, dir=self.directory, work=self.work)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A mount command. `program` answers its path, or None where it is not installed."""

    name: str
    program: Callable[[], str | None]
    arguments: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    is_control: bool = False  # has no S3 behind it: its files are in {work}/tmpfs

    def command(self, place: Place) -> list[str]:
        return [str(self.program()), *(place.fill_in(a) for a in self.arguments)]

    def environment(self, place: Place) -> dict[str, str]:
        """What its processes see: credentials, an empty home, and its own settings."""
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(place.work),
            "TMPDIR": str(place.work),
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_EC2_METADATA_DISABLED": "true",
            **{key: place.fill_in(value) for key, value in self.env.items()},
        }


def csi_s3_program() -> str | None:
    return shutil.which("csi-s3", path=str(Path(sys.executable).parent))


@functools.cache
def rclone_program() -> str | None:
    """The pinned version, else the machine's (which may be years older)."""
    try:
        return str(binary("rclone"))
    except (RuntimeError, subprocess.SubprocessError):
        return shutil.which("rclone")


CSI_S3 = System(
    name="csi-s3",
    program=csi_s3_program,
    arguments=(
        *("mount", "{bucket}", "{dir}", "--endpoint-url", "{url}", "--force-path-style"),
        *("--region", REGION, "--allow-delete", "--allow-overwrite", "--foreground"),
    ),
)

# parallel_count: the default of 5 is for home connections. Temporary files, which s3fs keeps all
# data in, are on tmpfs: to its advantage. The rest are defaults, stat cache of 100,000 included.
S3FS = System(
    name="s3fs",
    program=lambda: shutil.which("s3fs"),
    arguments=(
        *("{bucket}", "{dir}", "-f", "-o", "url={url},use_path_request_style"),
        *("-o", "passwd_file={work}/passwd-s3fs,tmpdir={work}"),
        *("-o", "parallel_count=16,multireq_max=20,multipart_size=10"),
    ),
)

# --vfs-cache-mode off, the default: close returns when the object is in S3, as with the others
# (writes and full upload five seconds after close, from a disk cache). --use-server-modtime:
# rclone's manual recommends it for S3, without it every `ls -l` is a HEAD per name. Uploads get
# parts and parallelism like ours. No --vfs-read-chunk-streams: see docs/performance.md.
RCLONE = System(
    name="rclone",
    program=rclone_program,
    arguments=(
        *("mount", "bench:{bucket}", "{dir}", "--config", "/dev/null"),
        *("--vfs-cache-mode", "off", "--use-server-modtime"),
        *("--s3-chunk-size", "8Mi", "--s3-upload-concurrency", "16"),
    ),
    env={
        "RCLONE_CONFIG_BENCH_TYPE": "s3",
        "RCLONE_CONFIG_BENCH_PROVIDER": "Minio",
        "RCLONE_CONFIG_BENCH_ENDPOINT": "{url}",
        "RCLONE_CONFIG_BENCH_REGION": REGION,
        "RCLONE_CONFIG_BENCH_ACCESS_KEY_ID": ACCESS_KEY,
        "RCLONE_CONFIG_BENCH_SECRET_ACCESS_KEY": SECRET_KEY,
    },
)

# No S3 at all: the same files on a tmpfs. Says what the load generator itself can do.
TMPFS = System(
    name="tmpfs",
    program=lambda: shutil.which("mount"),
    arguments=("--bind", "{work}/tmpfs", "{dir}"),
    is_control=True,
)

SYSTEMS = {system.name: system for system in (CSI_S3, S3FS, RCLONE, TMPFS)}
DEFAULT_SYSTEMS = ("csi-s3", "s3fs", "rclone")


def given(text: str) -> System:
    """A system from `--mount NAME=COMMAND`; {bucket}, {dir}, {url}, {work} are filled in.

    Raises:
        ValueError: not of that form.

    """
    name, equals, command = text.partition("=")
    words = command.split()
    if not (name and equals and words):
        raise ValueError(
            f"--mount {text!r}: expected NAME=COMMAND with {{bucket}}, {{dir}}, {{url}}"
        )
    return System(name=name, program=lambda: shutil.which(words[0]), arguments=tuple(words[1:]))
