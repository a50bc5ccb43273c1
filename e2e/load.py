"""A workload's load, run inside a pod: writes, reads back, lists and removes until SIGTERM.

    python load.py DIRECTORY

Prints each error, and at its end `rounds N errors M`; a round that fails is not tried again.
"""

import hashlib
import os
import signal
import sys

ROUNDS_KEPT = 8


def one(directory, number):
    size = (3 << 20) if number % 10 == 0 else (64 << 10)
    data = hashlib.sha256(str(number).encode()).digest() * (size // 32)
    path = f"{directory}/f{number}"
    with open(path, "wb") as file:  # noqa: PTH123 # runs alone, in a bare interpreter
        file.writelines(data[start : start + (64 << 10)] for start in range(0, size, 64 << 10))
    with open(path, "rb") as file:  # noqa: PTH123
        if file.read() != data:
            raise ValueError(f"{path} is not what was written")
    if os.path.basename(path) not in os.listdir(directory):  # noqa: PTH119, PTH208
        raise ValueError(f"{path} is not listed")
    if number >= ROUNDS_KEPT:
        os.remove(f"{directory}/f{number - ROUNDS_KEPT}")  # noqa: PTH107


def main(directory):
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    rounds = errors = 0
    print("started", flush=True)
    while not stop:
        try:
            one(directory, rounds)
        except Exception as exc:  # noqa: BLE001 # whatever it is, it is counted
            errors += 1
            print(f"error in round {rounds}: {exc!r}", flush=True)
        rounds += 1
        if rounds % 20 == 0:
            print(f"round {rounds}", flush=True)
    print(f"rounds {rounds} errors {errors}", flush=True)


main(sys.argv[1])
