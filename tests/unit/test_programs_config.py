from pathlib import Path

import pytest

from csi_s3.config.api_server import ApiServer, in_cluster
from csi_s3.config.defaults import DefaultOptions
from csi_s3.config.programs import MounterConfig, NodeConfig, SpoolLimit
from csi_s3.errors import BadOptionError

FLAGS = {
    "--endpoint": "unix:///csi/csi.sock",
    "--node-id": "node-1",
    "--state-dir": "/var/lib/csi-s3",
    "--kubelet-dir": "/var/lib/kubelet",
    "--mounter": "/run/csi-s3/node.sock",
}
IN_A_POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


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
        registration_dir=None,
        kubelet_endpoint=Path("/csi/csi.sock"),
        http_address=None,
        default_mount_options=DefaultOptions(),
        startup_taint="",
        events=False,
        api_server=None,
    )


@pytest.mark.parametrize(("most", "announced"), [("", 0), ("1", 1), ("7", 7), ("16", 14)])
def test_the_scheduler_gets_an_eighth_less_than_the_mounter_serves(most, announced):
    assert NodeConfig.from_args(argv(max_volumes=most), {}).max_volumes_announced == announced


@pytest.mark.parametrize("value", ["0", "-1", "many", "10001"])
def test_a_number_of_volumes_that_cannot_be_is_named(value):
    with pytest.raises(BadOptionError, match=f"--max-volumes='{value}' is not valid"):
        NodeConfig.from_args(argv(max_volumes=value), {})


def test_what_a_cluster_needs_is_optional():
    config = NodeConfig.from_args(
        argv(
            registration_dir="/registration",
            kubelet_endpoint="/var/lib/kubelet/plugins/s3.csi.aws.com/csi.sock",
            http_address="[::]:9810",
            startup_taint="s3.csi.aws.com/agent-not-ready",
            events="on",
            max_volumes="16",
        ),
        {"CSI_S3_DEFAULT_MOUNT_OPTIONS": "allow-delete\nregion us-west-2\n", **IN_A_POD},
    )
    assert config.registration_dir == Path("/registration")
    assert config.kubelet_endpoint == Path("/var/lib/kubelet/plugins/s3.csi.aws.com/csi.sock")
    assert config.http_address == ("::", 9810)
    assert config.startup_taint == "s3.csi.aws.com/agent-not-ready"
    assert config.events
    assert config.max_volumes == 16
    assert config.api_server is not None
    assert config.api_server.url == "https://10.96.0.1:443"
    assert config.default_mount_options.values == {"allow-delete": True, "region": "us-west-2"}


def test_an_empty_flag_turns_off_what_the_environment_turned_on():
    environ = {"CSI_S3_HTTP_ADDRESS": "0.0.0.0:9810", "CSI_S3_EVENTS": "on"}
    config = NodeConfig.from_args(argv(http_address="", events="off"), environ)
    assert (config.http_address, config.events) == (None, False)


def test_the_api_server_is_the_pods():
    server = in_cluster({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"})
    account = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    assert server == ApiServer(
        url="https://[fd00::1]:443", token=account / "token", ca=account / "ca.crt"
    )


@pytest.mark.parametrize("changes", [{"events": "on"}, {"startup_taint": "a/b"}])
def test_what_needs_a_cluster_is_refused_outside(changes):
    with pytest.raises(BadOptionError, match="KUBERNETES_SERVICE_HOST is not set"):
        NodeConfig.from_args(argv(**changes), {"KUBERNETES_SERVICE_PORT": "443"})


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("\n \n", {}),
        ("uid=1,gid=2", {"uid": 1, "gid": 2}),
        ("--uid 1, gid=2,", {"uid": 1, "gid": 2}),
        ("prefix a,b/\n", {"prefix": "a,b/"}),
        ("uid 1\nprefix a,b/", {"uid": 1, "prefix": "a,b/"}),
        ('uid=1,context="u:r:t:s0:c1,c2"', {"uid": 1, "context": "u:r:t:s0:c1,c2"}),
    ],
)
def test_default_mount_options_are_lines_or_a_comma_list(text, values):
    config = NodeConfig.from_args(argv(default_mount_options=text), {})
    assert config.default_mount_options.values == values


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
            "--endpoint='tcp://0.0.0.0:1' is not valid (expected unix:///ABSOLUTE/PATH)",
        ),
        ({"endpoint": "unix://relative"}, "--endpoint='unix://relative' is not valid"),
        (
            {"state_dir": "relative"},
            "--state-dir='relative' is not valid (expected an absolute path",
        ),
        (
            {"kubelet_dir": "/var/../etc"},
            "--kubelet-dir='/var/../etc' is not valid (expected an absolute path without '..'",
        ),
        (
            {"driver_name": "no spaces"},
            "--driver-name='no spaces' is not valid (expected a domain name",
        ),
        ({"driver_name": "a" * 64}, "at most 63 characters"),
        (
            {"mounter_uid": "alice"},
            "--mounter-uid='alice' is not valid (expected an integer from 0 to 4294967294)",
        ),
        ({"mounter_uid": "4294967295"}, "--mounter-uid='4294967295' is not valid"),
        ({"node_id": "n" * 257}, "expected at most 256 bytes"),
        (
            {"registration_dir": "r"},
            "--registration-dir='r' is not valid (expected an absolute path",
        ),
        ({"kubelet_endpoint": "unix:///a"}, "--kubelet-endpoint='unix:///a' is not valid"),
        ({"http_address": "9810"}, "--http-address='9810' is not valid (expected HOST:PORT"),
        ({"http_address": ":9810"}, "expected HOST:PORT such as 0.0.0.0:9810 or [::]:9810"),
        ({"http_address": "0.0.0.0:65536"}, "--http-address='0.0.0.0:65536' is not valid"),
        ({"http_address": "0.0.0.0:0"}, "--http-address='0.0.0.0:0' is not valid"),
        (
            {"startup_taint": "a/b=true:NoSchedule"},
            "--startup-taint='a/b=true:NoSchedule' is not valid (expected the key of a taint alone",
        ),
        (
            {"default_mount_options": "allow-delete,uid=me"},
            "--default-mount-options: mount option uid='me' is not valid (expected an integer",
        ),
        (
            {"default_mount_options": "alow-delete\n"},
            "--default-mount-options: mount option alow-delete is not known (did you mean allow-d",
        ),
        ({"events": "true"}, "--events='true' is not valid (expected on or off)"),
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
    for flag in (
        *FLAGS,
        "--driver-name",
        "--mounter-uid",
        "--registration-dir",
        "--kubelet-endpoint",
        "--http-address",
        "--default-mount-options",
        "--startup-taint",
        "--events",
    ):
        assert f"{flag} " in text
        assert "CSI_S3_" + flag[2:].replace("-", "_").upper() in text


