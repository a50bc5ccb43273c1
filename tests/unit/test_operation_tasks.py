"""Operations that answer requests: so many at a time, the others in their order, each answered."""

import asyncio
import errno
import os

import pytest
from pyfuse3 import FUSEError

from csi_s3.fuse.operation_tasks import OperationTasks
from csi_s3.fuse.protocol import Opcode, parse_reply_header
from csi_s3.fuse.relay import RequestTasks
from csi_s3.fuse.reply_messages import build_bytes_reply
from csi_s3.fuse.request_loop import RequestLoop
from csi_s3.fuse.requests import KernelRequest


class Replies:
    """A request loop whose replies go into a pipe, and tasks of at most `most` at a time."""

    def __init__(self, most):
        self._reading, writing = os.pipe()
        os.set_blocking(self._reading, False)
        self.loop = RequestLoop(writing, ended=lambda: None)
        self.group = RequestTasks(lambda: None)
        self.tasks = OperationTasks(self.loop, self.group, most=most)

    def read(self):
        """Number and error of each reply since the last call."""
        found = []
        try:
            data = os.read(self._reading, 65536)
        except BlockingIOError:
            return found
        while data:
            length, error, unique = parse_reply_header(data)
            found.append((unique, error))
            data = data[length:]
        return found

    def close(self):
        self.tasks.close()
        self.loop.close()
        os.close(self._reading)


@pytest.fixture
def replies():
    made = Replies(most=2)
    yield made
    made.close()


async def settled(turns=5):
    for _ in range(turns):
        await asyncio.sleep(0)


async def value_of(waiting):
    return await waiting


@pytest.mark.parametrize("n", [5, 50])
async def test_beyond_the_bound_operations_begin_in_their_order(replies, n):
    gates = [asyncio.get_running_loop().create_future() for _ in range(n)]
    for unique, gate in enumerate(gates):
        request = KernelRequest(Opcode.LOOKUP, unique, 1)
        replies.tasks.start(request, value_of(gate), build_bytes_reply)
    for unique, gate in enumerate(gates):
        await settled()
        assert len(replies.group.tasks) == min(2, n - unique)
        assert len(replies.loop.in_flight) == n - unique
        gate.set_result(b"x")
        await settled()
        assert replies.read() == [(unique, 0)]
    assert len(replies.group.tasks) == 0


async def test_what_is_bounded_by_other_means_does_not_wait(replies):
    gates = [asyncio.get_running_loop().create_future() for _ in range(3)]
    for unique, gate in enumerate(gates[:2]):
        replies.tasks.start(KernelRequest(Opcode.FLUSH, unique, 1), value_of(gate))
    write = KernelRequest(Opcode.WRITE, 2, 1)
    replies.tasks.start_at_once(write, value_of(gates[2]), build_bytes_reply)
    gates[2].set_result(b"")
    await settled()
    assert replies.read() == [(2, 0)]
    for gate in gates[:2]:
        gate.set_result(None)
    await settled()
    assert replies.read() == [(0, 0), (1, 0)]


@pytest.mark.warnings_expected("bug in the answer")
async def test_an_operation_that_fails_is_answered_and_the_next_begins(replies):
    async def failing(error):
        raise error

    errors = (FUSEError(errno.ENOENT), ZeroDivisionError(), FUSEError(errno.EIO))
    for unique, error in enumerate(errors):
        replies.tasks.start(KernelRequest(Opcode.LOOKUP, unique, 1), failing(error))
    await settled(10)
    assert replies.read() == [(0, -errno.ENOENT), (1, -errno.EIO), (2, -errno.EIO)]
    assert len(replies.loop.in_flight) == 0


async def test_at_the_end_those_that_wait_do_not_begin(replies):
    gates = [asyncio.get_running_loop().create_future() for _ in range(4)]
    for unique, gate in enumerate(gates):
        replies.tasks.start(KernelRequest(Opcode.LOOKUP, unique, 1), value_of(gate))
    await settled()
    replies.tasks.close()
    for gate in gates:
        gate.set_result(None)
    await settled(10)
    assert replies.read() == [(0, 0), (1, 0)]
