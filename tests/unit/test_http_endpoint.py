"""The HTTP endpoint of node and mounter."""

import asyncio
import contextlib
import socket
import threading
import time

import pytest

from csi_s3.errors import BadOptionError
from csi_s3.obs import http_endpoint
from csi_s3.obs.http_endpoint import EndpointLimits
from tests.scraping import get

DEADLINE_S = 10


class Program:
    """Answers with what a test sets."""

    reason = None

    def ready(self):
        return self.reason

    async def collect(self):
        return b"csi_s3_x 1\n"

    def serving(self, address=("127.0.0.1", 0), **limits):
        limits = EndpointLimits(**limits)
        return http_endpoint.serving(address, self.ready, self.collect, limits)


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


async def test_a_stuck_event_loop_is_not_alive():
    found = []
    with Program().serving(live_s=0.05) as port:
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


async def test_a_scrape_that_takes_too_long_is_given_up_and_cancelled():
    program, cancelled = Program(), asyncio.Event()

    async def collect():
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    program.collect = collect
    with program.serving(collect_s=0.05) as port:
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
    assert threads() == []


async def test_a_port_that_is_taken_is_named():
    with (
        Program().serving() as port,
        pytest.raises(BadOptionError, match=f"127.0.0.1:{port}: .*Address already in use"),
        Program().serving(("127.0.0.1", port)),
    ):
        pass


@pytest.mark.parametrize("host", ["nonsense.invalid", "203.0.113.1", "::zz"])
async def test_an_address_that_cannot_be_listened_on_is_refused(host):
    with (
        pytest.raises(BadOptionError, match=f"--http-address {host}:0"),
        Program().serving((host, 0)),
    ):
        pass


async def test_no_address_serves_nothing():
    with Program().serving(None) as port:
        assert (port, threads()) == (0, [])


@pytest.mark.parametrize("host", ["", "::"])
async def test_all_addresses_are_those_of_both_versions(host):
    with Program().serving((host, 0)) as port:
        assert await ask(port, "/healthz") == (200, "ok\n")
        if socket.has_dualstack_ipv6():
            answer = await raw(port, b"GET /healthz HTTP/1.0\r\n\r\n", host="::1")
            assert answer.endswith(b"ok\n")


async def test_silent_connections_do_not_keep_a_probe_from_its_answer():
    most = 4
    with (
        Program().serving(connections=most, request_s=DEADLINE_S) as port,
        contextlib.ExitStack() as closing,
    ):
        silent = []
        for _ in range(10 * most):
            sock = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
            silent.append(closing.enter_context(sock))
            assert await ask(port, "/healthz") == (200, "ok\n")
        for sock in silent[: -most + 1]:  # those that waited longest have made room
            assert await asyncio.to_thread(is_closed, sock)
        assert len(threads()) == 1


async def test_a_burst_of_silent_connections_leaves_no_more_open_than_the_limit():
    most = 4
    with (
        Program().serving(connections=most, request_s=DEADLINE_S) as port,
        contextlib.ExitStack() as closing,
    ):
        silent = []
        for _ in range(5):
            for _ in range(60):  # faster than the endpoint's loop turns
                sock = socket.socket()
                silent.append(closing.enter_context(sock))
                sock.connect(("127.0.0.1", port))
            assert await ask(port, "/healthz") == (200, "ok\n")
        for sock in silent[:-most]:
            sock.settimeout(DEADLINE_S)
            assert await asyncio.to_thread(is_closed, sock)


async def test_requests_beyond_the_limit_are_refused_and_not_queued():
    program, asked, go_on = Program(), asyncio.Event(), asyncio.Event()

    async def collect():
        asked.set()
        await go_on.wait()
        return b"1\n"

    program.collect = collect
    with program.serving(connections=1) as port:
        waiting = asyncio.create_task(ask(port, "/metrics"))
        await asked.wait()
        assert await raw(port, b"GET /healthz HTTP/1.0\r\n\r\n") == b""
        go_on.set()
        assert await waiting == (200, "1\n")


class Clients:
    """Threads that ask for one page again and again, as fast as they are answered."""

    def __init__(self, port, path, number):
        self.answers = [0] * number
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(port, path, at)) for at in range(number)
        ]

    def _ask(self, port, path, at):
        while not self._end.is_set():
            with contextlib.suppress(OSError):  # refused or closed: asks again
                get(port, path)
            self.answers[at] += 1

    async def __aenter__(self):
        for thread in self._threads:
            thread.start()
        while not all(self.answers):
            await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *exc):
        self._end.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)


@pytest.mark.parametrize("page", ["/metrics", "/healthz"])
@pytest.mark.parametrize("number", [20, 40])
async def test_probes_are_answered_however_many_clients_ask_in_a_loop(number, page):
    program, most = Program(), []

    async def collect():
        most.append(most[-1] + 1 if most else 1)
        await asyncio.sleep(0.1)  # as with 16 volumes
        most.append(most[-1] - 1)
        return b"csi_s3_x 1\n"

    program.collect = collect
    with program.serving(fresh_s=0) as port:
        async with Clients(port, page, number):
            for _ in range(15):
                assert await ask(port, "/healthz") == (200, "ok\n")
                assert await ask(port, "/readyz") == (200, "ok\n")
    assert max(most, default=0) == (page == "/metrics")


