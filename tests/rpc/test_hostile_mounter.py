"""Foreign code in the mounter: it can end its own volumes, and nothing else of the node."""

import asyncio
import contextlib
import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from csi_s3 import csi_pb2 as csi
from csi_s3.errors import MountError
from csi_s3.kernel import mount, syscalls
from csi_s3.kernel.mountinfo import mounts_at
from csi_s3.link.report import State
from csi_s3.link.spec import MountSpec
from csi_s3.node import binds
from csi_s3.node.mount_ids import MAX_NUMBERS, is_true_to_its_id, mount_id, mount_identity
from csi_s3.node.mounter_link import MAX_GREETING
from csi_s3.node.source_mounts import SourceMounts
from csi_s3.node.targets import Targets
from tests.made_up_messages import lingering
from tests.rpc.conftest import is_dead, run
from tests.rpc.fake_fuse import FakeFuse
from tests.rpc.fake_mounter import FakeMounter, until
from tests.rpc.hostile_mounter import HostileMounter, have, report, spec


async def is_alive(node) -> bool:
    """The node plugin answers Probe, in the process that was started."""
    await node.identity.Probe(csi.ProbeRequest(), timeout=30)
    return node.process.poll() is None


# --- what it says -----------------------------------------------------------------------------


@pytest.fixture
def victim(node):
    """A secret of another pod, mounted, and an empty directory and keys of kubelet beside it."""
    secret = node.kubelet / "pods" / "victim" / "volumes" / "kubernetes.io~secret" / "token"
    empty = node.kubelet / "pods" / "victim" / "empty"
    for directory in (secret, empty / "fs", empty / "state"):
        directory.mkdir(parents=True)
    syscalls.mount("secret", str(secret), "tmpfs", 0, "mode=755")
    yield secret, empty
    mount.umount(secret)


def paths_to(secret: Path, empty: Path, node) -> list[str]:
    up = os.path.relpath(node.kubelet / "pods" / "victim", node.state / "volumes")
    return [
        f"{up}/volumes/kubernetes.io~secret/token\0",
        f"{up}/empty",
        f"{empty}",
        f"{secret}\0",
        "..",
        "a" * 32 + "\0",
        "a" * 32 + "/state/evil",
        "A" * 32,
        "a" * 32 + "\n",
    ]


async def test_an_id_that_is_a_path_reaches_nothing(node, victim):
    secret, empty = victim
    for number, path in enumerate(paths_to(secret, empty, node)):
        with HostileMounter(node.mounter_socket) as mounter:
            read, write = os.pipe()
            await mounter.greet()
            await mounter.say(have(path), [read])
            assert await mounter.is_cut_off()
            os.close(read)
            os.close(write)
        assert len(node.logged("WARNING", "message: Have.spec.mount_id ")) == number + 1, path
        assert await is_alive(node)
    assert len(mounts_at(str(secret))) == 1
    assert (empty / "fs").is_dir()
    assert (empty / "state").is_dir()
    assert (empty / "state").stat().st_uid == 0


DEEP = b"[" * 100_000
MALFORMED = {
    "a list for an id": {"type": "report", "report": {"mount_id": [], "state": "serving"}},
    "depth": DEEP,
    "depth in a message": b'{"type":"report","report":' + DEEP,
    "a list for a type": {"type": []},
    "a number for an error's text": {
        **report(),
        "report": {"mount_id": "a" * 32, "state": "failed", "error": {"code": 1, "what": 2}},
    },
    "a list for a code": {
        "type": "report",
        "report": {"mount_id": "a" * 32, "state": "failed", "error": {"code": []}},
    },
    "half a character": b'{"type":"notice","notice":{"mount_id":"%s","reason":"UploadFailed",'
    b'"error":{"code":"internal","what":"\\ud800"}}}' % (b"a" * 32),
    "not UTF-8": b'{"type":"report\xff"}',
    "UTF-16": '{"type":"ready"}'.encode("utf-16"),
    "a huge integer": b'{"type":"report","n":' + b"9" * 10_000 + b"}",
    "an integer of 64 bits": {
        "type": "report",
        "report": {"mount_id": "a" * 32, "state": "serving", "usage": {"inodes": 1 << 64}},
    },
    "a truth value for a number": {
        "type": "report",
        "report": {"mount_id": "a" * 32, "state": "serving", "usage": {"inodes": True}},
    },
    "a long text": {
        "type": "report",
        "report": {
            "mount_id": "a" * 32,
            "state": "failed",
            "error": {"code": "internal", "what": "x" * 5000},
        },
    },
    "an unknown state": {"type": "report", "report": {"mount_id": "a" * 32, "state": "odd"}},
    "no object": [],
    "nothing": b"\0",
    "a second greeting": {"type": "report"},
}


