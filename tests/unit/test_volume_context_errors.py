"""What is said about a wrong volume, read as a person would read it in `kubectl describe pod`."""

import itertools

import pytest

from csi_s3.config.volume_context import parse_volume
from csi_s3.errors import BadOptionError, Status

BUCKET = {"bucketName": "data"}
KMS = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def config(*flags):
    return parse_volume(BUCKET, flags).config


def refusal(*flags, context=BUCKET, **kwargs):
    with pytest.raises(BadOptionError) as caught:
        parse_volume(context, flags, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (
            {},
            (
                "volume attribute bucketName is missing (expected a bucket name: "
                "3 to 63 of a-z 0-9 . -, a letter or digit at both ends)"
            ),
        ),
        (
            {"bucketName": ""},
            (
                "volume attribute bucketName='' is not valid (expected a bucket name: "
                "3 to 63 of a-z 0-9 . -, a letter or digit at both ends)"
            ),
        ),
        (
            {"bucketname": "data"},
            (
                "volume attribute bucketname is not known (value 'data') (did you mean bucketName? "
                "It takes a bucket name: 3 to 63 of a-z 0-9 . -, a letter or digit at both ends)"
            ),
        ),
        (
            {**BUCKET, "cacheEmptyDirSizelimit": "1Gi"},
            (
                "volume attribute cacheEmptyDirSizelimit is not known (value '1Gi') "
                "(did you mean cacheEmptyDirSizeLimit? It takes a value)"
            ),
        ),
        (
            {**BUCKET, "authenticationSource": "pod"},
            (
                "volume attribute authenticationSource='pod' is not valid "
                "(expected driver (the identity of a pod or a Secret is not supported yet))"
            ),
        ),
        (
            {**BUCKET, "mountpointPodServiceAccountName": "sa"},
            (
                "volume attribute mountpointPodServiceAccountName is refused "
                "(all volumes have the identity of the driver's own service account)"
            ),
        ),
        (
            {**BUCKET, "mountpointEnv.HTTPS_PROXY": "http://p"},
            (
                "volume attribute mountpointEnv.HTTPS_PROXY is refused (proxies are set for the "
                "whole mounter, by HTTPS_PROXY and NO_PROXY in its environment)"
            ),
        ),
        (
            {**BUCKET, "mountpointEnv.LD_PRELOAD": "/x.so"},
            (
                "volume attribute mountpointEnv.LD_PRELOAD is not known (value '/x.so') "
                "(see docs/options.md for all attributes)"
            ),
        ),
        *(
            (
                {**BUCKET, name: "a/"},
                (
                    f"volume attribute {name} is not known "
                    "(prefix is a mount option: put it into the volume's mountOptions)"
                ),
            )
            for name in ("bucketprefix", "bucketPrefix", "Prefix", "directory", "subPath", "subdir")
        ),
        (
            {**BUCKET, "prefix": "a/"},
            (
                "volume attribute prefix is not known "
                "(prefix is a mount option: put it into the volume's mountOptions)"
            ),
        ),
        (
            {**BUCKET, "accessKeyID": "AKIAEXAMPLE"},
            ("volume attribute accessKeyID is not known (see docs/options.md for all attributes)"),
        ),
    ],
)
def test_a_wrong_attribute_is_explained(context, message):
    assert refusal(context=context) == message


