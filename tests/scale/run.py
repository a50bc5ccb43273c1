"""`make scale`: each case at n and at 10 n; prints a line as each ends, and a table at the end.

    python -m tests.scale.run [--full] [--n N] [CASE ...]

Root and /dev/fuse are needed. All of it happens in mount and process namespaces of its own: when
this process ends, however it ends, no mount and no process is left. Exit status 1: a case failed.
"""

import argparse
import asyncio
import os
import signal
import sys

from tests.scale import special
from tests.scale.bench import run
from tests.scale.cases import CASES, Case
from tests.scale.outcome import Outcome, compare, table

INSIDE = "CSI_S3_SCALE_INSIDE"


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.scale.run", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="default: all")
    parser.add_argument("--full", action="store_true", help="sizes that take hours")
    parser.add_argument("--n", type=int, help="one n for all cases but leftovers and volumes")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    return parser.parse_args(argv)


def enter_namespaces(module: str) -> None:
    """Start again inside; everything there dies with this process."""
    if INSIDE in os.environ:
        return
    if os.geteuid() != 0:
        raise SystemExit("volumes are mounted: run it as root")
    words = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    words += ["--mount-proc", sys.executable, "-m", module, *sys.argv[1:]]
    os.execvpe("unshare", words, {**os.environ, INSIDE: "1"})


def end_at_signal() -> None:
    """End in order at SIGTERM, which the first process of a namespace would not notice."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))


def show(outcome: Outcome) -> None:
    memory = f"{outcome.before_mib:.0f}, {outcome.peak_mib:.0f}, {outcome.after_mib:.0f} MiB"
    print(f"{outcome.case} {outcome.n}: {outcome.verdict}, {outcome.seconds:.1f} s, {memory}")
    for text in outcome.said:
        print(f"    {text}")
    for text in outcome.failures:
        print(f"    {outcome.verdict}: {text}")
    sys.stdout.flush()


async def pair(case: Case, *, is_full: bool, n: int | None) -> list[Outcome]:
    size = case.sizes[is_full] if n is None or case.name in special.RUNS else n
    show(small := await _run(case, size))
    large = await _run(case, 10 * size)
    compare(small, large, scales=case.scales, once_each=case.once_each, is_full=is_full)
    show(large)
    return [small, large]


async def _run(case: Case, n: int) -> Outcome:
    try:
        return await (special.RUNS.get(case.name) or run)(case, n)
    except Exception as exc:  # noqa: BLE001 - the other cases run in any case
        return Outcome(case.name, n, failures=[f"the suite could not run it: {exc!r}"])


def main() -> int:
    asked = arguments(sys.argv[1:])
    known = {case.name: case for case in (*CASES, *special.CASES)}
    if asked.list:
        print("\n".join(known))
        return 0
    if unknown := set(asked.cases) - known.keys():
        raise SystemExit(f"no case {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    enter_namespaces("tests.scale.run")
    end_at_signal()
    outcomes: list[Outcome] = []
    for name in asked.cases or known:
        outcomes += asyncio.run(pair(known[name], is_full=asked.full, n=asked.n))
    print(f"\n{table(outcomes)}\n")
    failed = [outcome for outcome in outcomes if outcome.verdict == "FAILED"]
    for outcome in failed:
        print(f"FAILED {outcome.case} {outcome.n}: {'; '.join(outcome.failures)}")
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} runs are right")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
