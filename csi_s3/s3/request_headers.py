"""The request headers that a volume's options add, and the check that the store obeyed them."""

import mimetypes
from collections.abc import Mapping

from csi_s3.config.volume import BucketConfig
from csi_s3.errors import IntegrityError
from csi_s3.s3.answer_texts import shown
from csi_s3.s3.signing import quoted_key
from csi_s3.s3.store import ObjectInfo

DEFAULT_TYPE = "binary/octet-stream"
SSE = "x-amz-server-side-encryption"
SSE_KEY = "x-amz-server-side-encryption-aws-kms-key-id"


class RequestHeaders:
    """Built once for a volume. every: sent with all of its requests (`Http`)."""

    def __init__(self, config: BucketConfig) -> None:
        self._bucket, self._owner = config.bucket, config.expected_bucket_owner
        self._infer_type, self._storage_class = config.infer_content_type, config.storage_class
        self._sse = config.sse or ("aws:kms" if config.sse_kms_key_id else None)
        self._sse_key = config.sse_kms_key_id
        self.encrypts = self._sse is not None
        self.every: dict[str, str] = _without_empty(
            {
                "x-amz-request-payer": "requester" if config.requester_pays else None,
                "x-amz-expected-bucket-owner": config.expected_bucket_owner,
            }
        )

    def new_object(
        self, key: str, metadata: Mapping[str, str], preserved: Mapping[str, str]
    ) -> dict[str, str]:
        """For a PUT or the creation of an upload. preserved: of the version that it replaces."""
        name = key.rpartition("/")[2]  # guess_type takes URLs: "data:…" would name a type itself
        guessed = mimetypes.guess_type(f"./{name}")[0] if self._infer_type else None
        if self._sse:
            preserved = {k: v for k, v in preserved.items() if k not in (SSE, SSE_KEY)}
        return {
            "Content-Type": guessed or DEFAULT_TYPE,
            **preserved,
            **self._stored_as(self._storage_class),
            **{f"x-amz-meta-{k}": v for k, v in metadata.items()},
        }

    def copied(self, source: ObjectInfo) -> dict[str, str]:
        """For a copy of the object: metadata stays; so does the class, if no option names one."""
        own = source.storage_class if source.storage_class != "STANDARD" else None
        return {**self.copy_source(source), **self._stored_as(self._storage_class or own)}

    def copy_source(self, source: ObjectInfo) -> dict[str, str]:
        if self._bucket.startswith("arn:"):
            path = f"{self._bucket}/object/{quoted_key(source.key)}"
        else:
            path = f"/{self._bucket}/{quoted_key(source.key)}"
        return _without_empty(
            {
                "x-amz-copy-source": path,
                "x-amz-copy-source-if-match": source.etag,
                "x-amz-source-expected-bucket-owner": self._owner,
            }
        )

    def check_encryption(self, what: str, answer: Mapping[str, str]) -> None:
        """Compare the answer to a write with the options `sse` and `sse-kms-key-id`.

        Raises:
            IntegrityError: the store encrypted otherwise, or not at all.

        """
        if self._sse is None:
            return
        actual, actual_key = answer.get(SSE), answer.get(SSE_KEY, "")
        if actual != self._sse:
            raise IntegrityError(
                f"{what}: asked for encryption {self._sse!r}, the store answered"
                f" {shown(actual) if actual else None}",
                "the object is stored otherwise; check `sse` and the bucket's encryption",
            )
        key = self._sse_key
        if key is None or "alias/" in key:
            return  # the answer to an alias names the key itself
        # AWS answers arn:aws:kms:REGION:ACCOUNT:key/KEY, MinIO arn:aws:kms:KEY.
        if actual_key != key and not actual_key.endswith((f":key/{key}", f":{key}")):
            raise IntegrityError(
                f"{what}: asked for KMS key {key!r}, the store answered {shown(actual_key)}",
                "the object is encrypted with another key; check `sse-kms-key-id`",
            )

    def _stored_as(self, storage_class: str | None) -> dict[str, str]:
        return _without_empty(
            {"x-amz-storage-class": storage_class, SSE: self._sse, SSE_KEY: self._sse_key}
        )


def _without_empty(headers: Mapping[str, str | None]) -> dict[str, str]:
    return {k: v for k, v in headers.items() if v}