# --- errors as a person reads them --------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            "regoin us-east-1",
            (
                "mount option regoin is not known (value 'us-east-1') (did you mean region? "
                "It takes a region such as eu-central-1: letters, digits, - and _)"
            ),
        ),
        (
            "allow_other",
            "mount option allow_other is not known (did you mean allow-other? It takes no value)",
        ),
        ("xyzzy", "mount option xyzzy is not known (see docs/options.md for all options)"),
        (
            "allow-delete=true",
            (
                "mount option allow-delete='true' is not valid "
                "(it takes no value: write allow-delete alone, or leave it out)"
            ),
        ),
        (
            "uid",
            "mount option uid has no value (expected an integer from 0 to 4294967294)",
        ),
        (
            "uid=root",
            "mount option uid='root' is not valid (expected an integer from 0 to 4294967294)",
        ),
        (
            "uid=1,gid=x",
            "mount option gid='x' is not valid (expected an integer from 0 to 4294967294)",
        ),
        (
            "uid=1,gidd=2",
            (
                "mount option uid='1,gidd=2' is not valid (expected an integer from 0 to "
                "4294967294; a list is split at its commas only where each piece is a known option)"
            ),
        ),
        (
            "allow-delete,alow-overwrite",
            (
                "mount option alow-overwrite is not known "
                "(did you mean allow-overwrite? It takes no value)"
            ),
        ),
        (
            "uid = 5",
            (
                "mount option uid is followed by a blank and '=' "
                "(write uid=VALUE, without blanks around '=')"
            ),
        ),
        (
            "-o uid=1",
            "mount option -o is refused (each item of mountOptions is one option)",
        ),
        (
            "posix-metadata",
            (
                "mount option posix-metadata is refused "
                "(it is not supported yet; mode and owner are those of the options)"
            ),
        ),
        (
            "bucket-type directory",
            (
                "mount option bucket-type='directory' is not valid "
                "(expected general-purpose (directory buckets are not supported yet))"
            ),
        ),
        (
            "bucketName=data",
            (
                "mount option bucketName is not known "
                "(bucketName is a volume attribute: put it into the volume's volumeAttributes)"
            ),
        ),
        (
            "endpoint-url=https://me:hunter2@host",
            (
                "mount option endpoint-url='https://***@host' is not valid (expected http:// or "
                "https:// with a host, and no user, query or fragment; "
                "a URL must not contain credentials)"
            ),
        ),
        (
            "secret_access_key=hunter2",
            ("mount option secret_access_key is not known (see docs/options.md for all options)"),
        ),
        (
            "prefix=/data",
            (
                "mount option prefix='/data' is not valid (expected a key prefix such as "
                "data/sales/, no part of it empty, . or ..; remove the leading '/')"
            ),
        ),
        *(
            (
                f"prefix={quotes}my data/{quotes}",
                (
                    f"mount option prefix={quotes + 'my data/' + quotes!r} is not valid (expected a"
                    " key prefix such as data/sales/, no part of it empty, . or ..; remove the"
                    " quotes: they would be part of every key)"
                ),
            )
            for quotes in ('"', "'")
        ),
        (
            f"sse-kms-key-id={KMS}",
            (
                f"option sse-kms-key-id='{KMS}' is set without sse "
                "(add sse=aws:kms or sse=aws:kms:dsse)"
            ),
        ),
        (
            "write-part-size=1073741824",
            (
                "write-part-size=1073741824 is more than half of memory-target=512 (MiB) "
                "(set memory-target=2048 or more, or leave the part size out: "
                "parts grow with a long file)"
            ),
        ),
    ],
)
def test_a_wrong_option_is_explained(item, message):
    assert refusal(item) == message


def test_a_bad_option_is_an_invalid_argument():
    with pytest.raises(BadOptionError) as caught:
        config("uid=x")
    assert caught.value.status is Status.INVALID_ARGUMENT


def test_a_long_value_is_cut_in_the_message():
    assert len(refusal(f"uid={'9' * 100_000}")) < 400


def test_a_kms_key_of_aws_is_named_by_its_full_arn():
    assert config("sse=aws:kms", f"sse-kms-key-id={KMS}").bucket.sse_kms_key_id == KMS
    wrong = "is not valid (expected the key's full ARN, arn:aws:kms:REGION:ACCOUNT:key/ID, not"
    assert wrong in refusal("sse=aws:kms", "sse-kms-key-id=alias/mine")
    vpc = "endpoint-url=https://bucket.vpce-1.s3.us-east-1.vpce.amazonaws.com"
    assert wrong in refusal("sse=aws:kms", "sse-kms-key-id=alias/mine", vpc)
    assert "is set with sse='AES256'" in refusal("sse=AES256", f"sse-kms-key-id={KMS}")


def test_a_kms_key_of_another_store_has_the_name_that_store_gave_it():
    flags = ["sse=aws:kms", "sse-kms-key-id=my-minio-key", "endpoint-url=https://minio:9000"]
    assert config(*flags).bucket.sse_kms_key_id == "my-minio-key"


@pytest.mark.parametrize("password", ["hunter2", "hunt@er2", "hu:nt@@er2"])
def test_no_part_of_a_password_in_a_url_is_shown(password):
    said = refusal(f"endpoint-url=https://me:{password}@host/path")
    assert "endpoint-url='https://***@host/path'" in said
    assert "er2" not in said


def test_of_two_wrong_attributes_the_same_one_is_named_whatever_their_order():
    wrong = [
        ("mountpointEnv.NO_PROXY", "a"),
        ("mountpointEnv.HTTPS_PROXY", "b"),
        ("bucketName", ""),
    ]
    said = {refusal(context=dict(order)) for order in itertools.permutations(wrong)}
    assert len(said) == 1


@pytest.mark.parametrize("prefix", ['a"b"/', '"a"b/', "it's/", '"', 'a/"b"'])
def test_quotes_in_a_prefix_are_names_of_keys(prefix):
    assert config(f"prefix={prefix}").bucket.prefix.rstrip("/") == prefix.rstrip("/")
