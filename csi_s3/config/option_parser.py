"""From options as they were given to a `VolumeConfig`: the one path of volumes and command line.

`OptionParser` collects options in any order and refuses at once what is unknown, malformed, refused
or in contradiction with what it has; `config` checks what only the whole can show.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from csi_s3.config.options import CLASHES, Option, Place, Support, by_spelling
from csi_s3.config.value_types import Value, ValueType, ValueTypeError
from csi_s3.config.volume import MIB, BucketConfig, TreeConfig, VolumeConfig
from csi_s3.errors import BadOptionError

_SECRET = re.compile(r"secret|token|passw|credential|access.?key", re.IGNORECASE)
_AWS_HOST = re.compile(r"(^|\.)(amazonaws\.[a-z.]+|api\.aws)$")
_SHOWN_CHARS = 200
_COMMA_HINT = "a list is split at its commas only where each piece is a known option"


class OptionParser:
    """The options of one volume or command line.

    Owned by the parser that fills it. `values` has what works, by option name; `warnings` one
    sentence for each hint.
    """

    def __init__(self, place: Place, rows: Iterable[Option], *, elsewhere: str = "") -> None:
        self._place = place
        self._spellings = by_spelling(rows)
        self._elsewhere = elsewhere
        self._texts: dict[str, str] = {}
        self._warnings: dict[str, str] = {}
        self.values: dict[str, Value] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """In the order of the options' names, whatever order they were given in."""
        return tuple(text for _, text in sorted(self._warnings.items()))

    def find(self, spelling: str) -> Option | None:
        return self._spellings.get(spelling)

    def is_spelling(self, name: str, text: str | None) -> bool:
        """Ask whether this is a known option with a value exactly where it takes one."""
        option = self.find(name)
        return option is not None and (option.value_type is None) == (text is None)

    def add(self, spelling: str, text: str | None) -> None:
        """Take one option; text is None where no value was given.

        Raises:
            BadOptionError: unknown, refused, malformed, or given before with another value.

        """
        option = self.find(spelling)
        if option is None:
            raise self._unknown(spelling, text)
        support = option.support(self._place)
        if support is Support.DROPPED:
            return
        shown = self._place.name_of(option.name)
        if support is Support.REFUSED:
            raise BadOptionError(f"{shown} is refused", option.why)
        value = self._read(option, shown, text)
        if support is Support.HINT:
            self._warnings[option.name] = f"{shown} has no effect: {option.why}"
            return
        if option.name in self.values and self.values[option.name] != value:
            first, second = sorted((quoted(self._texts[option.name]), quoted(text or "")))
            raise BadOptionError(f"{shown} is given twice, as {first} and {second}", "keep one")
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
        what = f"{self._place.name_of(name)} is not known{value}"
        useful = {Support.WORKS, Support.HINT}
        lowered = {
            known.lower(): known
            for known, row in self._spellings.items()
            if row.support(self._place) in useful
        }
        near = difflib.get_close_matches(spelling[:_SHOWN_CHARS].lower(), lowered, n=1)
        if not near:
            return BadOptionError(what, self._elsewhere)
        option = self._spellings[lowered[near[0]]]
        value_type = "no value" if option.value_type is None else option.value_type.expected
        meant = self._place.name_of(option.name).split()[-1]
        return BadOptionError(what, f"did you mean {meant}? It takes {value_type}")


def split_item(item: str) -> tuple[str, str | None]:
    """Split `key value`, `key=value`, `--key=value` or `key` at the first separator, once.

    The rule of the AWS driver (args.go): whichever of blank and "=" comes first separates, and
    the rest is the value, blanks, "=" and commas included; blanks around it do not count.
    """
    item = item.strip()
    separator = re.search(r"[\s=]", item)
    if separator is None:
        return item.removeprefix("--"), None
    name, value = item[: separator.start()], item[separator.end() :]
    return name.removeprefix("--"), value.strip()


def split_commas(text: str) -> list[str]:
    """Split at commas, but for those in a quoted value: context="user:role:type:s0:c1,c2"."""
    return [piece for piece in re.findall(r'(?:="[^"]*"|[^,])+', text) if piece.strip()]


