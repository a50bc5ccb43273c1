"""The link's channel, over real sockets and with real descriptors."""

import asyncio
import os
import socket
from pathlib import Path

import pytest
import uvloop

from csi_s3.link import messages, unix_socket
from csi_s3.link.channel import (
    MAX_FDS,
    MAX_MESSAGE_BYTES,
    Channel,
    MessageTooLargeError,
    connect,
    listen,
)

WITHIN_S = 20
NULL = Path("/dev/null")


@pytest.fixture
def pair():
    one, sock = Channel.pair()
    two = Channel(sock)
    yield one, two
    one.close()
    two.close()


@pytest.fixture
def raw():
    """A channel and, at its other end, a peer that need not speak our language."""
    channel, sock = Channel.pair()
    yield channel, sock
    channel.close()
    sock.close()


def same_file(a: int, b: int) -> bool:
    return os.path.sameopenfile(a, b)


async def test_a_message_arrives_with_its_type_body_and_descriptor(pair):
    one, two = pair
    with NULL.open("rb") as file:
        await one.send("serve", {"init": "68", "spec": {"n": 1}}, [file.fileno()])
        message = await two.receive()
        fd = message.take_fd()
        assert (message.type, message.body) == ("serve", {"init": "68", "spec": {"n": 1}})
        assert fd != file.fileno()
        assert same_file(fd, file.fileno())
        assert not os.get_inheritable(fd)
        os.close(fd)


async def test_each_message_keeps_its_own_descriptors_and_the_order_holds(pair):
    one, two = pair
    pipes = [os.pipe() for _ in range(3)]
    for number, (_, write) in enumerate(pipes):
        await one.send("have", {"n": number}, [write])
    for number, (_, write) in enumerate(pipes):
        message = await two.receive()
        assert message.body == {"n": number}
        fd = message.take_fd()
        assert same_file(fd, write)
        os.close(fd)
    for end in (fd for pipe in pipes for fd in pipe):
        os.close(end)


async def test_take_fd_of_a_message_without_one_names_the_message(pair):
    one, two = pair
    await one.send("serve", {})
    with pytest.raises(ConnectionError, match="'serve' message without its descriptor"):
        (await two.receive()).take_fd()


async def test_the_largest_message_arrives_and_a_larger_one_is_refused_before_it_is_sent(pair):
    one, two = pair
    room = MAX_MESSAGE_BYTES - len('{"type":"t","x":""}')
    await one.send("t", {"x": "a" * room})
    assert len((await two.receive()).body["x"]) == room
    with pytest.raises(MessageTooLargeError, match=f"at most {MAX_MESSAGE_BYTES}"):
        await one.send("t", {"x": "a" * (room + 1)})


async def test_receive_waits_for_a_message_and_tells_the_peers_end(pair):
    one, two = pair
    receiving = asyncio.create_task(two.receive())
    await asyncio.sleep(0)
    assert not receiving.done()
    await one.send("ready", {})
    assert (await receiving).type == "ready"
    one.close()
    assert await two.receive() is None


async def test_what_was_sent_before_the_end_is_received_before_it(pair):
    one, two = pair
    await one.send("report", {})
    one.close()
    assert (await two.receive()).type == "report"
    assert await two.receive() is None


async def test_send_to_a_closed_peer_says_that_it_is_gone(pair):
    one, two = pair
    two.close()
    with pytest.raises(ConnectionError, match="peer is gone: Broken pipe"):
        await one.send("ready", {})


async def test_a_cancelled_receive_has_taken_no_message(pair):
    one, two = pair
    for _ in range(3):
        receiving = asyncio.create_task(two.receive())
        await asyncio.sleep(0)
        receiving.cancel()
        await one.send("ready", {})  # it may be woken and cancelled in one step
        with pytest.raises(asyncio.CancelledError):
            await receiving
        assert (await two.receive()).type == "ready"


async def test_a_cancelled_send_has_sent_nothing_and_the_next_goes_through(pair):
    one, two = pair
    sent = await fill(one)
    blocked = asyncio.create_task(one.send("blocked", {}))
    await asyncio.sleep(0)
    blocked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await blocked
    for _ in range(sent):
        assert (await two.receive()).type == "fill"
    await one.send("next", {})
    assert (await two.receive()).type == "next"


async def test_many_senders_wait_for_a_full_socket_and_all_get_through(pair):
    one, two = pair
    sent = await fill(one)
    async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as senders:
        for number in range(5):
            senders.create_task(one.send("late", {"n": number}))
        await asyncio.sleep(0)
        received = [await two.receive() for _ in range(sent + 5)]
    assert [m.body["n"] for m in received[sent:]] == [0, 1, 2, 3, 4]


async def test_close_wakes_who_waits_and_leaves_its_number_to_the_next(pair):
    one, _ = pair
    await fill(one)
    async with asyncio.timeout(WITHIN_S):
        sending = asyncio.create_task(one.send("blocked", {}))
        receiving = asyncio.create_task(one.receive())
        await asyncio.sleep(0)
        number = one.fileno()
        one.close()
        successor, sock = Channel.pair()  # takes the number over before the waiters run
        peer = Channel(sock)
        assert number in {successor.fileno(), peer.fileno()}
        waiting = {c: asyncio.create_task(c.receive()) for c in (successor, peer)}
        assert await receiving is None
        with pytest.raises(ConnectionError):
            await sending
        await successor.send("hello", {})
        await peer.send("hello", {})
        assert [(await t).type for t in waiting.values()] == ["hello", "hello"]
    successor.close()
    peer.close()


