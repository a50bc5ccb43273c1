"""The pod of the demo: reads and writes a mounted directory with pandas as an ordinary user.

    python -m csi_s3.local.workload DIRECTORY UID

It starts as root, because an ordinary user cannot reach a Python installed below /root, and drops
all privileges before it touches the directory. It first runs the same code in another directory, so
that pandas does not import anything later.
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
    """Do what a notebook does; returns what it found, and how long it took."""
    began = time.monotonic()
    names = sorted(os.listdir(directory))  # noqa: PTH208 - as in a notebook
    csv = pd.read_csv(directory / "sales.csv")
    parquet = pd.read_parquet(directory / "sales.parquet")
    if not csv.equals(parquet):
        raise AssertionError("sales.csv and sales.parquet differ")
    by_region = parquet.groupby("region", as_index=False)["amount"].sum()
    by_region.to_parquet(directory / "by_region.parquet")
    scratch = directory / "scratch.txt"
    scratch.write_text("written, read, removed\n")
    scratch.read_text()
    scratch.unlink()
    return {
        "names": names,
        "rows": len(csv),
        "by_region": by_region.to_dict("records"),
        "seconds": time.monotonic() - began,
    }


def _warm_up() -> None:
    """Run the workload once elsewhere, because pandas imports lazily up to the last call."""
    frame = pd.DataFrame({"region": ["north", "south"], "amount": [1, 2]})
    with tempfile.TemporaryDirectory() as directory:
        frame.to_csv(f"{directory}/sales.csv", index=False)
        frame.to_parquet(f"{directory}/sales.parquet")
        work(Path(directory))


if __name__ == "__main__":
    main()
