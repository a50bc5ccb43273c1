"""What a volume may name as its store, by the rules of the mounter."""

import socket

import pytest

from csi_s3.config.programs import MounterConfig
from csi_s3.config.store_rules import CA_DIRECTORIES, StoreRules
from csi_s3.config.volume import BucketConfig
from csi_s3.errors import BadOptionError
from csi_s3.s3 import endpoint_guard
from csi_s3.s3.endpoint_guard import AddressGuard, check_volume

REFUSED = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "017700000001",
    "0.0.0.0",
    "0.1.2.3",
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "2852039166",  # 169.254.169.254
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "224.0.0.1",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:7f00:1::]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
]
ALLOWED = ["10.0.0.7", "192.168.1.1", "172.16.0.1", "100.64.0.1", "8.8.8.8", "[fd12::1]", "s3.test"]


def guard(host, *, allow_loopback=False):
    return AddressGuard(f"http://{host}:9000/x", allow_loopback=allow_loopback)


@pytest.mark.parametrize("host", REFUSED)
def test_an_address_that_only_the_node_reaches_is_refused_in_whatever_form(host):
    with pytest.raises(BadOptionError, match="volumes may not use it"):
        guard(host).check_url()


@pytest.mark.parametrize("host", ALLOWED)
def test_other_addresses_and_names_may_be_used(host):
    guard(host).check_url()


@pytest.mark.parametrize("host", REFUSED)
def test_a_flag_allows_loopback_and_nothing_else(host):
    is_loopback = host in {
        *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "017700000001"),
        *("[::1]", "[::ffff:127.0.0.1]", "[::127.0.0.1]", "[2002:7f00:1::]"),
    }
    if is_loopback:
        guard(host, allow_loopback=True).check_url()
    else:
        with pytest.raises(BadOptionError):
            guard(host, allow_loopback=True).check_url()


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "2130706433", "not-one"])
def test_no_socket_is_opened_for_an_address_that_may_not_be_used(address):
    opening = guard("store.test")
    with pytest.raises(OSError, match="address"):
        opening.open((socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 80)))
    refusal = opening.take_refusal()
    assert (refusal is None) == (address == "not-one")
    assert opening.take_refusal() is None
    opening.open((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("10.0.0.7", 80))).close()


def volume(**options):
    return BucketConfig(bucket="bkt", **options)


@pytest.mark.parametrize(
    ("listed", "host", "is_allowed"),
    [
        ((), "any.test", True),
        (("minio.test",), "minio.test", True),
        (("minio.test",), "MinIO.Test.", True),
        (("minio.test",), "other.test", False),
        (("minio.test",), "x.minio.test", False),
        (("minio.test",), "evil-minio.test", False),
        (("*.example.org",), "a.b.example.org", True),
        (("*.example.org",), "example.org", False),
        (("*.example.org",), "evilexample.org", False),
        (("10.0.0.7", "fd12::1"), "[fd12::1]", True),
    ],
)
def test_a_list_of_hosts_limits_what_volumes_name(listed, host, is_allowed):
    rules = StoreRules(allowed_endpoints=listed)
    config = volume(endpoint_url=f"https://{host}:9000")
    if is_allowed:
        check_volume(config, rules, own_url=None)
    else:
        with pytest.raises(BadOptionError, match=r"s3\.allowedEndpoints"):
            check_volume(config, rules, own_url=None)


def test_the_mounters_own_endpoint_and_aws_need_no_place_in_the_list():
    rules = StoreRules(allowed_endpoints=("minio.test",))
    check_volume(volume(), rules, own_url="http://127.0.0.1:9000")
    own = "http://127.0.0.1:9000"
    check_volume(volume(endpoint_url=own), rules, own_url=own)
    assert not endpoint_guard.is_foreign(volume(endpoint_url=own), own)


@pytest.mark.parametrize(
    "path", ["/dev/zero", "/etc/passwd", "/etc/ssl/../passwd", "/proc/self/environ", "/etc/ssl"]
)
def test_a_volume_names_certificate_authorities_only_where_they_are(path):
    with pytest.raises(BadOptionError, match="is no file that volumes may name"):
        check_volume(volume(ca_bundle=path), StoreRules(), own_url=None)


def test_a_bundle_of_the_system_may_be_named():
    bundles = [f"{CA_DIRECTORIES[1]}/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"]
    found = next(path for path in bundles if endpoint_guard.Path(path).exists())
    check_volume(volume(ca_bundle=found), StoreRules(), own_url=None)


def test_the_rules_come_from_flags_and_survive_the_way_to_the_worker():
    config = MounterConfig.from_args(
        ["--socket", "/a", "--allowed-endpoints", "MinIO.test, *.example.org,[fd12::1]"],
        {"CSI_S3_ALLOW_LOOPBACK": "on"},
    )
    rules = config.store_rules
    assert rules == StoreRules(
        allowed_endpoints=("minio.test", "*.example.org", "fd12::1"), allow_loopback=True
    )
    assert StoreRules.from_text(rules.to_text()) == rules


@pytest.mark.parametrize("hosts", ["https://minio.test", "minio.test:9000", "a,,b", "*", "a b"])
def test_a_list_with_what_is_no_host_is_refused(hosts):
    with pytest.raises(BadOptionError, match="--allowed-endpoints"):
        MounterConfig.from_args(["--socket", "/a", "--allowed-endpoints", hosts], {})
