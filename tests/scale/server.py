"""A made-up bucket's process, and what a suite asks of it beside S3."""

import asyncio
import json
import sys
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.scale.made_up_bucket import OWN
from tests.scraping import free_port

START_WITHIN_S = 30
ANSWER_WITHIN_S = 30


def tell(endpoint: str, what: str, body: object = None) -> Any:
    """Ask the server at this endpoint; also for workloads. Blocking."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{endpoint}{OWN}{what}", data=data)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=ANSWER_WITHIN_S) as answer:
        return json.loads(answer.read())


class MadeUpServer:
    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    async def counts(self) -> Counter[str]:
        return Counter(await asyncio.to_thread(tell, self.endpoint, "counts"))

    async def peak_mib(self) -> int:
        return int(await asyncio.to_thread(tell, self.endpoint, "memory")) >> 10

    async def set_rules(self, rules: Sequence[Mapping[str, Any]]) -> None:
        await asyncio.to_thread(tell, self.endpoint, "rules", list(rules))


@asynccontextmanager
async def made_up_server(layout: Mapping[str, Mapping[str, int]]) -> AsyncIterator[MadeUpServer]:
    """layout: see `made_up_bucket`."""
    port = free_port()
    words = [sys.executable, "-m", "tests.scale.made_up_bucket", str(port), json.dumps(layout)]
    process = await asyncio.create_subprocess_exec(
        "setpriv", "--pdeathsig", "KILL", *words, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(START_WITHIN_S):
            line = await process.stdout.readline()
        if line != b"serving\n":
            raise RuntimeError(f"the made-up bucket does not serve: {line!r}")
        yield MadeUpServer(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        await process.wait()