@pytest.mark.parametrize("is_greeted", [False, True], ids=["at once", "after ready"])
async def test_a_message_that_is_none_cuts_the_mounter_off_and_node_goes_on(node, is_greeted):
    for number, (name, message) in enumerate(MALFORMED.items()):
        with HostileMounter(node.mounter_socket) as mounter:
            if is_greeted:
                await mounter.connect()
                await until(lambda n=number: len(node.logged("INFO", "is connected")) == n + 1)
            await mounter.say(message)
            assert await mounter.is_cut_off(), name
        assert await is_alive(node), name
        assert len(node.logged("WARNING", "violated the protocol")) == number + 1, name
    assert not node.logged("ERROR")


async def test_reports_without_end_leave_node_its_turns(node):
    """Of a mount that node does not know, as fast as the socket takes them."""
    with HostileMounter(node.mounter_socket) as mounter:
        await mounter.connect()

        async def flood():
            while True:
                await mounter.say(report(state=State.ENDED))

        flooding = asyncio.create_task(flood())
        for _ in range(20):
            assert await is_alive(node)
        flooding.cancel()
        await asyncio.wait({flooding})


async def test_messages_before_ready_are_counted(node):
    """Each brings a descriptor, of which node may have only so many."""
    fd = mount.open_fuse()
    with HostileMounter(node.mounter_socket) as mounter:
        await mounter.greet()
        with pytest.raises(ConnectionError):  # noqa: PT012 - at some of them
            for number in range(2 * MAX_GREETING):
                await mounter.say(have(f"{number:032x}"), [fd])
        assert await mounter.is_cut_off()
    os.close(fd)
    assert node.logged("WARNING", f"no `ready` among its first {MAX_GREETING} messages")
    assert await is_alive(node)
    descriptors = Path(f"/proc/{node.process.pid}/fd").iterdir()
    assert len(list(descriptors)) < 100


async def test_a_mount_is_named_once(node):
    fd = mount.open_fuse()
    with HostileMounter(node.mounter_socket) as mounter:
        await mounter.greet()
        await mounter.say(have(), [fd])
        await mounter.say(have(), [fd])
        assert await mounter.is_cut_off()
    os.close(fd)
    assert node.logged("WARNING", f"mount {'a' * 32} twice")


# --- descriptors ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["have", "unasked", "unread"])
async def test_a_descriptor_whose_close_waits_holds_nothing_up(node, place):
    """The last one of its file: the mounter has closed its own, unless node was faster."""
    with contextlib.ExitStack() as stack, HostileMounter(node.mounter_socket) as mounter:
        closing = stack.enter_context(ThreadPoolExecutor(1))  # until the socket's peer is closed
        fd = lingering(stack)
        await mounter.greet()
        if place == "unread":
            await mounter.say({"type": "odd"})
        await mounter.say(have() if place == "have" else {"type": "hello"}, [fd])
        closing.submit(os.close, fd)
        assert await mounter.is_cut_off()
        for _ in range(3):
            assert await is_alive(node)