def read_value(shown: str, value_type: ValueType, text: str) -> Any:  # noqa: ANN401 - the type's
    """Read one value.

    Raises:
        BadOptionError: names what is shown, the text and the form expected.

    """
    try:
        return value_type.read(text)
    except ValueError as exc:
        # Only a ValueTypeError's text is written for people; urlsplit and encode raise others.
        said = str(exc) if isinstance(exc, ValueTypeError) else ""
        hints = [f"expected {value_type.expected}", said, _COMMA_HINT if "," in text else ""]
        raise BadOptionError(
            f"{shown}={quoted(text)} is not valid", "; ".join(filter(None, hints))
        ) from exc


def quoted(text: str) -> str:
    """Quote a value for an error that ends in Events and logs: short, and no URL's password."""
    text = re.sub(r"//[^/]*@", "//***@", text)
    return repr(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…")


def config(
    values: Mapping[str, Value], rows: Iterable[Option], defaults: Mapping[str, Value]
) -> VolumeConfig:
    """Put the values of options (by name) over defaults (by field).

    Raises:
        BadOptionError: options that contradict each other, or one that lacks another.

    """
    _refuse_clashes(values)
    set_ = {**defaults, **fields_of(values, rows)}
    tree = TreeConfig(**_part(set_, "tree."))
    bucket = BucketConfig(**_part(set_, "bucket."))
    _check_encryption(bucket)
    _check_memory(tree)
    return VolumeConfig(bucket=bucket, tree=tree, **_part(set_, ""))


def command_fields(values: Mapping[str, Value], rows: Iterable[Option]) -> dict[str, Any]:
    """The fields that are the command line's own ("command.X" in the table)."""
    return _part(fields_of(values, rows), "command.")


def fields_of(values: Mapping[str, Value], rows: Iterable[Option]) -> dict[str, Value]:
    """Turn values of options (by name) into values of fields."""
    set_ = {path: values[row.name] for row in rows if row.name in values for path in row.sets}
    if "metadata-ttl" in values:
        set_["tree.metadata_ttl_by_hand"] = True
    return set_


def _part(set_: Mapping[str, Value], head: str) -> dict[str, Any]:
    return {
        path.removeprefix(head): value
        for path, value in set_.items()
        if path.startswith(head) and "." not in path.removeprefix(head)
    }


def _refuse_clashes(values: Mapping[str, Value]) -> None:
    for first, second, why in CLASHES:
        if first in values and second in values:
            raise BadOptionError(
                f"options {first} and {second} contradict each other", f"{why}; keep one"
            )


# A plain name is no key of AWS's: the end point may be another store's, by the environment.
_IS_AWS_KEY = re.compile(
    r"^arn:|alias/|^mrk-[0-9a-f]{32}$|^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
)
_KEY_ARN = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/.+")


def _check_encryption(bucket: BucketConfig) -> None:
    """The answer's key is compared with the one asked for, and AWS answers with the full ARN."""
    key = bucket.sse_kms_key_id
    if key is None:
        return
    if bucket.sse not in {"aws:kms", "aws:kms:dsse"}:
        beside = "without sse" if bucket.sse is None else f"with sse={bucket.sse!r}"
        raise BadOptionError(
            f"option sse-kms-key-id={key!r} is given {beside}",
            "expected sse=aws:kms or sse=aws:kms:dsse beside it",
        )
    host = urlsplit(bucket.endpoint_url or "").hostname or "amazonaws.com"
    if _AWS_HOST.search(host) and _IS_AWS_KEY.search(key) and not _KEY_ARN.fullmatch(key):
        raise BadOptionError(
            f"option sse-kms-key-id={key!r} is not valid",
            "expected the key's full ARN, arn:aws:kms:REGION:ACCOUNT:key/ID, "
            "not its id or an alias",
        )


def _check_memory(tree: TreeConfig) -> None:
    """A part is held in memory while it is on its way, and one must not be all there is."""
    for name, part in (("read", tree.read_part_bytes), ("write", tree.write_part_bytes)):
        if part * 2 > tree.budget_bytes:
            raise BadOptionError(
                f"{name}-part-size={part} is more than half of "
                f"memory-target={tree.budget_bytes // MIB} (MiB)",
                f"set memory-target={-(-part * 2 // MIB)} or more, or leave the part size out: "
                "parts grow with a long file",
            )