def test_close_wakes_who_waits_under_uvloop_too():
    async def scenario() -> None:
        one, sock = Channel.pair()
        two = Channel(sock)
        async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
            receiving = group.create_task(one.receive())
            await asyncio.sleep(0)
            one.close()
        assert receiving.result() is None
        assert await two.receive() is None
        two.close()

    uvloop.run(scenario())


async def test_close_may_be_called_twice(pair):
    one, _ = pair
    one.close()
    one.close()
    assert await one.receive() is None


@pytest.mark.parametrize(
    "data", [b"not json", b"\xff\xfe", b"[1]", b"{}", b'"text"', b"null", b'{"body":1}']
)
async def test_what_is_not_our_message_is_refused_and_its_descriptors_are_closed(raw, data):
    channel, peer = raw
    with NULL.open("rb") as file:
        socket.send_fds(peer, [data], [file.fileno()])
    with pytest.raises(ConnectionError, match="not a message"):
        await channel.receive()


async def test_an_empty_message_ends_the_connection_and_its_descriptors_are_closed(raw):
    channel, peer = raw
    with NULL.open("rb") as file:
        socket.send_fds(peer, [b""], [file.fileno()])
    assert await channel.receive() is None


async def test_a_message_that_was_cut_is_refused(raw):
    channel, peer = raw
    peer.send(b'{"type":"t"}' + b" " * MAX_MESSAGE_BYTES)
    with pytest.raises(ConnectionError, match="truncated"):
        await channel.receive()


async def test_all_descriptors_arrive_and_more_than_declared_are_refused(raw):
    channel, peer = raw
    with NULL.open("rb") as file:
        with pytest.raises(OSError, match="Invalid argument"):  # the kernel's own limit
            socket.send_fds(peer, [b'{"type":"t"}'], [file.fileno()] * (MAX_FDS + 1))
        socket.send_fds(peer, [b'{"type":"t"}'], [file.fileno()] * MAX_FDS)
    message = await channel.receive()
    assert len(set(message.fds)) == MAX_FDS
    with pytest.raises(ConnectionError, match=f"with {MAX_FDS} descriptors instead of 0"):
        messages.read(message, {"t": messages.Ready})
    message.close_fds()


@pytest.fixture
def long_directory(tmp_path):
    directory = tmp_path / ("d" * 60) / ("e" * 60) / ("f" * 60)
    directory.mkdir(parents=True)
    assert len(str(directory)) > 107
    return directory


async def test_listen_and_connect_at_a_path_longer_than_sun_path(long_directory):
    path = long_directory / "node.sock"
    with listen(path) as listening:
        client = connect(path)
        sock, _ = await asyncio.get_running_loop().sock_accept(listening)
        server = Channel(sock)
        await client.send("hello", {})
        assert (await server.receive()).type == "hello"
        assert server.peer_uid() == os.getuid()
        client.close()
        server.close()


async def test_listen_replaces_a_stale_socket_and_sets_mode_and_group(tmp_path):
    path = tmp_path / "node.sock"
    listen(path).close()
    with pytest.raises(ConnectionRefusedError):
        connect(path)
    with listen(path, mode=0o620, gid=4711):
        found = path.stat()
        assert (found.st_mode & 0o777, found.st_gid) == (0o620, 4711)
        connect(path).close()


async def test_listen_replaces_nothing_but_a_socket(tmp_path):
    path = tmp_path / "node.sock"
    path.write_text("a file")
    with pytest.raises(FileExistsError, match="exists and is not a socket"):
        listen(path)
    assert path.read_text() == "a file"
    assert list(tmp_path.iterdir()) == [path]


async def test_a_socket_s_name_is_removed_by_its_owner_only(tmp_path):
    path = tmp_path / "node.sock"
    with listen(path):
        old = path.lstat().st_ino
        with listen(path):
            unix_socket.remove(path, old)
            connect(path).close()
            unix_socket.remove(path, path.lstat().st_ino)
    unix_socket.remove(path, old)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["socket", "directory"])
async def test_connect_without_a_listener_is_file_not_found(tmp_path, missing):
    path = tmp_path / "node.sock" if missing == "socket" else tmp_path / "gone" / "node.sock"
    with pytest.raises(FileNotFoundError):
        connect(path)


async def test_listen_never_makes_its_directory(tmp_path):
    with pytest.raises(FileNotFoundError):
        listen(tmp_path / "gone" / "node.sock")


async def fill(channel: Channel) -> int:
    """Send until the socket is full; returns the number of messages."""
    count = 0
    while True:
        task = asyncio.create_task(channel.send("fill", {"x": "a" * 10_000}))
        await asyncio.sleep(0)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            return count
        task.result()
        count += 1