async def test_other_descriptors_than_dev_fuse_are_refused(node, tmp_path):
    path = os.open("/dev/fuse", os.O_PATH)
    descriptors = {
        "a pipe": os.pipe(),
        "a directory": [os.open(tmp_path, os.O_RDONLY)],
        "another device": [os.open("/dev/null", os.O_RDWR)],
        "a path of /dev/fuse": [path],
        "memory": [os.memfd_create("x")],
        "none": [],
        "two": [mount.open_fuse(), mount.open_fuse()],
        "the most": [os.dup(path) for _ in range(253)],
    }
    for number, (name, fds) in enumerate(descriptors.items()):
        with HostileMounter(node.mounter_socket) as mounter:
            await mounter.greet()
            await mounter.say(have(), fds)
            for fd in fds:
                os.close(fd)
            assert await mounter.is_cut_off(), name
        assert len(node.logged("WARNING", "violated the protocol")) == number + 1, name
        assert await is_alive(node), name


@pytest.fixture
def silent_file(base):
    """A file of a FUSE file system that has opened it and answers nothing from then on."""
    directory = base / "hostile"
    directory.mkdir()
    fd = mount.open_fuse()
    mount.mount_fuse(fd, directory, source_name="hostile")
    fuse = FakeFuse(fd, mount.read_init(fd, 5))
    file = os.open(directory / "hello", os.O_RDONLY)
    fuse.silence()
    yield file
    mount.umount(directory, force=True)  # before its file is closed, which would wait as well
    with contextlib.suppress(OSError):  # of FLUSH: it is closed
        os.close(file)
    fuse.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_file_of_a_silent_fuse_mount_holds_nothing_up(node, silent_file, number):
    """poll, fstat and close of it wait for its daemon, and cannot be interrupted."""
    with HostileMounter(node.mounter_socket) as mounter:
        await mounter.greet()
        await mounter.say(have(), [silent_file])
        assert await mounter.is_cut_off()
    assert await is_alive(node)
    assert node.logged("WARNING", "is not /dev/fuse")
    await until(lambda: node.logged("WARNING", "its FUSE connection was aborted"))
    await node.stop(number)  # returns when the process has ended


# --- what node believes -----------------------------------------------------------------------


def record_of(node) -> Path:
    (mount_id,) = node.volume_directories()
    return node.state / "volumes" / mount_id / "record.json"


async def restarted(node) -> None:
    await node.stop(signal.SIGKILL)
    await node.start()


async def test_the_record_is_node_s_and_goes_with_the_mount(idle):
    idle.base.chmod(0o755)
    await idle.start("--mounter-uid", "65532")
    async with FakeMounter(idle.mounter_socket) as mounter:
        target = idle.target("a")
        await idle.publish(target)
        status = record_of(idle).lstat()
        assert (status.st_uid, status.st_gid, status.st_mode) == (0, 0, 0o100600)
        state = (idle.state / "spools" / record_of(idle).parent.name).stat()
        assert (state.st_uid, state.st_gid, state.st_mode) == (65532, 65532, 0o040700)
        above = record_of(idle).parent.stat()
        assert (above.st_uid, above.st_mode) == (0, 0o040700)
        described = MountSpec.from_json(json.loads(record_of(idle).read_text()))
        assert described == mounter.by_bucket("bucket").spec
        await idle.unpublish(target)
        await idle.wait_until_clean()


async def test_what_a_mounter_says_of_a_mount_is_not_believed(node, mounter):
    """Only that it has it: volume and options are those with which node made it."""
    target, second = node.target("a"), node.target("b")
    await node.publish(target)
    served = mounter.by_bucket("bucket")
    true = served.spec
    served.spec = MountSpec.from_json(
        {
            **true.to_json(),
            "volume_handle": "another",
            "volume": {**true.to_json()["volume"], "context": 'x",dev="'},
            "state_dir": "/etc",
        }
    )
    await restarted(node)
    await mounter.reconnect()
    await node.publish(target)
    await node.publish(second)
    assert mounter.count("serve") == 1
    assert not (await node.stats(target)).volume_condition.abnormal
    for path in (target, second):
        await node.unpublish(path)
    await node.wait_until_clean()
    assert "another" not in node.log.read_text()


