"""The values that messages carry, as plain JSON and back.

Node and mounter are upgraded one after the other: fields of a newer peer are dropped, missing ones
get their default. An error is sent as {code, what, hint, public} and rebuilt as the class of
`errors` with that code, so no program parses log text. Its texts are cut at MAX_TEXT_BYTES: a
store's answer, of any length, must not make a message too large for the channel.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from types import NoneType
from typing import Any, Self, get_args, get_type_hints

from csi_s3.errors import InternalError, VolumeError, by_code, shortened

MAX_TEXT_BYTES = 4 << 10  # of each text of an error; six times as much in JSON at worst


class JsonValue:
    """Base of the dataclasses that cross the link."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = _plain(self)
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild.

        Raises:
            KeyError, TypeError, ValueError: it is not such a value.

        """
        rebuilt: Self = _rebuilt(cls, data)
        return rebuilt


def _plain(value: Any) -> Any:  # noqa: ANN401 - any field
    if isinstance(value, VolumeError):
        texts = {name: getattr(value, name) for name in ("what", "hint", "public")}
        return {"code": value.code, **{n: shortened(t, MAX_TEXT_BYTES) for n, t in texts.items()}}
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value.value if isinstance(value, Enum) else value


def _rebuilt(type_: Any, value: Any) -> Any:  # noqa: ANN401 - any field
    if value is None and NoneType in get_args(type_):
        return None
    cls: Any = next((t for t in get_args(type_) if t is not NoneType), type_)
    if cls is VolumeError:
        error = by_code().get(value.get("code", ""), InternalError)
        return error(value.get("what", ""), value.get("hint", ""), public=value.get("public", ""))
    if hasattr(cls, "__dataclass_fields__"):
        types = get_type_hints(cls)
        return cls(
            **{
                field.name: _rebuilt(types[field.name], value[field.name])
                for field in fields(cls)
                if field.name in value or _is_required(field)
            }
        )
    return cls(value) if issubclass(cls, Enum) else value


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING
