"""Whatever arrives at the mounter's socket, the node plugin answers Probe afterwards."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from csi_s3 import csi_pb2 as csi
from csi_s3.link.report import State
from csi_s3.link.spec import VERSION
from tests.made_up_messages import DESCRIPTORS, datagrams, opened
from tests.rpc.hostile_mounter import HostileMounter, have, report

ERROR = {"code": "internal", "what": "w", "hint": "h", "public": "p"}
TEMPLATES = [
    {"type": "hello", "version": VERSION, "pid": 1},
    {"type": "ready"},
    have(),
    have("b" * 32, report=report("b" * 32)["report"]),
    report(),
    report(state=State.ENDED),
    {"type": "report", "report": {**report()["report"], "state": "failed", "error": ERROR}},
    {"type": "notice", "notice": {"mount_id": "a" * 32, "reason": "UploadFailed", "error": ERROR}},
]
SENDING = st.tuples(
    datagrams(TEMPLATES), st.lists(st.sampled_from(DESCRIPTORS), max_size=3) | st.just(["fuse"])
)
ANY_FIXTURE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.mark.timeout(600)  # a second's pause after each connection that is ended
@settings(max_examples=30, suppress_health_check=ANY_FIXTURE)
@given(
    begins=st.sampled_from(["", "hello", "ready"]), sent=st.lists(SENDING, min_size=1, max_size=6)
)
async def test_node_answers_whatever_a_mounter_sends(node, begins, sent):
    with HostileMounter(node.mounter_socket) as mounter:
        try:
            if begins:
                await mounter.greet()
            if begins == "ready":
                await mounter.say({"type": "ready"})
            for data, kinds in sent:
                with opened(kinds) as fds:
                    await mounter.say(data, fds)
            mounter.end()
        except ConnectionError:  # cut off
            pass
        assert await mounter.is_cut_off()  # node has taken all of it
        await node.identity.Probe(csi.ProbeRequest(), timeout=60)
    assert node.process.poll() is None
    assert not node.logged("ERROR"), node.logged("ERROR")[0]
