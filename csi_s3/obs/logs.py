"""Log lines of every process: JSON on stderr, one line for each event, or text on a terminal.

Keys of a bucket, answers of a store and values of options appear in messages, so every line is
escaped: no text can forge a second line or control a terminal. JSON is written in ASCII: a key that
is not valid Unicode (a lone surrogate) would otherwise fail to encode, and a container's stderr is
not always UTF-8.

Rejected: structlog and python-json-logger (a dependency for forty lines), and a configuration in
each process (workers inherit the zygote's and only change its name and fields).
"""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from typing_extensions import override

_RESERVED = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Lines(logging.Formatter):
    """Common to both formats: the program's name and the fields of the whole process."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self.program = program
        self.bound: dict[str, Any] = {}

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        extra = {k: v for k, v in vars(record).items() if k not in _RESERVED}
        return {**self.bound, **extra}

    def trace(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info)] if record.exc_info else []
        if record.stack_info:
            parts.append(self.formatStack(record.stack_info))
        return "\n".join(parts)


class _JsonLines(_Lines):
    @override
    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC)
        line = {
            "ts": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "program": self.program,
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if trace := self.trace(record):
            line["traceback"] = trace
        # an extra field never replaces a field of the line itself
        return json.dumps({**self.fields(record), **line}, default=str)


class _TextLines(_Lines):
    @override
    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).astimezone()
        fields = "".join(f"  {k}={_escaped(str(v))}" for k, v in self.fields(record).items())
        line = (
            f"{when:%H:%M:%S} {record.levelname:<7} {self.program}: "
            f"{_escaped(record.getMessage())}{fields}"
        )
        trace = self.trace(record).splitlines()
        return "\n    ".join([line, *map(_escaped, trace)])


def _escaped(text: str) -> str:
    """The text with all characters escaped that a terminal would interpret or cannot show."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def configure(program: str, *, debug: bool = False, stream: TextIO | None = None) -> None:
    """Send this process's log to stream (stderr by default); a second call replaces the first.

    csi_s3 logs from INFO (DEBUG with debug), libraries from WARNING. `extra={...}` of a record
    becomes fields of its line. May be called again after a fork, with another name.
    """
    output = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(output)
    handler.setFormatter(_TextLines(program) if output.isatty() else _JsonLines(program))
    root = logging.getLogger()
    for old in _handlers():
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("csi_s3").setLevel(logging.DEBUG if debug else logging.INFO)


def bind(fields: Mapping[str, str]) -> None:
    """Add these fields to every further line of this process: a worker's volume and mount."""
    for handler in _handlers():
        formatter = handler.formatter
        if isinstance(formatter, _Lines):
            formatter.bound.update(fields)


def _handlers() -> list[logging.Handler]:
    return [h for h in logging.getLogger().handlers if isinstance(h.formatter, _Lines)]
