"""A privileged pod on each node that sees its mounts and files; works on any cluster."""

from e2e import kube
from e2e.space import Space

KUBELET = "/var/lib/kubelet"


class Inspector:
    def __init__(self, space: Space, nodes: list[str]) -> None:
        self._space, self._pods = space, {}
        for node in nodes:
            self._pods[node] = space.start(
                [], name=f"inspect-{node}", hostPID=True, nodeName=node, restartPolicy="Always",
                container={"securityContext": {"privileged": True}},
                tolerations=[{"operator": "Exists"}],
            )  # fmt: skip
        for pod in self._pods.values():
            kube.wait_ready(space.name, f"pod/{pod}")

    def is_ready(self, node: str) -> bool:
        """Whether it can be asked; not while the node, or its pod, is being restarted."""
        pod = self._pods[node]
        return kube.kubectl(
            "get", "pod", pod, "-n", self._space.name, "-o",
            "jsonpath={.status.containerStatuses[0].ready}",
        ) == "true"  # fmt: skip

    def sh(self, node: str, script: str) -> str:
        """Run a shell script in the node's own mount namespace."""
        quoted = script.replace("'", "'\\''")
        pod = self._pods[node]
        return kube.execute(self._space.name, pod, f"nsenter -t 1 -m sh -c '{quoted}'")

    def mounts(self, node: str) -> list[str]:
        """Mount points of FUSE file systems below kubelet's directory on the node."""
        lines = self.sh(node, "cat /proc/self/mountinfo").splitlines()
        found = [line.split() for line in lines]
        return [part[4] for part in found if "fuse" in line_type(part) and KUBELET in part[4]]

    def sources(self, node: str, driver: str) -> list[str]:
        """Directories of mounts that the driver keeps on the node."""
        path = f"{KUBELET}/plugins/{driver}/state/volumes"
        return self.sh(node, f"ls {path} 2>/dev/null || true").split()

    def left(self, node: str, driver: str) -> str:
        """What is on the node of a driver that is uninstalled.

        The plugin's directory stays, empty: the node plugin's container has it mounted.
        Directories below plugins/kubernetes.io are kubelet's; 1.34 keeps one for each volume.
        """
        mounts = f"grep -F plugins/{driver}/ /proc/self/mountinfo"
        below = f"find {KUBELET}/plugins/{driver} -mindepth 1 2>/dev/null"
        sockets = f"ls -d {KUBELET}/plugins_registry/{driver}* 2>/dev/null"
        return self.sh(node, f"{mounts}; {below}; {sockets} || true")


def line_type(mountinfo: list[str]) -> str:
    return mountinfo[mountinfo.index("-") + 1]
