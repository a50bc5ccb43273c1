"""Builds of the tests' own programs: slow ones go on, failed ones say so in a line. Real Go."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests import binaries

WITHIN_S = 100


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CSI_S3_CACHE", str(tmp_path))
    return tmp_path


def run(*names: str, env: dict[str, str]):
    return subprocess.run(
        [sys.executable, "-m", "tests.binaries", *names],
        env={**os.environ, **env},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )


def test_a_build_that_fails_ends_in_one_line_that_says_where_the_rest_is(cache):
    done = run("helm", env={"GOPROXY": "off", "GOMODCACHE": str(cache / "modules")})
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    log = cache / "log" / "helm.log"
    assert line.startswith("binaries: helm cannot be built: ")
    assert "GOPROXY=off" in line
    assert line.endswith(f"(all of it: {log})")
    assert "GOPROXY=off" in log.read_text()
    assert not list((cache / "bin").glob("helm*"))


def test_a_program_that_there_is_not_is_refused_by_name(cache):
    done = run("minoi", env={})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("binaries: no program 'minoi'; there are minio, ")


def test_what_is_built_is_printed_as_a_path(cache):
    path = cache / "bin" / f"minio-{binaries.PROGRAMS['minio'][1]}"
    path.parent.mkdir()
    path.touch()
    done = run("minio", env={})
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}\n", "")


def test_a_long_build_says_that_it_goes_on_and_has_no_deadline(cache, monkeypatch, capsys):
    source, gate = cache / "source", cache / "gate"
    source.mkdir()
    (source / "go.mod").write_text("module example\n")
    (source / "main.go").write_text("package main\n\nfunc main() {}\n")
    (cache / "compiler").write_text(
        f'#!/bin/sh\nwhile ! [ -e {gate} ]; do sleep 0.05; done\nexec "$@"\n'
    )
    (cache / "compiler").chmod(0o755)
    monkeypatch.setenv("GOFLAGS", f"-toolexec={cache}/compiler")
    found = []

    def build():
        found.append(binaries.build_main(source, "example", report_every_s=0))

    builder = threading.Thread(target=build)
    builder.start()
    try:
        output = first_words(capsys)
    finally:
        gate.touch()
        builder.join(WITHIN_S)
    assert output.startswith("binaries: example is being built, at its beginning, ")
    subprocess.run(found, check=True, timeout=WITHIN_S)


def first_words(capsys) -> str:
    end = time.monotonic() + WITHIN_S
    while time.monotonic() < end:
        if output := capsys.readouterr().err:
            return output
        time.sleep(0.01)
    raise AssertionError("no output")


def test_a_build_of_another_process_is_waited_for_and_reported(cache, capsys):
    path = cache / "bin" / f"helm-{binaries.PROGRAMS['helm'][1]}"
    path.parent.mkdir()
    path.touch()
    found = []
    waiter = threading.Thread(
        target=lambda: found.append(binaries.binary("helm", report_every_s=0))
    )
    with (path.parent / ".helm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiter.start()
        assert first_words(capsys).startswith("binaries: another process builds helm, ")
        assert found == []
    waiter.join(WITHIN_S)
    assert found == [path]
