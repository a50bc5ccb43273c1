"""The driver's processes for the demo: node plugin and mounter, started by exec, called over CSI.

Programs never import one another, so `csi-s3 csi` makes the CSI calls, in a process of its own.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from csi_s3.errors import MountError, VolumeError
from csi_s3.kernel import mount
from csi_s3.kernel.mountinfo import MountEntry, mount_at, read_mountinfo

READY_WITHIN_S = 30.0
DEADLINE_S = 60.0  # of one CSI call, and of the end of a process
LOG_LINES = 8


class Driver:
    """One node plugin and one mounter in a directory of their own.

    Lifetime: from `start` to `stop`; then, or after a failure, `close`.
    """

    def __init__(self, directory: Path, *, deadline_s: float = DEADLINE_S) -> None:
        self._directory, self._deadline_s = directory, deadline_s
        self.kubelet_dir = directory / "kubelet"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, variables: Sequence[str]) -> None:
        """Start both. variables: NAME=VALUE for the mounter, which has the S3 identity."""
        for name in ("kubelet", "state", "link"):
            (self._directory / name).mkdir(exist_ok=True)
        socket = str(self._directory / "link" / "mounter.sock")
        flags = [
            *("--endpoint", self._endpoint, "--node-id", "demo-node"),
            *("--state-dir", str(self._directory / "state")),
            *("--kubelet-dir", str(self.kubelet_dir), "--mounter", socket),
        ]
        self._spawn("node", flags, ())
        rules = ("--allow-loopback", "on", "--allow-token-over-http", "on")  # it is the user's own
        self._spawn("mounter", ["--socket", socket, *rules], variables)

    def probe(self) -> dict[str, Any]:
        return self._csi("probe", "--wait", str(READY_WITHIN_S))

    def publish(self, volume_id: str, target: Path, *, bucket: str, options: Sequence[str]) -> None:
        """Publish as kubelet does, with the pod info that the CSIDriver asks for."""
        attributes = {
            "bucketName": bucket,
            "csi.storage.k8s.io/ephemeral": "false",
            "csi.storage.k8s.io/pod.name": "notebook",
            "csi.storage.k8s.io/pod.namespace": "domino-compute",
            "csi.storage.k8s.io/pod.uid": "4f1c0e5a-demo",
            "csi.storage.k8s.io/serviceAccount.name": "default",
        }
        arguments = [f"--attribute={key}={value}" for key, value in attributes.items()]
        arguments += [f"--mount-option={option}" for option in options]
        self._csi("publish", "--volume-id", volume_id, "--target", str(target), *arguments)

    def unpublish(self, volume_id: str, target: Path) -> None:
        self._csi("unpublish", "--volume-id", volume_id, "--target", str(target))

    def mounted_at(self, target: Path) -> str:
        """A description of the mount, from mountinfo."""
        entry = mount_at(str(target.resolve()))
        if entry is None:
            raise MountError(f"published, but nothing is mounted on {target}")
        return f"{entry.source} of type {entry.fs_type} on {target}"

    def stop(self) -> None:
        """End both as kubelet does, by SIGTERM.

        Raises:
            MountError: one did not end, or exited with an error.

        """
        for name, process in reversed(self._processes.items()):
            process.terminate()
            try:
                code = process.wait(self._deadline_s)
            except subprocess.TimeoutExpired as exc:
                raise MountError(f"csi-s3 {name} did not end after SIGTERM") from exc
            if code != 0:
                raise MountError(f"csi-s3 {name} exited with {code}", self._last_lines(name))

    def leftovers(self, target: Path) -> list[str]:
        """FUSE mounts, processes and the target directory, if they still exist."""
        left = [f"mount {entry.mount_point}" for entry in self._mounts() if entry.is_fuse]
        left += [f"process {pid}" for pid in self._pids()]
        return left + ([f"directory {target}"] if not left and target.exists() else [])

    def close(self) -> None:
        """Kill the processes, unmount, and delete the directory."""
        for pid in self._pids():
            with suppress(ProcessLookupError):  # a worker ends with its mounter
                os.kill(pid, signal.SIGKILL)
        for process in self._processes.values():
            process.wait(self._deadline_s)
        for entry in reversed(self._mounts()):
            mount.umount(entry.mount_point, force=entry.is_fuse)
        if not self._mounts():  # else rmtree would empty the bucket
            shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def _endpoint(self) -> str:
        return f"unix://{self._directory}/csi.sock"

    def _spawn(self, name: str, flags: Sequence[str], variables: Sequence[str]) -> None:
        with (self._directory / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(  # noqa: S603 - a list, no shell
                ["/usr/bin/env", *variables, sys.executable, "-m", "csi_s3", name, *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
            )

    def _csi(self, action: str, *arguments: str) -> dict[str, Any]:
        command = ["csi", action, "--endpoint", self._endpoint, *arguments]
        try:
            done = subprocess.run(  # noqa: S603 - a list, no shell
                [sys.executable, "-m", "csi_s3", *command],
                capture_output=True,
                text=True,
                timeout=self._deadline_s,
                cwd="/",
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise MountError(
                f"csi-s3 csi {action}: no answer within {self._deadline_s:g} s",
                "\n".join(self._last_lines(name) for name in self._processes),
            ) from exc
        if done.returncode != 0:
            logs = "\n".join(self._last_lines(name) for name in self._processes)
            sys.stderr.write(f"{logs}\n")
            raise VolumeError(done.stderr.strip().removeprefix("csi-s3: error: "))
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def _last_lines(self, name: str) -> str:
        lines = (self._directory / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join([f"--- log of {name}:", *lines[-LOG_LINES:]])

    def _mounts(self) -> list[MountEntry]:
        root = f"{self._directory.resolve()}/"
        return [e for e in read_mountinfo() if e.mount_point.startswith(root)]

    def _pids(self) -> list[int]:
        """Node, mounter and workers, whose command lines contain the directory."""
        pids = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    command = (entry / "cmdline").read_bytes()
                except OSError:  # it has ended
                    continue
                if os.fsencode(self._directory) in command:
                    pids.append(int(entry.name))
        return pids
