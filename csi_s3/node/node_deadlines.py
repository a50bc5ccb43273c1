"""How long the node plugin waits for others. Tests pass shorter times."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDeadlines:
    """mounter_s: a publish waits for a mounter that restarts.

    start_s: until a new mount serves. The worker gives up after 90 s and then has the reason;
        kubelet gives up after 120 s.
    usage_s: for a worker's answer.
    hello_s: from a mounter's connection to its `ready`.
    taint_pause_s: after a failure to remove the startup taint; no pod is scheduled here until then.
    grace_s: for calls that are under way at SIGTERM.
    """

    mounter_s: float = 10.0
    start_s: float = 100.0
    usage_s: float = 5.0
    hello_s: float = 10.0
    taint_pause_s: float = 15.0
    grace_s: float = 10.0
