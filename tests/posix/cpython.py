"""CPython's own tests of files, run where the interpreter has them (Debian: libpython3-testsuite).

Which cases there are differs from version to version, so an exclusion need not be needed by each.
"""

import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from lxml import etree

from tests.posix.limits import excluded
from tests.posix.place import Place


def run(
    place: Place, module: str, results: Path, *, within_s: float, only: Sequence[str] = ()
) -> None:
    """Run one module's cases in the mount, with TMPDIR there; all but the excluded must pass.

    results: a file outside of it. only: patterns of cases; default: all.
    """
    for name in ("cwd", "tmp"):
        (place.root / name).mkdir()
    skipped = [word for pattern in excluded("cpython") for word in ("--ignore", pattern)]
    chosen = [word for pattern in only for word in ("--match", pattern)]
    done = place.run(
        *(sys.executable, "-m", "test", "--tempdir", place.root / "cwd", "--junit-xml", results),
        *("-v", *skipped, *chosen, module),
        within_s=within_s,
        env={"TMPDIR": str(place.root / "tmp")},
    )
    assert results.exists(), done.stdout[-5000:]
    cases = etree.parse(results).getroot().iter("testcase")
    outcome = {c.get("name"): {e.tag for e in c} for c in cases}
    assert outcome, done.stdout[-5000:]
    assert {c: tags for c, tags in outcome.items() if tags & {"failure", "error"}} == {}
    assert done.returncode == 0, done.stdout[-5000:]
    assert not any(fnmatchcase(c, p) for c in outcome for p in excluded("cpython"))
