"""What workloads share: their table, their place, and how a wrong result ends one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.scale.server import tell

PROGRAMS: dict[str, Callable[["Place"], str | None]] = {}


class WrongResultError(Exception):
    """Names are missing, bytes differ, an error that should come did not."""


@dataclass(frozen=True)
class Place:
    """path: the mount. n: how much is to be done. endpoint: of the made-up bucket."""

    path: Path
    n: int
    endpoint: str

    def set_rules(self, *rules: dict[str, Any]) -> None:
        tell(self.endpoint, "rules", list(rules))


def program(work: Callable[[Place], str | None]) -> Callable[[Place], str | None]:
    """Enter a workload into the table; `_` of its name is `-`. It returns a remark, or None."""
    PROGRAMS[work.__name__.replace("_", "-")] = work
    return work


def expect(is_right: object, what: str) -> None:
    if not is_right:
        raise WrongResultError(what)
