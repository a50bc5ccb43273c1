"""Steady small work on the second volume: a line of JSON for each step, until it is ended.

    python -m tests.scale.neighbour DIRECTORY

A step looks a name up, reads a file, and writes one of a few files. The line: when it began
(CLOCK_MONOTONIC, seconds), how long it took, and its error or "".
"""

import json
import sys
import time
from pathlib import Path

PAUSE_S = 0.1
FILES = 20
CONTENT = b"steady\n" * 100


def step(directory: Path, i: int) -> None:
    (directory / f"missing-{i % FILES}").exists()
    path = directory / f"file-{i % FILES}"
    path.write_bytes(CONTENT + b"%d\n" % i)
    if path.stat().st_size != len(CONTENT + b"%d\n" % i):
        raise OSError("a wrong size")
    if path.read_bytes() != CONTENT + b"%d\n" % i:
        raise OSError("wrong bytes")


def main(directory: Path) -> None:
    i = 0
    while True:
        began, error = time.monotonic(), ""
        try:
            step(directory, i)
        except OSError as exc:
            error = repr(exc)
        line = {"began": began, "took": time.monotonic() - began, "error": error}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        i += 1
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
