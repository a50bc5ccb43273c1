"""The FUSE session itself, without a file system behind it."""

import pytest

from tests.mount.command import WITHIN_S
from tests.mount.served import run_program

PROGRAM = """
import asyncio, gc, os, subprocess, sys
from tests.mount.served import EmptyRoot, served

def ask():
    code = "import os, sys; os.path.exists(sys.argv[1] + '/x')"
    return subprocess.Popen([sys.executable, "-c", code, path])

async def main():
    unseen, killed, asking = [], [], None
    asyncio.get_running_loop().set_exception_handler(lambda _, what: unseen.append(what))
    async with served(path, lambda _: EmptyRoot()) as session:
        readv = os.readv

        def kill_who_waits(call, *args):
            nonlocal asking
            if when == "after":
                done = call(*args)
            if asking is not None:
                asking.kill()
                if when == "before":
                    asking.wait()
                killed.append(asking)
                asking = None
            return done if when == "after" else call(*args)

        os.readv = lambda *args: kill_who_waits(readv, *args)
        for _ in range(20):
            await asyncio.to_thread(ask().wait)
            asking = ask()
            while asking is not None:
                await asyncio.sleep(0.01)
        os.readv = readv
        for process in killed:
            await asyncio.to_thread(process.wait)
        assert session.requests_in_flight == 0
        gc.collect()
        assert await asyncio.to_thread(ask().wait) == 0
    assert unseen == [], unseen

path, when = sys.argv[1:]
asyncio.run(main())
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_request_whose_caller_is_killed_before_it_is_read_harms_no_other(tmp_path, when):
    """When: it is gone before it is read, or only before it is answered."""
    run_program(PROGRAM, tmp_path, when, within_s=WITHIN_S)


MANY = """
import asyncio, gc, os, sys
from concurrent.futures import ThreadPoolExecutor
import pyfuse3.asyncio
from tests.mount.served import EmptyRoot, served

class Root(EmptyRoot):
    async def lookup(self, parent, name):
        if name == b"slow":
            slow.set()
            await released.wait()
        await asyncio.sleep(0.001)
        return await super().lookup(parent, name)

async def main():
    async with served(path, lambda _: Root()):
        with ThreadPoolExecutor(9) as pool:
            loop = asyncio.get_running_loop()
            ask = lambda name: loop.run_in_executor(pool, os.path.exists, f"{path}/{name}")
            waits = ask("slow")
            await slow.wait()
            for n in range(60):
                await asyncio.gather(*(ask(f"{n}-{i}") for i in range(8)))
            (nursery,) = [x for x in gc.get_objects() if isinstance(x, pyfuse3.asyncio._Nursery)]
            print(len(nursery.tasks), sum(task.done() for task in nursery.tasks))
            released.set()
            await waits

path, = sys.argv[1:]
slow, released = asyncio.Event(), asyncio.Event()
asyncio.run(main())
"""


def test_tasks_that_have_ended_are_not_held_while_one_request_waits(tmp_path):
    tasks, ended = map(int, run_program(MANY, tmp_path, within_s=WITHIN_S).split())
    assert ended <= 8  # of the last round
    assert tasks <= 24


FAILING = """
import asyncio, os, sys
from tests.mount.served import EmptyRoot, served

class Root(EmptyRoot):
    async def lookup(self, parent, name):
        asked.set()
        await asyncio.sleep(3600)

async def fail():
    await asked.wait()
    raise ValueError("the test's own failure")

async def main():
    async with asyncio.TaskGroup() as group:
        async with served(path, lambda _: Root()):
            group.create_task(fail())
            await asyncio.to_thread(os.path.exists, f"{path}/x")

path, = sys.argv[1:]
asked = asyncio.Event()
try:
    asyncio.run(main())
except* ValueError as exc:
    print(exc.exceptions)
print("goes on", os.listdir(path))
"""


def test_a_program_of_these_tests_that_fails_while_a_request_waits_says_so_and_goes_on(tmp_path):
    """The session ends in order: a crash of the process would hide what has failed."""
    said = run_program(FAILING, tmp_path, within_s=WITHIN_S)
    assert said.splitlines() == ['(ValueError("the test\'s own failure"),)', "goes on []"]
