"""The workloads: what a program does on the mount under test, and whether the result is right.

    python -m tests.scale.work NAME DIRECTORY N ENDPOINT

Prints one line of JSON when it ends: {"failure": what is wrong or "", "said": remarks}. DIRECTORY
is the mount, ENDPOINT its made-up bucket. Sizes and bytes of computed files: `made_up_bucket`.
"""

import json
import resource
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from tests.scale import work_files, work_names
from tests.scale.work_base import PROGRAMS, Place, WrongResultError

MODULES = (work_files, work_names)  # they enter themselves into PROGRAMS


def main(name: str, directory: Path, n: int, endpoint: str) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with suppress(ValueError):  # more than this machine allows
        resource.setrlimit(resource.RLIMIT_NOFILE, (n + 1000, max(n + 1000, hard)))
    failure = said = ""
    try:
        said = PROGRAMS[name](Place(directory, n, endpoint)) or ""
    except WrongResultError as exc:
        failure = str(exc)
    except OSError as exc:
        line = traceback.extract_tb(exc.__traceback__)[-1]
        failure = f"{exc} ({Path(line.filename).name}:{line.lineno})"
    print(json.dumps({"failure": failure, "said": said}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
