"""What stores do differently: one row for each kind of store, and how it is recognised.

AWS is recognised by its host, before any request; others by the `Server` header of their answers,
so that the first request is made in the dialect of the host. A store that is none of these is asked
in the way that every store understands. To support another store, add a row and a way to recognise
it. What only tests must know is in `tests/contract/quirks.py`.
"""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

_AWS_HOST = re.compile(r"(^|\.)(amazonaws\.(com|com\.cn|eu)|api\.aws)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One kind of store.

    virtual_hosts: the bucket may be part of the host name.
    compares_writes: PUT and COMPLETE compare If-Match and If-None-Match; None: not known.
    compares_copy_target: COPY compares If-None-Match; others ignore it, so a HEAD asks first.
    knows_checksums: a refusal of x-amz-checksum-… is never the store's ignorance.
    names_upload_checksum: an upload names its algorithm when it is created.
    reports_encryption: the answers to CREATE-UPLOAD, COMPLETE and COPY name the encryption.
    reports_restores: LIST tells which archived objects are restored, on request.
    checks_object_size: COMPLETE compares x-amz-mp-object-size.
    lists_deleted_prefixes: LIST has prefixes below which only delete markers are left.
    """

    virtual_hosts: bool = False
    compares_writes: bool | None = None
    compares_copy_target: bool = False
    knows_checksums: bool = False
    names_upload_checksum: bool = True
    reports_encryption: bool = True
    reports_restores: bool = False
    checks_object_size: bool = False
    lists_deleted_prefixes: bool = False


AWS = Dialect(
    virtual_hosts=True,
    compares_writes=True,
    compares_copy_target=True,
    knows_checksums=True,
    reports_restores=True,
    checks_object_size=True,
)
# An upload that names an algorithm must have a checksum in every part, and MinIO's UploadPartCopy
# computes none (PutObjectPart in cmd/erasure-multipart.go: 400 "checksum missing"). Prefixes:
# docs/decisions/0014. Encryption is named in the answers to PUT, PART, GET and HEAD only.
MINIO = Dialect(names_upload_checksum=False, reports_encryption=False, lists_deleted_prefixes=True)
# versitygw answers UploadPartCopy with the checksum of the whole source, which the completion of an
# upload with a named algorithm does not accept if the source was uploaded in parts.
VERSITYGW = Dialect(names_upload_checksum=False)
COMPATIBLE = Dialect()

_OF_SERVERS = {"MinIO": MINIO, "VERSITYGW": VERSITYGW}


def of_host(url: str | None) -> Dialect:
    """The dialect before any answer. url: None for AWS's own endpoint."""
    is_aws = url is None or _AWS_HOST.search(urlsplit(url).hostname or "")
    return AWS if is_aws else COMPATIBLE


def of_answer(present: Dialect, server: str) -> Dialect:
    """The dialect after an answer with this `Server` header; a gateway's own changes nothing."""
    named = next((d for name, d in _OF_SERVERS.items() if server.startswith(name)), None)
    return named if named is not None and present is COMPATIBLE else present
