"""Strategies of Hypothesis for what a peer of the link may send: datagrams and descriptors."""

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

from csi_s3.kernel import mount

_TEXT = st.text(st.characters(codec=None), max_size=20) | st.sampled_from(
    ["a" * 32, "b" * 32, "", "\0", "\ud800", "../..", "x" * 5000]
)
_PLAIN = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), _TEXT),
    st.sampled_from([1 << 63, -1, 10**400, float("nan"), float("inf")]),
)
_JSON = st.recursive(
    _PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3)
)


def datagrams(templates: Sequence[Mapping[str, Any]]) -> st.SearchStrategy[bytes]:
    """Messages like the templates with some fields changed or missing, other JSON, and bytes."""
    messages = _changed(templates) | _JSON
    as_bytes = messages.map(_encoded) | st.sampled_from([b"[" * 100_000, b'{"type":' * 20_000])
    cut = st.tuples(as_bytes, st.integers(1, 200)).map(lambda pair: pair[0][: pair[1]])
    return (as_bytes | as_bytes | as_bytes | cut | st.binary(min_size=1, max_size=100)).filter(bool)


def _encoded(message: object) -> bytes:
    """Cut to what a peer can receive at all."""
    try:
        return json.dumps(message).encode()[: 128 << 10]
    except ValueError:  # an integer of more digits than Python writes
        return b"1" * 5000


@st.composite
def _changed(draw: st.DrawFn, templates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    message = deepcopy(dict(draw(st.sampled_from(templates))))
    for _ in range(draw(st.integers(0, 2))):
        at: dict[str, Any] = message
        while at:
            name = draw(st.sampled_from(sorted(at)))
            if isinstance(at[name], dict) and draw(st.booleans()):
                at = at[name]
            elif draw(st.booleans()):
                at[name] = draw(_JSON)
                break
            else:
                del at[name]
                break
    return message


_SIMPLE = {
    "null": lambda: os.open("/dev/null", os.O_RDWR),
    "fuse": mount.open_fuse,
    "path": lambda: os.open("/dev/fuse", os.O_PATH),
    "memory": lambda: os.memfd_create("x"),
    "directory": lambda: os.open("/", os.O_RDONLY),
}
DESCRIPTORS = (*_SIMPLE, "pipe", "lingering", "socket")


@contextlib.contextmanager
def opened(kinds: Sequence[str]) -> Iterator[list[int]]:
    """New descriptors of these kinds, closed at the end.

    In threads: where the peer did not take them, this close is the last, and a lingering socket's
    waits until its own peer is closed, behind it.
    """
    closing: list[threading.Thread] = []
    try:
        with contextlib.ExitStack() as stack:
            found = [_open(kind, stack) for kind in kinds]
            try:
                yield found
            finally:
                closing += [threading.Thread(target=os.close, args=(fd,)) for fd in found]
                for thread in closing:
                    thread.start()
    finally:
        for thread in closing:
            thread.join()


def _open(kind: str, stack: contextlib.ExitStack) -> int:
    if kind == "pipe":
        read, write = os.pipe()
        stack.callback(os.close, read)
        return write
    if kind == "lingering":
        return lingering(stack)
    if kind == "socket":
        one, two = socket.socketpair()
        stack.callback(two.close)
        return one.detach()
    return _SIMPLE[kind]()


def lingering(stack: contextlib.ExitStack) -> int:
    """A socket whose last close waits for a peer that does not read until the stack is closed."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    sock = socket.create_connection(listener.getsockname())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 300))
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(1 << 16))
    return sock.detach()
