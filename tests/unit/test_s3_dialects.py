"""Which kind of store answers: by its host, then by what its answers say."""

import pytest

from csi_s3.s3.dialects import AWS, COMPATIBLE, MINIO, VERSITYGW, of_answer, of_host


@pytest.mark.parametrize(
    ("present", "servers", "then"),
    [
        (COMPATIBLE, ["MinIO"], MINIO),
        (COMPATIBLE, ["MinIO/RELEASE.2025"], MINIO),
        (COMPATIBLE, ["", "nginx", "Ceph Object Gateway"], COMPATIBLE),
        (COMPATIBLE, ["", "VERSITYGW", "MinIO"], VERSITYGW),
        (COMPATIBLE, ["MinIO", "nginx", ""], MINIO),  # a gateway's own answer changes nothing
        (AWS, ["AmazonS3", "MinIO"], AWS),
    ],
)
def test_a_dialect_is_taken_from_the_first_answer_that_names_it(present, servers, then):
    for server in servers:
        present = of_answer(present, server)
    assert present is then


def test_only_aws_has_the_bucket_in_the_host_name_and_is_known_before_it_answers():
    assert of_host(None).virtual_hosts
    assert not of_host("https://minio.example").virtual_hosts
    assert of_host("https://minio.example").compares_writes is None
