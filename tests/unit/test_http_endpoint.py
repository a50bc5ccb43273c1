"""The HTTP endpoint of node and mounter."""

import asyncio
import contextlib
import socket
import threading
import time

import pytest

from csi_s3.errors import BadOptionError
from csi_s3.obs import http_endpoint
from tests.scraping import get

DEADLINE_S = 10


class Program:
    """Gives the answers that the test sets."""

    reason = None

    async def live(self):
        pass

    def ready(self):
        return self.reason

    async def collect(self):
        return b"csi_s3_x 1\n"

    def serving(self, address="127.0.0.1:0"):
        return http_endpoint.serving(
            address, live=self.live, ready=self.ready, collect=self.collect
        )


async def ask(port, path):
    return await asyncio.to_thread(get, port, path)


async def test_each_page_is_answered():
    with Program().serving() as port:
        assert await ask(port, "/metrics") == (200, "csi_s3_x 1\n")
        assert await ask(port, "/metrics?x=y") == (200, "csi_s3_x 1\n")
        assert await ask(port, "/healthz") == (200, "ok\n")
        assert await ask(port, "/readyz") == (200, "ok\n")
        status, text = await ask(port, "/")
        assert (status, text) == (404, "there are /metrics, /healthz, /readyz\n")


async def test_the_content_type_is_the_one_prometheus_knows():
    with Program().serving() as port:
        answer = await raw(port, b"GET /metrics HTTP/1.0\r\n\r\n")
    assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in answer
    assert answer.endswith(b"\r\n\r\ncsi_s3_x 1\n")


async def test_head_has_no_body():
    with Program().serving() as port:
        answer = await raw(port, b"HEAD /healthz HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 200 ")
    assert answer.endswith(b"\r\n\r\n")


async def test_what_is_not_ready_says_why():
    program = Program()
    program.reason = "no mounter is connected"
    with program.serving() as port:
        assert await ask(port, "/readyz") == (503, "no mounter is connected\n")
        assert await ask(port, "/healthz") == (200, "ok\n")


async def test_a_stuck_event_loop_is_not_alive(monkeypatch):
    monkeypatch.setattr(http_endpoint, "ALIVE_WITHIN_S", 0.05)
    found = []
    with Program().serving() as port:
        asking = threading.Thread(target=lambda: found.append(get(port, "/healthz")))
        asking.start()
        asking.join(DEADLINE_S)  # on the loop's own thread: it cannot answer
    assert found == [(503, "the event loop does not answer in time\n")]


@pytest.mark.warnings_expected("/metrics could not be answered")
async def test_a_failure_is_an_answer_without_its_text():
    program = Program()

    async def collect():
        raise RuntimeError("a secret")

    program.collect = collect
    with program.serving() as port:
        assert await ask(port, "/metrics") == (503, "RuntimeError: see the log\n")


async def test_a_scrape_that_takes_too_long_is_given_up_and_cancelled(monkeypatch):
    monkeypatch.setattr(http_endpoint, "COLLECTED_WITHIN_S", 0.05)
    program, cancelled = Program(), asyncio.Event()

    async def collect():
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    program.collect = collect
    with program.serving() as port:
        assert (await ask(port, "/metrics"))[0] == 503
        async with asyncio.timeout(DEADLINE_S):
            await cancelled.wait()


async def test_the_end_answers_who_waits_and_leaves_no_thread():
    program, asked = Program(), asyncio.Event()

    async def collect():
        asked.set()
        await asyncio.Event().wait()

    program.collect = collect
    with program.serving() as port:
        waiting = asyncio.create_task(raw(port, b"GET /metrics HTTP/1.0\r\n\r\n"))
        await asked.wait()
    assert b"200" not in await waiting
    with pytest.raises(ConnectionRefusedError):
        await raw(port, b"")
    await until(lambda: threads() == [])


async def test_a_port_that_is_taken_is_named():
    with (
        Program().serving() as port,
        pytest.raises(BadOptionError, match=f"127.0.0.1:{port}: .*Address already in use"),
        Program().serving(f"127.0.0.1:{port}"),
    ):
        pass


@pytest.mark.parametrize("address", ["nonsense", "1.2.3.4", "[::1:80", "127.0.0.1:99999"])
async def test_an_address_where_nobody_can_listen_is_refused(address):
    with pytest.raises(BadOptionError, match="--http-address"), Program().serving(address):
        pass


async def test_no_address_serves_nothing():
    with Program().serving("") as port:
        assert (port, threads()) == (0, [])


@pytest.mark.parametrize("address", [":0", "[::]:0"])
async def test_all_addresses_are_those_of_both_versions(address):
    with Program().serving(address) as port:
        assert await ask(port, "/healthz") == (200, "ok\n")
        if socket.has_dualstack_ipv6():
            answer = await raw(port, b"GET /healthz HTTP/1.0\r\n\r\n", host="::1")
            assert answer.endswith(b"ok\n")


async def test_silent_connections_do_not_keep_a_probe_from_its_answer():
    with Program().serving() as port, contextlib.ExitStack() as silent:
        for _ in range(3 * http_endpoint.CONNECTIONS):
            silent.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE_S))
            assert await ask(port, "/healthz") == (200, "ok\n")
        assert len(threads()) <= http_endpoint.CONNECTIONS + 2


async def test_a_request_that_never_ends_is_cut_off(monkeypatch):
    monkeypatch.setattr(http_endpoint, "REQUEST_WITHIN_S", 0.2)
    with (
        Program().serving() as port,
        socket.create_connection(("127.0.0.1", port), DEADLINE_S) as slow,
    ):
        deadline_s = time.monotonic() + DEADLINE_S

        def drip():
            """A byte now and then, faster than the deadline of one read."""
            with contextlib.suppress(OSError):
                while time.monotonic() < deadline_s:
                    slow.send(b"G")
                    slow.settimeout(0.05)
                    with contextlib.suppress(TimeoutError):
                        return slow.recv(1)
            return b""

        assert await asyncio.to_thread(drip) == b""
        assert time.monotonic() < deadline_s


def threads():
    names = [thread.name for thread in threading.enumerate()]
    return [n for n in names if "process_request" in n or "serve_forever" in n]


async def raw(port, request, *, host="127.0.0.1"):
    def talk():
        with socket.create_connection((host, port), DEADLINE_S) as sock:
            sock.sendall(request)
            found = b""
            with contextlib.suppress(ConnectionError):
                while piece := sock.recv(1 << 16):
                    found += piece
            return found

    return await asyncio.to_thread(talk)


async def until(is_so):
    async with asyncio.timeout(DEADLINE_S):
        while not is_so():
            await asyncio.sleep(0.01)
