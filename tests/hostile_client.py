"""The client of a hostile store, in a process of its own whose memory is measured.

    python -m tests.hostile_client ENDPOINT TOTAL_S GET_BYTES [CA_BUNDLE]

TOTAL_S: the deadline of an attempt. Each line of stdin, {"kinds": [...]}, names requests to send at
once, and is answered by a line {"outcomes": {kind: {...}}, "grown_bytes": N}. "room_bytes": how
much more the process may allocate for them.
"""

import asyncio
import gc
import json
import re
import resource
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from csi_s3.config.volume import BucketConfig
from csi_s3.errors import CredentialsError, VolumeError
from csi_s3.fs.listings.pages import Pages
from csi_s3.s3.bucket import Bucket, open_bucket
from csi_s3.s3.credentials.instance_credentials import ContainerCredentials, InstanceCredentials
from csi_s3.s3.credentials.refresh import CredentialClock
from csi_s3.s3.credentials.web_identity import WebIdentity
from csi_s3.s3.http import HttpDeadlines
from csi_s3.s3.store import ObjectInfo, Part
from tests.hostile_store import DATA, ETAG

OBJECT = ObjectInfo(key="k", size=len(DATA), etag=ETAG.decode(), last_modified=0.0)
METADATA_WITHIN_S = 2.0


def resident(name: str) -> int:
    """VmSize, VmRSS, or VmHWM (the highest VmRSS since it was cleared), in bytes."""
    status = Path("/proc/self/status").read_text("ascii")
    return int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) << 10


async def at_once(_seconds: float) -> None:
    await asyncio.sleep(0)


def calls(
    bucket: Bucket, endpoint: str, token: Path, get_bytes: int
) -> dict[str, Callable[[], Awaitable[Any]]]:
    async def upload(step: str) -> None:
        made = await bucket.create_upload("k")
        if step == "PART":
            await made.part(1, DATA)
        elif step == "PART-COPY":
            await made.part_from(1, OBJECT, 0, len(DATA))
        elif step == "COMPLETE":
            await made.complete([Part(number=1, etag=OBJECT.etag, size=len(DATA))])
        elif step == "ABORT":
            await made.abort()

    async def found(source: Any) -> None:
        result = await source.find()
        if isinstance(result, str):
            raise CredentialsError(result)

    async def every_page() -> None:
        pages = Pages(bucket, "")
        while not pages.is_over:
            await pages.following()

    sts = WebIdentity(token, "arn:aws:iam::1:role/r", url=lambda: f"{endpoint}/sts", session="s",
                      pause=at_once)  # fmt: skip
    agent = ContainerCredentials(f"{endpoint}/agent", within_s=METADATA_WITHIN_S, pause=at_once)
    imds = InstanceCredentials(
        f"{endpoint}/imds", CredentialClock(), within_s=METADATA_WITHIN_S, pause=at_once
    )
    return {
        "LIST": lambda: bucket.list_page(""),
        "PAGES": every_page,
        "HEAD": lambda: bucket.head("k"),
        "GET": lambda: bucket.read_range("k", 0, get_bytes),
        "GET-VERSION": lambda: bucket.read_range("k", 0, get_bytes, etag=OBJECT.etag),
        "PUT": lambda: bucket.put("k", DATA),
        "GET-TAGS": lambda: bucket.put("k", DATA, like=OBJECT),
        "COPY": lambda: bucket.copy(OBJECT, "other"),
        "DELETE": lambda: bucket.delete("k"),
        "DELETE-MANY": lambda: bucket.delete_many([("k", ""), ("l", "")]),
        "STS": lambda: found(sts),
        "AGENT": lambda: found(agent),
        "IMDS": lambda: found(imds),
        **{
            step: lambda step=step: upload(step)
            for step in ("CREATE-UPLOAD", "PART", "PART-COPY", "COMPLETE", "ABORT")
        },
    }


async def outcome(call: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
    """Of one request: the error's class, number and texts; or the traceback of what is no error."""
    try:
        await call()
    except VolumeError as exc:
        texts = [exc.what, exc.hint, exc.public]
        is_clean = all(text.replace("\n", "").isprintable() for text in texts)
        return {"error": type(exc).__name__, "errno": exc.errno, "texts": ascii(texts),
                "is_clean": is_clean and max(map(len, texts)) < 2000}  # fmt: skip
    except Exception:  # noqa: BLE001 - the test fails with it
        return {"bug": traceback.format_exc()}
    return {}


async def serve(endpoint: str, total_s: float, get_bytes: int, ca_bundle: str = "") -> None:
    config = BucketConfig(
        bucket="bkt", endpoint_url=endpoint, max_attempts=2, ca_bundle=ca_bundle or None
    )
    deadlines = HttpDeadlines(connect_s=total_s, total_s=total_s)
    loop = asyncio.get_running_loop()
    with tempfile.NamedTemporaryFile() as token:
        Path(token.name).write_text("token")
        async with open_bucket(config, pause=at_once, deadlines=deadlines) as bucket:
            known = calls(bucket, endpoint, Path(token.name), get_bytes)
            gc.collect()
            gc.freeze()
            while line := await loop.run_in_executor(None, sys.stdin.readline):
                question = json.loads(line)
                kinds = question["kinds"]
                gc.collect()
                Path("/proc/self/clear_refs").write_text("5")
                before = resident("VmRSS")
                if (room_bytes := question["room_bytes"]) is not None:
                    most = resident("VmSize") + room_bytes
                    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
                found = await asyncio.gather(*(outcome(known[kind]) for kind in kinds))
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
                answer = {
                    "outcomes": dict(zip(kinds, found, strict=True)),
                    "grown_bytes": resident("VmHWM") - before,
                }
                sys.stdout.write(json.dumps(answer) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]))