async def test_a_mount_of_a_release_without_records_is_taken_over(node, mounter):
    target = node.target("a")
    await node.publish(target)
    record = record_of(node)
    before = record.read_text()
    record.unlink()
    await restarted(node)
    await mounter.reconnect()
    await node.publish(target)
    assert mounter.count("serve") == 1
    assert record.read_text() == before
    assert run("cat", target / "hello").stdout == "hello\n"
    await node.unpublish(target)
    await node.wait_until_clean()


@pytest.mark.parametrize("content", ["", "{}", "[" * 10_000, None])
async def test_a_mount_that_only_the_mounter_describes_is_ended(node, mounter, content):
    """Its record is no record, and the description is not the one that its id is the hash of."""
    target = node.target("a")
    await node.publish(target)
    record_of(node).unlink()
    if content is not None:
        record_of(node).write_text(content)
    served = mounter.by_bucket("bucket")
    served.spec = MountSpec.from_json({**served.spec.to_json(), "volume_handle": "another"})
    await restarted(node)
    await mounter.reconnect()
    await is_dead(target)
    await until(lambda: not node.volume_directories())
    assert node.logged("WARNING", "has not made; it is not taken over")
    assert await is_alive(node)
    await node.publish(target)
    assert run("cat", target / "hello").stdout == "hello\n"


async def test_a_true_description_of_a_mount_that_never_was_is_not_taken_over(node):
    described = MountSpec.from_json(spec())
    made_up = mount_id(mount_identity(described.volume_handle, described.volume), 0)
    fd = mount.open_fuse()
    directory = node.base / "made-up"
    directory.mkdir()
    mount.mount_fuse(fd, directory, source_name="made up")
    with HostileMounter(node.mounter_socket) as mounter:
        await mounter.greet()
        await mounter.say(have(made_up), [fd])
        await mounter.say({"type": "ready"})
        await until(lambda: node.logged("WARNING", "it is not taken over"))
        assert await is_alive(node)
    mount.umount(directory)
    os.close(fd)
    assert node.volume_directories() == []


async def test_the_descriptor_of_another_connection_is_not_taken_for_the_mount_s(node, mounter):
    """Node would abort by the mount's number, and that may be of another file system by then."""
    target = node.target("a")
    await node.publish(target)
    served = mounter.by_bucket("bucket")
    own, served.fd = served.fd, mount.open_fuse()
    assert mount.connection_of(served.fd) is None
    directory = node.base / "made-up"
    directory.mkdir()
    mount.mount_fuse(served.fd, directory, source_name="made up")
    if mount.connection_of(own) is None:  # a kernel that does not say it
        assert tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) < (6, 18)
    else:
        await restarted(node)
        await mounter.reconnect()
        await until(lambda: node.logged("WARNING", "another connection than that of the mount"))
        await is_dead(target)
        assert not mount.is_over(served.fd)
    mount.umount(directory)
    os.close(own)


async def test_a_long_greeting_is_cut_off(node):
    """What node holds of it is bounded in bytes as well."""
    fd = mount.open_fuse()
    with HostileMounter(node.mounter_socket) as mounter:
        await mounter.greet()
        with pytest.raises(ConnectionError):  # noqa: PT012 - at some of them
            for number in range(MAX_GREETING):
                mount_id = f"{number:032x}"
                changes = {"spec": spec(mount_id, "v" * 100_000)}
                await mounter.say(have(mount_id, **changes), [fd])
    os.close(fd)
    await until(lambda: node.logged("WARNING", "more than 16 MiB before `ready`"))
    assert await is_alive(node)


def test_an_id_is_true_for_every_number_and_for_no_other_volume():
    found = MountSpec.from_json(spec())
    identity = mount_identity(found.volume_handle, found.volume)
    for number in (0, 1, MAX_NUMBERS - 1):
        assert is_true_to_its_id(MountSpec.from_json(spec(mount_id(identity, number))))
    assert not is_true_to_its_id(MountSpec.from_json(spec(mount_id(identity, 0), "other")))
    assert not is_true_to_its_id(found)


# --- what is attached to a pod's target -------------------------------------------------------


