"""The pod of the demo: reads and writes a mounted directory with pandas as an ordinary user.

    python -m csi_s3.local.workload DIRECTORY UID

Starts as root and gives up every right before it touches the directory, because the user could
not reach a Python that is installed below /root. What pandas would import later is imported
first, by doing the same elsewhere.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd


def main() -> None:
    directory, uid = Path(sys.argv[1]), int(sys.argv[2])
    _warm_up()
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    sys.stdout.write(json.dumps(work(directory)))


def work(directory: Path) -> dict[str, Any]:
    """What a notebook does; names and figures of what it saw."""
    began = time.monotonic()
    names = sorted(os.listdir(directory))  # noqa: PTH208 - what people type
    csv = pd.read_csv(directory / "sales.csv")
    parquet = pd.read_parquet(directory / "sales.parquet")
    if not csv.equals(parquet):
        raise AssertionError("sales.csv and sales.parquet differ")
    by_region = parquet.groupby("region", as_index=False)["amount"].sum()
    by_region.to_parquet(directory / "by_region.parquet")
    scratch = directory / "scratch.txt"
    scratch.write_text("written, read, removed\n")
    read_back = scratch.read_text()
    scratch.unlink()
    return {
        "uid": os.getuid(),
        "names": names,
        "rows": len(csv),
        "by_region": by_region.to_dict("records"),
        "scratch": read_back,
        "after": sorted(os.listdir(directory)),  # noqa: PTH208
        "seconds": time.monotonic() - began,
    }


def _warm_up() -> None:
    """Do all of the work once, elsewhere: pandas imports as late as in the last call."""
    frame = pd.DataFrame({"region": ["north", "south"], "amount": [1, 2]})
    with tempfile.TemporaryDirectory() as directory:
        frame.to_csv(f"{directory}/sales.csv", index=False)
        frame.to_parquet(f"{directory}/sales.parquet")
        work(Path(directory))


if __name__ == "__main__":
    main()
