"""The cases: what runs at n and at 10 n, over which bucket, with which bounds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.scale.work_names import TREE_FILES

MEMORY_MIB = 148  # a volume's share: 16 in the chart's 4 GiB
BOUND_MIB = 300.0
Layout = dict[str, dict[str, int]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """work: the workload, of `work`. sizes: n by default, and with SCALE=full; each runs at 10 n.

    options: fields of TreeConfig. scales: the requests at 10 n are in proportion to those at n.
    once_each: a kind of request that each of n may cost once, as what was known of them is dropped
    at a bound that only 10 n reaches.
    is_counted_only: no bound is known yet; what is over is shown, and does not fail.
    disk_mib: what the spool may take.
    """

    name: str
    sizes: tuple[int, int]
    layout: Callable[[int], Layout]
    work: str = ""
    bound_mib: float = BOUND_MIB
    memory_mib: int = MEMORY_MIB
    options: Mapping[str, Any] = field(default_factory=dict)
    scales: bool = True
    once_each: str = ""
    is_counted_only: bool = False
    disk_mib: float = 11_000
    within_s: float = 300  # and 20 ms for each of n


def _big(n: int) -> Layout:
    return {"big": {"n": n}}


def _old(n: int) -> Layout:
    return {"old": {"n": n}}


def _tree(n: int) -> Layout:
    return {"tree": {"directories": -(-n // TREE_FILES), "files": TREE_FILES}}


def _nothing(_: int) -> Layout:
    return {}


CASES = (
    Case(name="ls-f", sizes=(20_000, 1_000_000), layout=_big),
    Case(name="ls-l", sizes=(20_000, 100_000), layout=_big),
    Case(name="find", sizes=(20_000, 1_000_000), layout=_big),
    Case(name="du", sizes=(20_000, 100_000), layout=_big),
    Case(name="ls-dirs", sizes=(10_000, 100_000), layout=lambda n: {"dirs": {"n": n}}),
    Case(name="find-tree", sizes=(10_000, 100_000), layout=_tree),
    Case(name="ls-l-tree", sizes=(10_000, 100_000), layout=_tree),
    Case(name="du-tree", sizes=(10_000, 100_000), layout=_tree),
    Case(name="look-ups", sizes=(5000, 100_000), layout=_big),
    Case(
        name="many-names",
        sizes=(5000, 100_000),
        layout=lambda n: {**_big(n), **_tree(9 * n)},
    ),
    Case(name="creates", sizes=(500, 100_000), layout=_nothing),
    Case(name="rm-r", sizes=(1000, 100_000), layout=_old),
    Case(name="job-directories", sizes=(200, 100_000), layout=_nothing),
    Case(name="symbolic-links", sizes=(500, 10_000), layout=_nothing, once_each="GET"),
    Case(name="open-writers", sizes=(1000, 1000), layout=_nothing),
    Case(name="many-open-writers", sizes=(300, 300), layout=_nothing, memory_mib=64),
    Case(name="handles-of-one-file", sizes=(1000, 10_000), layout=lambda n: _big(max(n, 200))),
    Case(name="handles-of-many-files", sizes=(1000, 10_000), layout=_big),
    Case(name="directory-handles", sizes=(1000, 100_000), layout=_big),
    Case(name="slow-scandir", sizes=(500, 50_000), layout=lambda _: _old(3000)),
    Case(name="sparse-file", sizes=(5000, 100_000), layout=_nothing, scales=False),
    Case(
        name="scattered-edits",
        sizes=(3000, 10_000),
        layout=lambda n: {"large": {"bytes": n * 4096}},
        options={"spool_bytes": 16 << 20},
        scales=False,
        disk_mib=17,
    ),
    Case(name="rename-directory", sizes=(1000, 100_000), layout=_old),
    Case(name="rename-refused-copies", sizes=(1000, 100_000), layout=_old),
    Case(name="rename-refused-deletes", sizes=(1000, 100_000), layout=_old),
    Case(
        name="refused-writes",
        sizes=(400, 4000),
        layout=_nothing,
        options={"spool_bytes": 0},
        scales=False,
    ),
    Case(
        name="store-that-hangs",
        sizes=(150, 1000),
        layout=_nothing,
        is_counted_only=True,
    ),
)
