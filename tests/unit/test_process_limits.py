"""Limits of a process, tried in processes of their own."""

import json
import subprocess
import sys

MIB = 1 << 20

DATA = """
import json, sys, threading
from csi_s3.kernel.process_limits import limit_data
limit = limit_data(int(sys.argv[1]) << 20)
held, refused = [], None
try:
    for _ in range(4 * int(sys.argv[1])):
        held.append(bytearray(1 << 20))
except MemoryError:
    refused = len(held)
held.clear()
again = len(bytearray(int(sys.argv[1]) // 2 << 20))
print(json.dumps({"limit": limit, "refused": refused, "again": again}))
"""


def outcome(script: str, *args: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_allocation_beyond_the_limit_fails_and_the_process_goes_on():
    for mib in (16, 160):
        found = outcome(DATA, str(mib))
        assert found["limit"] > mib * MIB
        assert mib - 8 <= found["refused"] <= mib + 1
        assert found["again"] == mib // 2 * MIB


HIDDEN = """
import json, os, resource
from csi_s3.kernel.process_limits import hide_memory, set_process_name
hide_memory()
set_process_name("more-than-15-characters")
print(json.dumps({
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "owner": os.stat("/proc/self/environ").st_uid,
    "name": open("/proc/self/comm").read().strip(),
}))
"""


def test_a_hidden_process_writes_no_core_and_still_gets_its_name():
    found = outcome(HIDDEN)
    assert found == {"core": [0, 0], "owner": 0, "name": "more-than-15-ch"}
