"""The zygote as a process, and the whole mounter as one: signals, deaths, what is inherited."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from csi_s3.mounter.zygote_client import COMMAND
from tests.mounter.harness import WITHIN_S, ZYGOTE, Node, line

MOUNTER = """
import asyncio, sys
from pathlib import Path
from csi_s3.config.programs import MounterConfig
from csi_s3.mounter import keeper
from csi_s3.obs import logs

logs.configure("mounter")
if sys.argv[2:]:
    command = tuple(sys.argv[2:])
    start = keeper.ZygoteClient
    keeper.ZygoteClient = lambda _: start(command)
asyncio.run(keeper.serve(MounterConfig(socket=Path(sys.argv[1]))))
"""


@pytest.fixture
def node(tmp_path):
    found = Node(tmp_path / "node.sock")
    yield found
    found.close()


@pytest.fixture
def start(node, tmp_path):
    """Start `serve` as a program, with the workers of zygote_double or with the real ones."""
    started = []

    def run(*zygote: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", MOUNTER, str(tmp_path / "node.sock"), *zygote],
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(WITHIN_S)
        process.stderr.close()


async def ended(process: subprocess.Popen) -> tuple[int, str]:
    _, err = await asyncio.to_thread(process.communicate, timeout=WITHIN_S)
    return process.returncode, err


def wait_gone(pid: int) -> None:
    deadline = time.monotonic() + WITHIN_S
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, f"{pid} still runs"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_the_mounter_and_it_exits_zero(node, start, number):
    process = start(*ZYGOTE)
    await node.accept()
    fuse = await node.serve()
    worker = int(await line(fuse))
    await node.report()
    process.send_signal(number)
    assert (await node.report()).state.value == "ended"
    await node.end()
    status, err = await ended(process)
    assert status == 0, err
    wait_gone(worker)
    os.close(fuse)


async def test_the_real_zygote_starts_with_one_thread_and_ends_with_the_mounter(node, start):
    process = start()
    await node.accept()
    process.terminate()
    status, err = await ended(process)
    assert status == 0, err
    assert "Traceback" not in err


async def test_a_killed_mounter_leaves_no_worker_behind(node, start):
    process = start(*ZYGOTE)
    await node.accept()
    fuse = await node.serve("deaf")
    worker = int(await line(fuse))
    process.kill()
    assert await line(fuse) == ""
    wait_gone(worker)
    os.close(fuse)


async def test_a_killed_zygote_ends_the_mounter_with_an_error(node, start):
    process = start(*ZYGOTE)
    await node.accept()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    os.kill(int(children[0]), signal.SIGKILL)
    status, err = await ended(process)
    assert status != 0
    assert "the process that starts workers died: SIGKILL" in err
    assert "must be started again" in err


async def test_a_worker_that_cannot_be_imported_ends_the_mounter_with_the_reason(node, start):
    process = start(sys.executable, "-c", "raise ImportError('no module pyfuse3')")
    status, err = await ended(process)
    assert status != 0
    assert "no module pyfuse3" in err
    assert "the process that starts workers died: exit-1" in err


async def test_a_zygote_with_a_second_thread_refuses_to_serve():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        done = subprocess.run(
            [*ZYGOTE, "threaded", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )
    assert done.returncode == 1
    assert "2 threads run in the zygote" in done.stderr


def test_the_real_zygote_ends_when_its_keeper_is_gone():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        process = subprocess.Popen(
            [*COMMAND, str(theirs.fileno())], pass_fds=[theirs.fileno()], text=True
        )
    assert process.wait(WITHIN_S * 2) == 0


async def test_a_worker_starts_with_default_signals_and_a_name_that_ps_shows(node, start):
    start(*ZYGOTE)
    await node.accept()
    fuse = await node.serve("deaf", mount_id="1234567" + "0" * 25)
    status = Path(f"/proc/{await line(fuse)}/status").read_text()
    fields = dict(x.split(":\t", 1) for x in status.splitlines() if ":\t" in x)
    assert fields["Name"] == "csi-s3 12345670"
    ignored = int(fields["SigIgn"], 16)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        assert not ignored & (1 << (number - 1)), number.name
    os.close(fuse)
