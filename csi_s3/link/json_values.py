"""The values that messages carry, as plain JSON and back, checked.

The annotations of a dataclass are its declaration: `_checked` accepts what they describe and
refuses everything else, because what arrives may come from an attacker. Rejected: pydantic (some
10 MB in node and keeper, and rules of its own for what is converted), msgspec (not locked).

Node and mounter are upgraded one after the other: fields of a newer peer are dropped, missing ones
get their default. An error is sent as {code, what, hint, public} and rebuilt as the class of
`errors` with that code, so no program parses log text. Its texts are cut at MAX_TEXT_BYTES and made
valid Unicode: a store's answer must not make a message that the channel or its peer refuses.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType
from typing import Annotated, Any, Self, TypeAlias, get_args, get_origin, get_type_hints

from csi_s3.errors import InternalError, VolumeError, by_code, shortened

MAX_TEXT_BYTES = 4 << 10  # of each text of an error; six times as much in JSON at worst
MAX_ENTRIES = 1000  # of a mapping
_MAX_INT = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Text:
    """What a text may be, for `Annotated`. Never with a NUL.

    has_bytes: it may hold surrogates that stand for bytes (os.fsdecode), as a path may.
    """

    max_bytes: int = 128 << 10  # as a message
    pattern: str = ""
    has_bytes: bool = False

    def check(self, value: object, at: str) -> None:
        if not isinstance(value, str):
            raise ValueError(f"{at} is a {type(value).__name__}, not a text")  # noqa: TRY004
        try:
            raw = value.encode(errors="surrogateescape" if self.has_bytes else "strict")
        except UnicodeEncodeError as exc:
            raise ValueError(f"{at} is not valid Unicode") from exc
        if "\0" in value or len(raw) > self.max_bytes:
            raise ValueError(f"{at} has a NUL, or more than {self.max_bytes} bytes")
        if self.pattern and not re.fullmatch(self.pattern, value):
            raise ValueError(f"{at} does not match {self.pattern}")


_PLAIN = Text(has_bytes=True)
_WORDS = Text(max_bytes=MAX_TEXT_BYTES)
_NAME = Text(max_bytes=100)

MountId: TypeAlias = Annotated[str, Text(pattern="[0-9a-f]{32}")]
Hex: TypeAlias = Annotated[str, Text(pattern="([0-9a-f]{2}){0,4096}")]


class JsonValue:
    """Base of the dataclasses that cross the link."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = _plain(self)
        return plain

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Rebuild, checked.

        Raises:
            ValueError: it is not such a value; the text names the field and has nothing of it.

        """
        rebuilt: Self = _checked(cls, data, cls.__name__)
        return rebuilt


def is_mount_id(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{32}", text) is not None


def _plain(value: Any) -> Any:  # noqa: ANN401 - any field
    if isinstance(value, VolumeError):
        texts = {name: getattr(value, name) for name in ("what", "hint", "public")}
        return {"code": value.code, **{n: shortened(t, MAX_TEXT_BYTES) for n, t in texts.items()}}
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value.value if isinstance(value, Enum) else value


def _checked(type_: Any, value: Any, at: str) -> Any:  # noqa: ANN401, C901, PLR0911, PLR0912 - a table
    """The value of this type; every branch that returns has checked all of it."""
    if get_origin(type_) is Annotated:
        get_args(type_)[1].check(value, at)
        return value
    if NoneType in get_args(type_):
        if value is None:
            return None
        (type_,) = (t for t in get_args(type_) if t is not NoneType)
        return _checked(type_, value, at)
    if type_ is Any:  # checked by its reader
        return value
    if type_ is str:
        _PLAIN.check(value, at)
        return value
    if type_ is bool:
        return _instance(bool, value, at)
    if type_ is int:
        if abs(_instance(int, value, at)) > _MAX_INT:
            raise ValueError(f"{at} is too large")
        return value
    if type_ is float:
        number = value if type(value) is float else float(_checked(int, value, at))
        if math.isnan(number):
            raise ValueError(f"{at} is not a number")
        return number
    if get_origin(type_) is Mapping:
        return _mapping(type_, value, at)
    if type_ is VolumeError:
        return _error(value, at)
    if issubclass(type_, Enum):
        _NAME.check(value, at)
        return type_(value)
    return _record(type_, value, at)


def _instance(type_: type, value: Any, at: str) -> Any:  # noqa: ANN401 - any field
    if type(value) is not type_:  # a bool is an int as well
        raise ValueError(f"{at} is a {type(value).__name__}, not a {type_.__name__}")
    return value


def _mapping(type_: Any, value: Any, at: str) -> dict[str, Any]:  # noqa: ANN401 - any field
    if len(_instance(dict, value, at)) > MAX_ENTRIES:
        raise ValueError(f"{at} has more than {MAX_ENTRIES} entries")
    for key in value:
        _NAME.check(key, f"a key of {at}")
    _, of_value = get_args(type_)
    return {key: _checked(of_value, entry, f"{at}.{key}") for key, entry in value.items()}


def _error(value: Any, at: str) -> VolumeError:  # noqa: ANN401 - any field
    data = {"code": "", "what": "", "hint": "", "public": "", **_instance(dict, value, at)}
    _NAME.check(data["code"], f"{at}.code")
    for name in ("what", "hint", "public"):
        _WORDS.check(data[name], f"{at}.{name}")
    class_ = by_code().get(data["code"], InternalError)
    return class_(data["what"], data["hint"], public=data["public"])


def _record(class_: Any, value: Any, at: str) -> Any:  # noqa: ANN401 - any field
    _instance(dict, value, at)
    found = {}
    for field in fields(class_):
        if field.name in value:
            type_ = _types(class_)[field.name]
            found[field.name] = _checked(type_, value[field.name], f"{at}.{field.name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{at} has no {field.name}")
    return class_(**found)


@cache  # of the classes of messages
def _types(class_: type) -> dict[str, Any]:
    return get_type_hints(class_, include_extras=True)
