"""From the text of options to a `VolumeConfig`, for volumes and the command line.

`OptionParser` takes options in any order and rejects at once an unknown, malformed or refused one,
or a second value; `config` checks the options together.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from csi_s3.config.options import (
    BUCKET_NAME,
    CLASHES,
    OPTIONS,
    ConfigPart,
    Option,
    OptionKind,
    Support,
    by_spelling,
)
from csi_s3.config.value_types import Value, ValueType, ValueTypeError
from csi_s3.config.volume import MIB, BucketConfig, CommandOptions, TreeConfig, VolumeConfig
from csi_s3.errors import BadOptionError

_SECRET = re.compile(r"secret|token|passw|credential|access.?key", re.IGNORECASE)
_AWS_HOST = re.compile(r"(^|\.)(amazonaws\.[a-z.]+|api\.aws)$")
_SHOWN_CHARS = 200
_COMMA_HINT = "a list is split at its commas only where each piece is a known option"


class OptionParser:
    """The options of one volume or command line.

    values: of the options that work, by name. warnings: one sentence for each hint.
    """

    def __init__(self, kind: OptionKind, rows: Iterable[Option], *, list_hint: str) -> None:
        """list_hint: where all options are listed."""
        self._kind = kind
        self._spellings = by_spelling(rows)
        self._list_hint = list_hint
        self._texts: dict[str, str] = {}
        self._warnings: dict[str, str] = {}
        self.values: dict[str, Value] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """In the order of the options' names."""
        return tuple(text for _, text in sorted(self._warnings.items()))

    def find(self, spelling: str) -> Option | None:
        return self._spellings.get(spelling)

    def is_spelling(self, name: str, text: str | None) -> bool:
        """Whether this is a known option, with a value only if it takes one."""
        option = self.find(name)
        return option is not None and (option.value_type is None) == (text is None)

    def add(self, spelling: str, text: str | None) -> None:
        """Take one option; text is None if it has no value.

        Raises:
            BadOptionError: unknown, refused, malformed, or already set to another value.

        """
        option = self.find(spelling)
        if option is None:
            raise self._unknown(spelling, text)
        support = option.support(self._kind)
        if support is Support.DROPPED:
            return
        shown = self._kind.name_of(option.name)
        if support is Support.REFUSED:
            raise BadOptionError(f"{shown} is refused", option.why)
        value = self._read(option, shown, text)
        if support is Support.HINT:
            self._warnings[option.name] = f"{shown} has no effect: {option.why}"
            return
        if option.name in self.values and self.values[option.name] != value:
            first, second = sorted((quoted(self._texts[option.name]), quoted(text or "")))
            raise BadOptionError(f"{shown} is set twice, to {first} and {second}", "keep one")
        self.values[option.name] = value
        self._texts[option.name] = text or ""

    def _read(self, option: Option, shown: str, text: str | None) -> Value:
        if option.value_type is None:
            if text is not None:
                raise BadOptionError(
                    f"{shown}={quoted(text)} is not valid",
                    f"it takes no value: write {option.name} alone, or leave it out",
                )
            return True
        if text is None:
            raise BadOptionError(f"{shown} has no value", f"expected {option.value_type.expected}")
        value: Value = read_value(shown, option.value_type, text)
        return value

    def _unknown(self, spelling: str, text: str | None) -> BadOptionError:
        value = "" if text is None or _SECRET.search(spelling) else f" (value {quoted(text)})"
        name = spelling if re.fullmatch(r"[A-Za-z0-9_./-]{1,60}", spelling) else quoted(spelling)
        what = f"{self._kind.name_of(name)} is not known{value}"
        accepted = {Support.WORKS, Support.HINT}
        lowered = {
            known.lower(): known
            for known, row in self._spellings.items()
            if row.support(self._kind) in accepted
        }
        similar = difflib.get_close_matches(spelling[:_SHOWN_CHARS].lower(), lowered, n=1)
        if not similar:
            return BadOptionError(what, self._list_hint)
        option = self._spellings[lowered[similar[0]]]
        value_type = "no value" if option.value_type is None else option.value_type.expected
        name = self._kind.name_of(option.name).split()[-1]
        return BadOptionError(what, f"did you mean {name}? It takes {value_type}")


def split_item(item: str) -> tuple[str, str | None]:
    """Split `key value`, `key=value`, `--key=value` or `key` at the first separator, once.

    The rule of the AWS driver (args.go): the first blank or "=" separates, and the rest is the
    value, with its blanks, "=" and commas; blanks around it are removed.
    """
    item = item.strip()
    separator = re.search(r"[\s=]", item)
    if separator is None:
        return item.removeprefix("--"), None
    name, value = item[: separator.start()], item[separator.end() :]
    return name.removeprefix("--"), value.strip()


