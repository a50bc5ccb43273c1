"""Checksums that S3 verifies: CRC32C and CRC64NVME, computed in C by awscrt.

A multipart object's CRC32C is composite (a checksum over the parts' checksums, `…-N`), its
CRC64NVME covers the object's bytes ("full object"); S3 offers no composite CRC64NVME.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from awscrt import checksums

from csi_s3.s3.store import Buffer, Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """name: as in x-amz-checksum-algorithm. element: its name in XML bodies."""

    name: str
    width: int
    full_object: bool
    compute: Callable[[Buffer], int]

    @property
    def header(self) -> str:
        return f"x-amz-checksum-{self.name.lower()}"

    @property
    def element(self) -> str:
        return f"Checksum{self.name}"

    def of(self, data: Buffer) -> str:
        """The checksum as S3 writes it: base64 of its big-endian bytes."""
        return self._written(self.compute(data))

    def read(self, text: str) -> str:
        """A checksum as a store names it; "" if it is none of this algorithm."""
        try:
            is_one = len(base64.b64decode(text, validate=True)) == self.width
        except (binascii.Error, ValueError):
            return ""
        return text if is_one else ""

    def of_parts(self, parts: Sequence[Part]) -> str:
        """The checksum of the whole object, from its parts'; empty if one of them is unknown."""
        if not all(part.checksum for part in parts):
            return ""
        raw = [base64.b64decode(part.checksum) for part in parts]
        if not self.full_object:
            return f"{self.of(b''.join(raw))}-{len(parts)}"
        whole = 0
        for part, value in zip(parts, raw, strict=True):
            whole = checksums.combine_crc64nvme(whole, int.from_bytes(value, "big"), part.size)
        return self._written(whole)

    def _written(self, value: int) -> str:
        return base64.b64encode(value.to_bytes(self.width, "big")).decode()


ALGORITHMS = {  # by the option `upload-checksums`; "off" is none of them
    "crc32c": Algorithm(name="CRC32C", width=4, full_object=False, compute=checksums.crc32c),
    "crc64nvme": Algorithm(
        name="CRC64NVME", width=8, full_object=True, compute=checksums.crc64nvme
    ),
}
