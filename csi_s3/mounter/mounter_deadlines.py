"""How long the mounter waits for its parts, all in one place."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MounterDeadlines:
    """Seconds.

    drain_margin_s: beyond a volume's drain-timeout, before a worker that uploads is killed.
    exit_s: from the end of a worker's socket, or from SIGKILL, to the end of its process.
    metrics_s: for a worker's answer to a scrape.
    exposition_s: for the text of a scrape; 85 ms for 16 volumes, in a thread.
    flush_s: for node to read the last reports.
    """

    drain_margin_s: float = 5.0
    exit_s: float = 5.0
    metrics_s: float = 2.0
    exposition_s: float = 5.0
    flush_s: float = 2.0
