"""Changes of one file while requests fail or lose their answers, against a bytearray."""

import os
from contextlib import suppress

import hypothesis.strategies as st
from hypothesis import given, settings

from csi_s3.config.volume import TreeConfig
from csi_s3.errors import StoreUnavailableError
from tests.model.machine import Driver

DOWN = StoreUnavailableError("S3 is down")
FAULTS = st.tuples(
    st.sampled_from(["PUT", "CREATE_UPLOAD", "UPLOAD_PART", "UPLOAD_PART_COPY", "COMPLETE_UPLOAD"]),
    st.integers(0, 2),
    st.booleans(),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 60), st.binary(min_size=1, max_size=20)),
        st.tuples(st.just("append"), st.just(0), st.binary(min_size=1, max_size=20)),
        st.tuples(st.just("truncate"), st.integers(0, 60), st.just(b"")),
        st.tuples(st.just("fsync"), st.just(0), st.just(b"")),
        st.tuples(st.just("fault"), FAULTS, st.just(b"")),
    ),
    max_size=14,
)


@given(st.binary(max_size=50), STEPS, st.sampled_from([4, 8]))
@settings(deadline=None)
def test_whatever_fails_nobody_hears_of_others_where_there_were_none(
    tmp_path_factory, old, steps, part
):
    state = tmp_path_factory.mktemp("state")
    config = TreeConfig(allow_overwrite=True, write_part_bytes=part)
    mount = Driver(config, state_dir=state, min_part_bytes=3)
    files, run, plain = mount.fs.files, mount.run, bytearray(old)
    mount.store.put_now("f", old)
    ino = mount.ino("f")
    fh = run(files.open(ino, os.O_RDWR))
    for kind, at, data in steps:
        if kind == "fault":
            operation, n, after = at
            setattr(mount.store, "after" if after else "gate", Nth(operation, n))
            continue
        with suppress(StoreUnavailableError):
            if kind == "fsync":
                run(files.fsync(fh))
                assert mount.store.objects["f"].data == plain
            elif kind == "truncate":
                run(mount.fs.setattr(ino, size=at))
                plain = plain[:at] + bytes(max(0, at - len(plain)))
            else:
                offset = len(plain) if kind == "append" else at
                run(files.write(fh, offset, data))
                plain += bytes(max(0, offset - len(plain)))
                plain[offset : offset + len(data)] = data
    mount.store.gate = mount.store.after = Nth("", 0)
    with suppress(StoreUnavailableError):
        run(files.fsync(fh))  # of a part that had failed before
    run(files.fsync(fh))
    assert b"".join(run(files.read(fh, 0, 1000))) == plain
    run(files.release(fh))
    assert mount.store.objects["f"].data == plain
    is_id_lost = ("CREATE_UPLOAD", True) in [
        (at[0], at[2]) for kind, at, _ in steps if kind == "fault"
    ]
    assert mount.store.uploads == {} or is_id_lost
    assert list(state.iterdir()) == []
    mount.forget_all()
    mount.close()


class Nth:
    """Fails one request of a kind."""

    def __init__(self, kind, n):
        self.kind, self.left = kind, n

    async def __call__(self, operation, _key):
        if operation == self.kind:
            self.left -= 1
            if self.left == -1:
                raise DOWN
