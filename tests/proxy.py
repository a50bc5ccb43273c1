"""An HTTP proxy on loopback that alone resolves some host names: CONNECT and plain GET."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Proxy:
    """asked: each request's first line. login: the NAME:PASSWORD that it requires, if any."""

    url: str = ""
    login: str = ""
    asked: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            line, *headers = head.decode().split("\r\n")
            self.asked.append(line)
            method, target, _ = line.split(" ")
            if self.login and not self._is_let_in(headers):
                writer.write(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
                return
            port = int(target.rpartition(":")[2]) if method == "CONNECT" else urlsplit(target).port
            there = await asyncio.open_connection("127.0.0.1", port)
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                path = target.partition("://")[2].partition("/")[2]
                there[1].write(head.replace(target.encode(), f"/{path}".encode(), 1))
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass_on(reader, there[1]))
                group.create_task(_pass_on(there[0], writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _is_let_in(self, headers: list[str]) -> bool:
        wanted = base64.b64encode(self.login.encode()).decode()
        return f"Proxy-Authorization: Basic {wanted}" in headers


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def running_proxy(login: str = "") -> AsyncIterator[Proxy]:
    proxy, tasks = Proxy(login=login), set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(proxy.serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    proxy.url = f"http://{login}@127.0.0.1:{port}" if login else f"http://127.0.0.1:{port}"
    try:
        yield proxy
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
