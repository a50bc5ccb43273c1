"""Reads /metrics as Prometheus does, and parses it with Prometheus's own parser."""

import socket
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

WITHIN_S = 15


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def get(port: int, path: str) -> tuple[int, str]:
    """Status and body."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=WITHIN_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()


class Scrape:
    """One answer of /metrics."""

    def __init__(self, text: str) -> None:
        self.families = {f.name: f for f in text_string_to_metric_families(text)}
        self.samples = {
            (s.name, frozenset(s.labels.items())): s.value
            for family in self.families.values()
            for s in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        """One sample; 0.0 where there is none."""
        return self.samples.get((f"csi_s3_{name}", frozenset(labels.items())), 0.0)

    def sum(self, name: str, **labels: str) -> float:
        """All samples that have these labels, whatever others they have."""
        wanted = labels.items()
        return sum(
            value
            for (found, has), value in self.samples.items()
            if found == f"csi_s3_{name}" and wanted <= has
        )

    def names(self) -> set[str]:
        return {name for name, _ in self.samples}


def scrape(port: int) -> Scrape:
    status, text = get(port, "/metrics")
    assert status == 200, text
    return Scrape(text)
