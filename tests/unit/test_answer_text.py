"""What kubelet is answered is one line that gRPC can send, whatever an error says."""

import pytest

from csi_s3.csi.interceptors import MAX_BYTES, answer_text
from csi_s3.errors import StoreRefusedError


@pytest.mark.parametrize("text", ["x", "x\n", "\udcff\udcfe", "\ud800", "é\U0001f600"])
@pytest.mark.parametrize("n", [1, 1000])
def test_an_answer_is_short_and_valid(text, n):
    answer = answer_text(StoreRefusedError(text * n, text * n))
    assert len(answer.encode()) <= MAX_BYTES
    assert "\n" not in answer
    assert answer.endswith(") [s3-refused]")