async def test_another_mount_in_the_place_of_the_source_reaches_no_pod(node, mounter):
    await node.publish(node.target("a"))
    source = record_of(node).with_name("fs")
    syscalls.mount("other", str(source), "tmpfs", 0, "")
    second = node.target("b")
    with pytest.raises(Exception, match="is not the mount"):
        await node.publish(second)
    assert not mounts_at(str(second))
    assert not second.exists()
    mount.umount(source)
    await node.publish(second)
    assert run("cat", second / "hello").stdout == "hello\n"


class SwappedSources(SourceMounts):
    """Between the check and the bind another directory takes the place of the source."""

    def __init__(self, state_dir, other):
        super().__init__(state_dir, owner=0)
        self._other = other

    def root(self, source):
        return syscalls.open_fd(os.open(self._other, os.O_PATH | os.O_DIRECTORY))


def test_what_was_attached_by_mistake_is_removed_whatever_it_is(base):
    other, state = base / "kubelet" / "other", base / "state"
    other.mkdir(parents=True)
    syscalls.mount("other", str(other), "tmpfs", 0, "")
    sources = SwappedSources(state, other)
    sources.prepare()
    source = sources.make(MountSpec.from_json(spec()))
    target = Targets(base / "kubelet", state).find(f"{base}/kubelet/target")
    with pytest.raises(MountError, match="mountinfo shows another mount"):
        binds.attach(sources, source, target, read_only=False)
    assert target.layers() == []
    assert not Path(target.path).exists()
    mount.umount(other)
    sources.detach(source.mount_id)
    os.close(source.fd)
    sources.remove(source.mount_id)


# --- directories and paths --------------------------------------------------------------------


@pytest.mark.parametrize("link", ["", "fs", "record.json"], ids=["spool", "mount", "record"])
def test_a_link_in_the_place_of_a_directory_is_not_followed(base, link):
    sources = SourceMounts(base / "state", owner=65532)
    sources.prepare()
    victim = base / "victim"
    victim.mkdir(mode=0o700)
    (sources.volumes / ("a" * 32)).mkdir()
    place = sources.volumes / ("a" * 32) / link if link else sources.state("a" * 32)
    place.symlink_to(victim)
    with pytest.raises(MountError):
        sources.make(MountSpec.from_json(spec()))
    assert (victim.stat().st_uid, victim.stat().st_mode) == (0, 0o040700)
    assert not mounts_at(str(victim))


@pytest.mark.parametrize("bad", ["..", "a" * 31, "a" * 32 + "/..", "a" * 32 + "\0", ""])
def test_no_directory_is_reached_by_what_is_no_id(base, bad):
    sources = SourceMounts(base / "state", owner=0)
    sources.prepare()
    for call in (sources.detach, sources.remove_empty, sources.record):
        with pytest.raises(MountError, match="is not the id of a mount"):
            call(bad)


def test_no_path_with_a_nul_reaches_the_kernel(base):
    directory = base / "d"
    directory.mkdir()
    syscalls.mount("x", str(directory), "tmpfs", 0, "")
    cut = f"{directory}\0/more"
    with syscalls.open_fd(os.open(base, os.O_PATH)) as at:
        for call in (
            lambda: syscalls.umount(cut, syscalls.MNT_DETACH),
            lambda: syscalls.mount("x", cut, "tmpfs", 0, ""),
            lambda: syscalls.mount("x", str(directory), "tmpfs\0", 0, ""),
            lambda: syscalls.mount("x", str(directory), "tmpfs", 0, "mode=700\0"),
            lambda: syscalls.open_beneath(at, "d\0x", os.O_PATH),
        ):
            with pytest.raises(OSError, match="NUL"):
                call()
    assert len(mounts_at(str(directory))) == 1
    mount.umount(directory)


async def test_the_state_directory_is_never_a_target(node, mounter):
    await node.publish(node.target("a"))
    record = record_of(node)
    for path in (node.state, node.state / "volumes", record.with_name("fs"), node.state.parent):
        for call in (node.publish(path), node.unpublish(path)):
            with pytest.raises(Exception, match="belongs to this driver"):
                await call
    assert record.exists()
    assert len(mounts_at(str(record.with_name("fs")))) == 1