def test_the_mounter_takes_its_socket_from_flag_or_environment():
    assert MounterConfig.from_args(["--socket", "/a"], {}).socket == Path("/a")
    assert MounterConfig.from_args([], {"CSI_S3_SOCKET": "/b"}).socket == Path("/b")
    with pytest.raises(BadOptionError, match="--socket is missing"):
        MounterConfig.from_args([], {})


def test_the_mounter_takes_its_limits_and_its_secret():
    config = MounterConfig.from_args(
        [
            *("--socket", "/a", "--memory-limit", "1073741824", "--credentials-dir", "/secret"),
            *("--spool-limit", "100Gi", "--spool-free-percent", "12", "--leftover-days", "7"),
        ],
        {"CSI_S3_MAX_VOLUMES": "8", "CSI_S3_HTTP_ADDRESS": "0.0.0.0:9811"},
    )
    assert config == MounterConfig(
        socket=Path("/a"),
        http_address=("0.0.0.0", 9811),
        memory_limit=1 << 30,
        max_volumes=8,
        credentials_dir=Path("/secret"),
        spool_limit=SpoolLimit(limit_bytes=100 << 30),
        spool_free_percent=12,
        leftover_days=7,
    )
    assert MounterConfig.from_args(["--socket", "/a"], {}) == MounterConfig(
        socket=Path("/a"),
        http_address=None,
        memory_limit=None,
        max_volumes=16,
        credentials_dir=None,
        spool_limit=None,
        spool_free_percent=0,
        leftover_days=30,
    )


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("50%", SpoolLimit(percent=50)),
        ("100%", SpoolLimit(percent=100)),
        ("4096", SpoolLimit(limit_bytes=4096)),
        ("3Ki", SpoolLimit(limit_bytes=3 << 10)),
        ("2Ti", SpoolLimit(limit_bytes=2 << 40)),
    ],
)
def test_the_disk_for_spools_is_a_size_or_a_percentage(text, limit):
    argv = ["--socket", "/a", "--spool-limit", text]
    assert MounterConfig.from_args(argv, {}).spool_limit == limit


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--memory-limit", "1Gi"], "--memory-limit='1Gi' is not valid (expected an integer from"),
        (["--spool-limit", "101%"], "--spool-limit='101%' is not valid (expected bytes, with or"),
        (["--spool-limit", "5G"], "--spool-limit='5G' is not valid (expected bytes, with or"),
        (["--spool-limit", "0"], "--spool-limit='0' is not valid (expected bytes, with or"),
        (["--memory-limit", "0"], "--memory-limit='0' is not valid (expected an integer from 1"),
        (["--max-volumes", "0"], "--max-volumes='0' is not valid (expected an integer from 1 to"),
        (["--max-volumes", ""], "--max-volumes is missing (give --max-volumes or set CSI_S3_MAX"),
        (["--credentials-dir", "secret"], "--credentials-dir='secret' is not valid"),
        (["--http-address", "localhost"], "--http-address='localhost' is not valid"),
    ],
)
def test_a_bad_value_of_the_mounters_is_named(flags, text):
    with pytest.raises(BadOptionError) as caught:
        MounterConfig.from_args(["--socket", "/a", *flags], {})
    assert text in str(caught.value)


def test_the_mounters_help_names_every_flag_and_variable(capsys):
    with pytest.raises(SystemExit):
        MounterConfig.from_args(["--help"], {})
    text = " ".join(capsys.readouterr().out.split())
    names = ("--socket", "--http-address", "--memory-limit", "--max-volumes", "--credentials-dir")
    for flag in names:
        assert f"{flag} " in text
        assert "CSI_S3_" + flag[2:].replace("-", "_").upper() in text