async def test_one_collection_serves_all_who_ask_within_its_second():
    program, collections, asked, go_on = Program(), [], asyncio.Event(), asyncio.Event()

    async def collect():
        collections.append(1)
        asked.set()
        await go_on.wait()
        return b"%d\n" % len(collections)

    program.collect = collect
    with program.serving(fresh_s=DEADLINE_S * 100, scrapes=8) as port:
        waiting = [asyncio.create_task(ask(port, "/metrics")) for _ in range(8)]
        await asked.wait()
        go_on.set()
        assert {await task for task in waiting} == {(200, "1\n")}
        assert [await ask(port, "/metrics") for _ in range(8)] == [(200, "1\n")] * 8
    with program.serving(fresh_s=0) as port:
        assert [await ask(port, "/metrics") for _ in range(2)] == [(200, "2\n"), (200, "3\n")]


async def test_a_client_that_goes_away_does_not_end_the_collection_of_others():
    program, asked, go_on = Program(), asyncio.Event(), asyncio.Event()

    async def collect():
        asked.set()
        await go_on.wait()
        return b"1\n"

    program.collect = collect
    with program.serving() as port:
        with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as first:
            first.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            await asked.wait()
        waiting = asyncio.create_task(ask(port, "/metrics"))
        assert await ask(port, "/healthz") == (200, "ok\n")  # the other one has asked by now
        go_on.set()
        assert await waiting == (200, "1\n")


async def test_metrics_have_places_of_their_own_and_probes_need_none():
    program, asked, go_on = Program(), asyncio.Event(), asyncio.Event()

    async def collect():
        asked.set()
        await go_on.wait()
        return b"1\n"

    program.collect = collect
    with program.serving(scrapes=1) as port:
        waiting = asyncio.create_task(ask(port, "/metrics"))
        await asked.wait()
        assert await ask(port, "/metrics") == (503, "too many ask at a time: try again\n")
        assert await ask(port, "/healthz") == (200, "ok\n")
        go_on.set()
        assert await waiting == (200, "1\n")


async def test_clients_that_do_not_read_hold_the_places_of_metrics_only():
    program, collected = Program(), asyncio.Event()

    async def collect():
        collected.set()
        return b"x" * (32 << 20)  # more than the sockets' buffers

    program.collect = collect
    with (
        program.serving(request_s=DEADLINE_S, scrapes=2, connections=64) as port,
        contextlib.ExitStack() as closing,
    ):
        for _ in range(2):
            slow = closing.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE_S))
            slow.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        async with asyncio.timeout(DEADLINE_S):
            await collected.wait()
        for path in ["/metrics", "/healthz", "/readyz"] * 20:
            slow = closing.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE_S))
            slow.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        assert await ask(port, "/healthz") == (200, "ok\n")
        assert (await ask(port, "/metrics"))[0] == 503


async def test_a_client_that_does_not_read_its_answer_is_cut_off():
    program, collected = Program(), asyncio.Event()

    async def collect():
        collected.set()
        return b"x" * (32 << 20)  # more than the sockets' buffers

    program.collect = collect
    with (
        program.serving(request_s=0.2, connections=1) as port,
        socket.create_connection(("127.0.0.1", port), DEADLINE_S) as slow,
    ):
        slow.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        async with asyncio.timeout(DEADLINE_S):
            await collected.wait()
            while await raw(port, b"GET /healthz HTTP/1.0\r\n\r\n") == b"":
                await asyncio.sleep(0.01)  # its place is free when it is cut off


@pytest.mark.parametrize(
    "request_", [b"POST /healthz HTTP/1.0", b"GET", b"\xff\xfe \xfd", b"GET / HTTP/1.0 again"]
)
async def test_what_is_no_request_for_a_page_is_refused(request_):
    with Program().serving() as port:
        assert (await raw(port, request_ + b"\r\n\r\n")).startswith(b"HTTP/1.0 400 ")


async def test_a_request_without_end_is_cut_off_before_it_fills_memory():
    with Program().serving(request_s=DEADLINE_S) as port:
        assert await raw(port, b"GET /healthz HTTP/1.0\r\nX: " + b"x" * (1 << 20)) == b""


async def test_a_request_that_never_ends_is_cut_off():
    with (
        Program().serving(request_s=0.2) as port,
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
    return [t.name for t in threading.enumerate() if t.name == "http-endpoint"]


def is_closed(sock):
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


async def raw(port, request, *, host="127.0.0.1"):
    def talk():
        with socket.create_connection((host, port), DEADLINE_S) as sock:
            found = b""
            with contextlib.suppress(ConnectionError):
                sock.sendall(request)
                while piece := sock.recv(1 << 16):
                    found += piece
            return found

    return await asyncio.to_thread(talk)
