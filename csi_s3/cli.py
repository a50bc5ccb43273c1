"""The entry point of all programs: chooses one, builds its configuration and runs it.

Programs never import one another, and each is imported only when it is chosen: a container's
memory and start time must not include the libraries of the others.
"""

import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from csi_s3.errors import BadOptionError, VolumeError

USAGE = """\
Usage: csi-s3 COMMAND ...

S3 buckets as directories.

  mount     mount a bucket on a directory of this machine
  demo      run the whole driver on this machine with an S3 server of its own
  node      run the CSI node plugin (in a DaemonSet)
  mounter   serve the mounts of the node plugin (in a DaemonSet)
  csi       call a node plugin: probe, publish, unpublish

"csi-s3 COMMAND --help" shows the options. mount-s3 and mount.csi-s3 are csi-s3 mount.
"""

_MOUNT_NAMES = {"mount-s3", "mount.csi-s3", "mount.fuse.csi-s3"}


def main() -> None:
    """`csi-s3`: ends the process with the chosen program's exit code."""
    if _program_name() in _MOUNT_NAMES:
        mount_s3()
    sys.exit(_exit_code(_choose, sys.argv[1:]))


def mount_s3() -> None:
    """`mount-s3`, and `mount.csi-s3` as mount(8) calls it."""
    sys.exit(_exit_code(_mount, sys.argv[1:]))


def _program_name() -> str:
    return Path(sys.argv[0]).name


def _exit_code(program: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Run a program: 0 success, 1 failure, 2 wrong usage, 130 interrupted."""
    try:
        return program(argv)
    except VolumeError as exc:
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(exc))
        sys.stderr.write(f"csi-s3: error: {line}\n")
        return 2 if isinstance(exc, BadOptionError) else 1
    except KeyboardInterrupt:
        return 130


def _choose(argv: Sequence[str]) -> int:
    name = argv[0] if argv else ""
    if name in {"-h", "--help", "help"}:
        sys.stdout.write(USAGE)
        return 0
    if name in {"-V", "--version", "version"}:
        import csi_s3

        sys.stdout.write(f"csi-s3 {csi_s3.__version__}\n")
        return 0
    if name not in _PROGRAMS:
        problem = f"unknown command {name!r}" if name else "no command given"
        raise BadOptionError(problem, "expected mount, demo, node, mounter or csi; see --help")
    return _PROGRAMS[name](argv[1:])


def _mount(argv: Sequence[str]) -> int:
    import os

    from csi_s3.config.mount_command import parse_command, question

    if text := question(argv):
        sys.stdout.write(f"{text.rstrip()}\n")
        return 0
    helper = _program_name().startswith("mount.")
    command = parse_command(argv, uid=os.geteuid(), gid=os.getegid(), helper=helper)

    from csi_s3.local.command import run

    return run(command)


def _exit_at_sigterm() -> None:
    """Handle a SIGTERM that comes before the program has its own handler.

    A container's first process has no default handler (pid_namespaces(7)): the signal would be
    lost, and a pod that is deleted while it starts would take its whole grace period.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def _node(argv: Sequence[str]) -> int:
    _exit_at_sigterm()
    from csi_s3.config.programs import NodeConfig
    from csi_s3.obs import logs

    config = NodeConfig.from_args(argv)
    logs.configure("node")

    from csi_s3.node.server import serve

    return _run(serve(config))


def _mounter(argv: Sequence[str]) -> int:
    _exit_at_sigterm()
    from csi_s3.config.programs import MounterConfig
    from csi_s3.obs import logs

    config = MounterConfig.from_args(argv)
    logs.configure("mounter")

    from csi_s3.mounter.keeper import serve

    return _run(serve(config))


def _worker(argv: Sequence[str]) -> int:
    """Internal: executed by `mount` and the Python API."""
    import argparse
    import socket

    from csi_s3.obs import logs

    parser = argparse.ArgumentParser("csi-s3 worker", allow_abbrev=False)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--mounted")
    parser.add_argument("--debug", action="store_true")
    args = parser.parse_args(argv)
    logs.configure("worker", debug=args.debug)

    from csi_s3.mounter.memory_upkeep import prepare
    from csi_s3.mounter.worker import run_worker

    prepare()
    code = run_worker(socket.socket(fileno=args.fd))
    if args.mounted is not None:
        from csi_s3.local.user_mount import release

        release(args.mounted)
    return code


def _csi(argv: Sequence[str]) -> int:
    from csi_s3.csi.client import run

    return run(argv)


def _demo(argv: Sequence[str]) -> int:
    from csi_s3.local.demo import run

    return run(argv)


def _run(work: Coroutine[Any, Any, None]) -> int:
    import uvloop

    uvloop.run(work)
    return 0


_PROGRAMS: dict[str, Callable[[Sequence[str]], int]] = {
    "mount": _mount,
    "demo": _demo,
    "node": _node,
    "mounter": _mounter,
    "worker": _worker,
    "csi": _csi,
}
