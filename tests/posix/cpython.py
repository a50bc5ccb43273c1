"""CPython's own tests of files, run where the interpreter has them (Debian: libpython3-testsuite).

Which cases there are differs from version to version, so an exclusion need not be needed by each.
"""

import sys
from fnmatch import fnmatchcase
from pathlib import Path

from lxml import etree

from tests.posix.limits import excluded
from tests.posix.place import Place


def run(place: Place, module: str, results: Path, *, within_s: float) -> None:
    """Run one module's cases in the mount, with TMPDIR there, too; all but the excluded must pass.

    results: a file outside of it.
    """
    for name in ("cwd", "tmp"):
        (place.root / name).mkdir()
    skipped = [word for pattern in excluded("cpython") for word in ("--ignore", pattern)]
    done = place.run(
        *(sys.executable, "-m", "test", "--tempdir", place.root / "cwd", "--junit-xml", results),
        *("-v", *skipped, module),
        within_s=within_s,
        env={"TMPDIR": str(place.root / "tmp")},
    )
    assert results.exists(), done.stdout[-5000:]
    cases = etree.parse(results).getroot().iter("testcase")
    outcome = {c.get("name"): {e.tag for e in c} for c in cases}
    passed = [name for name, tags in outcome.items() if not tags & {"failure", "error"}]
    assert passed, done.stdout[-5000:]
    assert not any(fnmatchcase(c, p) for c in passed for p in excluded("cpython"))
    assert done.returncode == 0, done.stdout[-5000:]
