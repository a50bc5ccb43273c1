"""A program: the real zygote, with workers that do what their volume's handle says.

    zygote_double.py [crowded|threaded] FD

Every worker writes its pid to the descriptor it serves, so that a test sees that it has it; one
called `identity` writes its credentials directory.
"""

import asyncio
import itertools
import os
import resource
import signal
import socket
import sys
import threading
from pathlib import Path

from csi_s3.errors import AccessDeniedError
from csi_s3.link.channel import Channel
from csi_s3.link.report import Report, State, Usage
from csi_s3.link.spec import MountSpec
from csi_s3.mounter.zygote import serve_forks

_numbers = itertools.count(1)


def worker(sock: socket.socket) -> int:
    return asyncio.run(_work(Channel(sock)))


async def _work(channel: Channel) -> int:
    message = await channel.receive()
    spec = MountSpec.from_json(message.body["spec"])
    directory = spec.credentials_dir or message.body["credentials_dir"]
    text = directory if spec.volume_handle == "identity" else os.getpid()
    os.write(message.take_fd(), f"{text}\n".encode())
    match spec.volume_handle:
        case "refused":
            error = AccessDeniedError("bucket b: 403", "look at the policy")
            await _report(channel, spec, State.FAILED, error)
            return 1
        case "exits":
            return 3
        case "leaves":
            return 0
        case "raises":
            raise RuntimeError("on purpose")
        case "never-serves":
            await asyncio.Event().wait()
        case "puppet":  # a test speaks in its place, from its end of the channel
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as to:
                to.connect(spec.state_dir)
                socket.send_fds(to, [b"channel"], [channel.fileno()])
            await asyncio.Event().wait()
        case "babbles":
            await channel.send("greeting", {})
    return await _serve(channel, spec, message.body["memory_bytes"])


async def _serve(channel: Channel, spec: MountSpec, memory_bytes: int) -> int:
    await _report(channel, spec, State.SERVING)
    while message := await channel.receive():
        if message.type == "usage":
            await _report(channel, spec, State.SERVING)
        elif message.type == "metrics" and spec.volume_handle == "counts":
            await channel.send("metrics", {"families": families(memory_bytes)})
        elif message.type == "stop" and spec.volume_handle != "deaf":
            break
    await _report(channel, spec, State.ENDED)
    return 0


def families(memory_bytes: int) -> dict:
    """One byte read for each request, and the budget of the message."""
    asked = next(_numbers)
    return {
        "csi_s3_read_bytes_total": [[asked]],
        "csi_s3_memory_bound_bytes": [["buffers", memory_bytes]],
    }


async def _report(channel: Channel, spec: MountSpec, state: State, error=None) -> None:
    """Its usage is its number of descriptors and its pid."""
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    usage = Usage(open_files=open_files, inodes=os.getpid())
    report = Report(mount_id=spec.mount_id, state=state, error=error, usage=usage)
    await channel.send("report", {"report": report.to_json()})


if __name__ == "__main__":
    if "crowded" in sys.argv:  # no process can be made any more
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        os.setuid(65534)
    if "threaded" in sys.argv:
        threading.Thread(target=signal.pause, daemon=True).start()
    serve_forks(socket.socket(fileno=int(sys.argv[-1])), worker)
