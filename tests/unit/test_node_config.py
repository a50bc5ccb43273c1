from pathlib import Path

import pytest

from csi_s3.config.node import MounterConfig, NodeConfig
from csi_s3.errors import BadOptionError

FLAGS = {
    "--endpoint": "unix:///csi/csi.sock",
    "--node-id": "node-1",
    "--state-dir": "/var/lib/csi-s3",
    "--kubelet-dir": "/var/lib/kubelet",
    "--mounter": "/run/csi-s3/node.sock",
}


def argv(**changes: str) -> list[str]:
    given = {**FLAGS, **{f"--{k.replace('_', '-')}": v for k, v in changes.items()}}
    return [part for flag in given.items() for part in flag]


def test_flags_are_enough():
    assert NodeConfig.from_args(argv(), {}) == NodeConfig(
        endpoint=Path("/csi/csi.sock"),
        node_id="node-1",
        state_dir=Path("/var/lib/csi-s3"),
        kubelet_dir=Path("/var/lib/kubelet"),
        mounter=Path("/run/csi-s3/node.sock"),
        driver_name="s3.csi.aws.com",
        mounter_uid=0,
    )


def test_the_environment_is_enough_and_flags_win():
    environ = {
        "CSI_S3_ENDPOINT": "unix:///csi/csi.sock",
        "CSI_S3_NODE_ID": "from-environment",
        "CSI_S3_STATE_DIR": "/var/lib/csi-s3",
        "CSI_S3_KUBELET_DIR": "/var/lib/kubelet",
        "CSI_S3_MOUNTER": "/run/csi-s3/node.sock",
        "CSI_S3_DRIVER_NAME": "s3.example.org",
        "CSI_S3_MOUNTER_UID": "65532",
    }
    config = NodeConfig.from_args([], environ)
    assert (config.driver_name, config.mounter_uid) == ("s3.example.org", 65532)
    assert config.node_id == "from-environment"
    assert NodeConfig.from_args(["--node-id", "flag"], environ).node_id == "flag"


def test_an_empty_variable_is_as_good_as_none():
    assert NodeConfig.from_args(argv(), {"CSI_S3_MOUNTER_UID": ""}).mounter_uid == 0


@pytest.mark.parametrize("flag", FLAGS)
def test_a_missing_flag_is_named_with_its_variable(flag):
    given = {k: v for k, v in FLAGS.items() if k != flag}
    with pytest.raises(BadOptionError) as caught:
        NodeConfig.from_args([part for item in given.items() for part in item], {})
    variable = "CSI_S3_" + flag[2:].replace("-", "_").upper()
    assert str(caught.value) == f"{flag} is missing (give {flag} or set {variable})"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"endpoint": "tcp://0.0.0.0:1"},
            "--endpoint 'tcp://0.0.0.0:1' is not a socket's address (expected unix:///ABSOLUTE/PATH)",
        ),
        ({"endpoint": "unix://relative"}, "--endpoint 'unix://relative' is not a socket's address"),
        ({"state_dir": "relative"}, "--state-dir 'relative' is not a full path (expected /ABS"),
        ({"kubelet_dir": "/var/../etc"}, "--kubelet-dir '/var/../etc' is not a full path"),
        ({"driver_name": "no spaces"}, "--driver-name 'no spaces' is not a CSI driver's name"),
        ({"driver_name": "a" * 64}, "at most 63 characters"),
        ({"mounter_uid": "nobody"}, "--mounter-uid 'nobody' is not a user's number (expected e.g."),
        ({"mounter_uid": "4294967295"}, "is not a user's number"),
        ({"node_id": "n" * 257}, "expected at most 256 bytes"),
    ],
)
def test_a_bad_value_is_named_with_the_form_expected(changes, text):
    with pytest.raises(BadOptionError) as caught:
        NodeConfig.from_args(argv(**changes), {})
    assert text in str(caught.value)


def test_an_unknown_flag_is_named():
    with pytest.raises(BadOptionError) as caught:
        NodeConfig.from_args([*argv(), "--nodeid", "x"], {})
    assert "unrecognized arguments: --nodeid x" in str(caught.value)
    assert "csi-s3 node --help lists the flags" in str(caught.value)


def test_help_names_every_flag_and_variable(capsys):
    with pytest.raises(SystemExit) as ended:
        NodeConfig.from_args(["--help"], {})
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for flag in (*FLAGS, "--driver-name", "--mounter-uid"):
        assert flag in text
        assert "CSI_S3_" + flag[2:].replace("-", "_").upper() in text


def test_the_mounter_takes_its_socket_from_flag_or_environment():
    assert MounterConfig.from_args(["--socket", "/a"], {}).socket == Path("/a")
    assert MounterConfig.from_args([], {"CSI_S3_SOCKET": "/b"}).socket == Path("/b")
    with pytest.raises(BadOptionError, match="--socket is missing"):
        MounterConfig.from_args([], {})
