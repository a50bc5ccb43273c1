"""How the values of options are written: one `ValueType` per kind of value.

Apart from the table so that the table stays a table. Numbers are read by regular expression:
int() and float() also take blanks, underscores, `1e3`, `nan` and digits of other scripts, none
of which any rival accepts.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from csi_s3.config.volume import MIB

Value = str | int | float | bool

GIB = 1 << 30
MAX_ID = (1 << 32) - 2  # (uid_t)-1 means "unchanged" to the kernel
MAX_KEY_BYTES = 1024
MAX_MODE = 0o777
MAX_TTL_S = 100 * 365 * 24 * 3600  # Mountpoint's limit: 100 years


class ValueTypeError(ValueError):
    """A value is not of its form; the text, if any, says why in this case."""


@dataclass(frozen=True, slots=True)
class ValueType:
    """One kind of value.

    metavar: stands for the value in `--help`.
    expected: the words after "expected" in an error.
    read: text to value; raises ValueError (a ValueTypeError with text where the reason helps).
    write: value to text, such that read(write(value)) == value.
    """

    metavar: str
    expected: str
    read: Callable[[str], Value]
    write: Callable[[Any], str] = str


def integer(
    low: int, high: int, *, metavar: str = "N", unit: str = "", factor: int = 1
) -> ValueType:
    """Whole numbers; `factor` turns the unit of the option into that of the config."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,20}", text) or not low <= int(text) <= high:
            raise ValueTypeError
        return int(text) * factor

    words = f"an integer from {low} to {high}" + (f" ({unit})" if unit else "")
    return ValueType(metavar, words, read, lambda value: str(value // factor))


def seconds(high: int, *, words: bool = False) -> ValueType:
    """Seconds, with decimals; with `words` also `minimal` (0) and `indefinite` (infinity)."""

    def read(text: str) -> float:
        if words and text in _TTL_WORDS:
            return _TTL_WORDS[text]
        if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text) or float(text) > high:
            raise ValueTypeError
        return float(text)

    def write(value: float) -> str:
        return "indefinite" if math.isinf(value) else f"{value:.9f}".rstrip("0").rstrip(".")

    expected = f"seconds from 0 to {high}" + (", minimal or indefinite" if words else "")
    return ValueType("SECONDS", expected, read, write)


_TTL_WORDS = {"minimal": 0.0, "indefinite": math.inf}


def choice(*words: str, note: str = "") -> ValueType:
    def read(text: str) -> str:
        if text not in words:
            raise ValueTypeError
        return text

    listed = " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
    return ValueType("|".join(words), f"{listed} {note}".rstrip(), read)


def pattern(metavar: str, expected: str, regex: str) -> ValueType:
    def read(text: str) -> str:
        if not re.fullmatch(regex, text):
            raise ValueTypeError
        return text

    return ValueType(metavar, expected, read)


def _read_switch(text: str) -> bool:
    if text not in {"on", "off"}:
        raise ValueTypeError
    return text == "on"


def _read_octal(text: str) -> int:
    if not re.fullmatch(r"[0-7]{1,5}", text) or int(text, 8) > MAX_MODE:
        raise ValueTypeError
    return int(text, 8)


def _read_path(text: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise ValueTypeError
    text.encode()
    return str(PurePosixPath(text))


def _read_url(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueTypeError
    url = urlsplit(text)
    if url.scheme not in {"http", "https"} or not url.hostname or url.port == 0:
        raise ValueTypeError
    if url.username is not None or url.password is not None:
        raise ValueTypeError("credentials do not belong into a URL")
    if "?" in text or "#" in text:
        raise ValueTypeError
    return text.rstrip("/")


def read_prefix(text: str) -> str:
    """A prefix that is empty or ends with "/", which is added where it is missing."""
    if text == "":
        return ""
    if text.startswith("/"):
        raise ValueTypeError("leave out the leading '/'")
    if re.fullmatch(r"""(["']).*\1""", text, re.DOTALL):  # no shell takes them away
        raise ValueTypeError("leave out the quotes: they would be part of every key")
    prefix = text if text.endswith("/") else f"{text}/"
    if "\0" in prefix or any(part in {"", ".", ".."} for part in prefix[:-1].split("/")):
        raise ValueTypeError("a directory cannot show such a key")
    if len(prefix.encode()) >= MAX_KEY_BYTES:
        raise ValueTypeError(f"a key has at most {MAX_KEY_BYTES} bytes")
    return prefix


def read_bucket(text: str) -> str:
    """A general-purpose bucket's name or an access point's alias (which S3 takes as one).

    Rules of "General purpose bucket naming rules" in Amazon's S3 User Guide. The suffixes refused
    by name need other end points and signatures, so they would fail late and obscurely. An access
    point's ARN is refused because a copy's source is written differently with one, while its alias
    stands wherever a bucket's name does.
    """
    if text.startswith("arn:"):
        raise ValueTypeError(_instead_of_arn(text))
    if "/" in text:
        raise ValueTypeError("the name alone; what comes after it is the option prefix")
    for suffix, what in _OTHER_BUCKETS.items():
        if text.endswith(suffix):
            raise ValueTypeError(f"{what} are not served yet")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", text) or ".." in text:
        raise ValueTypeError
    if re.fullmatch(r"[0-9]+(\.[0-9]+){3}", text):
        raise ValueTypeError("an IP address is no bucket name")
    return text


def _instead_of_arn(arn: str) -> str:
    _, _, service, _, _, resource = (*arn.split(":", 5), "", "", "", "")[:6]
    if service in _OTHER_SERVICES:
        return f"{_OTHER_SERVICES[service]} are not served yet"
    if resource.endswith(".mrap"):
        return f"{_OTHER_BUCKETS['.mrap']} are not served yet"
    if service == "s3" and not re.match("accesspoint[:/]", resource):
        return "give the bucket's name in place of its ARN"
    return "give the access point's alias in place of its ARN"


_OTHER_BUCKETS = {
    "--x-s3": "directory buckets (S3 Express One Zone)",
    "--op-s3": "Outposts buckets",
    "--ol-s3": "Object Lambda access points",
    ".mrap": "multi-region access points",
}
_OTHER_SERVICES = {
    "s3express": _OTHER_BUCKETS["--x-s3"],
    "s3-outposts": _OTHER_BUCKETS["--op-s3"],
    "s3-object-lambda": _OTHER_BUCKETS["--ol-s3"],
}


def _read_label(text: str) -> str:
    """An SELinux label; kubelet and mount(8) write it in quotes, because levels have commas."""
    bare = text[1:-1] if re.fullmatch('".*"', text) else text
    if not re.fullmatch(r"([A-Za-z0-9_.-]+:){2}[A-Za-z0-9_.-]+(:[A-Za-z0-9_.,:-]+)?", bare):
        raise ValueTypeError
    return bare


ANY = ValueType("VALUE", "a value", str)
SWITCH = ValueType("on|off", "on or off", _read_switch, lambda value: "on" if value else "off")
OCTAL = ValueType("MODE", "octal from 0 to 0777", _read_octal, lambda value: f"{value:04o}")
PATH = ValueType("PATH", "an absolute path", _read_path)
URL = ValueType("URL", "http:// or https:// with a host, and no user, query or fragment", _read_url)
PREFIX = ValueType(
    "PREFIX", "a key prefix such as data/sales/, no part of it empty, . or ..", read_prefix
)
BUCKET = ValueType(
    "BUCKET",
    "a bucket name: 3 to 63 of a-z 0-9 . -, a letter or digit at both ends",
    read_bucket,
)
ID = integer(0, MAX_ID, metavar="ID")
TTL = seconds(MAX_TTL_S, words=True)
PART = integer(5 * MIB, 5 * GIB, metavar="BYTES", unit="bytes: 5 MiB to 5 GiB")
REGION = pattern(
    "REGION", "a region such as eu-central-1: letters, digits, - and _", r"[A-Za-z0-9_-]{1,64}"
)
STORAGE_CLASS = pattern(
    "CLASS", "a storage class such as STANDARD_IA: letters, digits, - and _", r"[A-Za-z0-9_-]{1,64}"
)
ACCOUNT = pattern("ACCOUNT", "an account id of 12 digits", r"[0-9]{12}")
KMS_KEY = pattern(
    "ARN",
    "a key's full ARN, arn:aws:kms:REGION:ACCOUNT:key/ID (other stores: their key's name)",
    r"[A-Za-z0-9:/_.-]{1,2048}",
)
LABEL = ValueType("LABEL", "an SELinux label, user:role:type or user:role:type:level", _read_label)
PROFILE = pattern("NAME", "a profile's name, printable, without [ and ]", r"[ -Z\\^-~]{1,256}")
AGENT = pattern("TEXT", "up to 256 printable ASCII characters", r"[ -~]{1,256}")