def split_commas(text: str) -> list[str]:
    """Split at commas, except those in a quoted value: context="user:role:type:s0:c1,c2"."""
    return [piece for piece in re.findall(r'(?:="[^"]*"|[^,])+', text) if piece.strip()]


def read_value(shown: str, value_type: ValueType, text: str) -> Any:  # noqa: ANN401 - the type's
    """Read one value.

    Raises:
        BadOptionError: names the option (shown), the text and the form expected.

    """
    try:
        return value_type.read(text)
    except ValueError as exc:
        # Only a ValueTypeError's text is for users; urlsplit and encode raise other errors.
        reason = str(exc) if isinstance(exc, ValueTypeError) else ""
        hints = [f"expected {value_type.expected}", reason, _COMMA_HINT if "," in text else ""]
        raise BadOptionError(
            f"{shown}={quoted(text)} is not valid", "; ".join(filter(None, hints))
        ) from exc


def quoted(text: str) -> str:
    """Quote a value for Events and logs: shortened, and without the password of a URL."""
    text = re.sub(r"//[^/]*@", "//***@", text)
    return repr(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…")


def config(
    values: Mapping[str, Value], *, defaults: Iterable[Mapping[str, Value]] = ()
) -> VolumeConfig:
    """Build the configuration from the values of options, by name.

    defaults: of options as well, each taking precedence over the ones before it.

    Raises:
        BadOptionError: options that contradict each other, or one that lacks another.

    """
    _refuse_clashes(values)
    layers = (*defaults, values)
    tree = TreeConfig(
        metadata_ttl_by_hand=any("metadata-ttl" in layer for layer in layers),
        **_arguments(TreeConfig, *layers),
    )
    bucket = BucketConfig(**_arguments(BucketConfig, *layers))
    _check_encryption(bucket)
    _check_memory(tree)
    return VolumeConfig(bucket=bucket, tree=tree, **_arguments(VolumeConfig, *layers))


def command_fields(values: Mapping[str, Value]) -> dict[str, Any]:
    return _arguments(CommandOptions, values)


def _arguments(part: ConfigPart, *layers: Mapping[str, Value]) -> dict[str, Any]:
    return {
        field: value
        for layer in layers
        for name, value in layer.items()
        for owner, field in _SETS[name]
        if owner is part
    }


_SETS = {row.name: row.sets for row in (*OPTIONS, BUCKET_NAME)}


def _refuse_clashes(values: Mapping[str, Value]) -> None:
    for first, second, why in CLASHES:
        if first in values and second in values:
            raise BadOptionError(
                f"options {first} and {second} contradict each other", f"{why}; keep one"
            )


# A plain name is not an AWS key: the environment may name the endpoint of another store.
_IS_AWS_KEY = re.compile(
    r"^arn:|alias/|^mrk-[0-9a-f]{32}$|^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
)
_KEY_ARN = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/.+")


def _check_encryption(bucket: BucketConfig) -> None:
    """AWS answers with the full ARN of the key, which is compared with the requested one."""
    key = bucket.sse_kms_key_id
    if key is None:
        return
    if bucket.sse not in {"aws:kms", "aws:kms:dsse"}:
        beside = "without sse" if bucket.sse is None else f"with sse={bucket.sse!r}"
        raise BadOptionError(
            f"option sse-kms-key-id={key!r} is set {beside}",
            "add sse=aws:kms or sse=aws:kms:dsse",
        )
    host = urlsplit(bucket.endpoint_url or "").hostname or "amazonaws.com"
    if _AWS_HOST.search(host) and _IS_AWS_KEY.search(key) and not _KEY_ARN.fullmatch(key):
        raise BadOptionError(
            f"option sse-kms-key-id={key!r} is not valid",
            "expected the key's full ARN, arn:aws:kms:REGION:ACCOUNT:key/ID, "
            "not its id or an alias",
        )


def _check_memory(tree: TreeConfig) -> None:
    """A part is in memory while it is transferred, so there must be memory for two."""
    for name, part in (("read", tree.read_part_bytes), ("write", tree.write_part_bytes)):
        if part * 2 > tree.budget_bytes:
            raise BadOptionError(
                f"{name}-part-size={part} is more than half of "
                f"memory-target={tree.budget_bytes // MIB} (MiB)",
                f"set memory-target={-(-part * 2 // MIB)} or more, or leave the part size out: "
                "parts grow with a long file",
            )
