"""The command line of mount-s3, and the one that mount(8) uses for mount.csi-s3.

The options come from the table. Rejected: argparse, which abbreviates, exits, and has its own error
messages, while a volume and a command line should report the same mistake in the same words.
"""

import re
import textwrap
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from csi_s3.config import value_types
from csi_s3.config.option_parser import (
    OptionParser,
    command_fields,
    config,
    quoted,
    read_value,
    split_item,
)
from csi_s3.config.options import GROUPS, OPTIONS, Option, OptionKind, Support
from csi_s3.config.value_types import Value
from csi_s3.config.volume import CommandOptions, VolumeConfig
from csi_s3.errors import BadOptionError

USAGE = "mount-s3 BUCKET|s3://BUCKET/PREFIX/ DIRECTORY [OPTIONS]"

# Words in fstab and of mount(8) that are skipped: when to mount, and what always holds.
FSTAB_WORDS = frozenset(
    {
        "auto", "noauto", "user", "nouser", "users", "_netdev", "nofail", "rw", "nodev", "nosuid",
        "exec", "defaults", "noatime", "relatime",
    }
)  # fmt: skip
# mount(8) calls: HELPER SOURCE DIRECTORY [-sfnv] [-N namespace] [-o options] [-t type]
# (-t and -N come only with types and namespaces that are not ours.)
_HELPER_FLAGS = frozenset({"-n", "-s", "-v"})
_QUOTED_LABEL = r'(?<![^,])(?:fs|root|def)?context="[^",][^"]*"(?=,|$)'
_HELP_COLUMN, _HELP_WIDTH = 30, 96
_NOT_IN_A_LIST = frozenset({"foreground", "help", "version", "-o"})


@dataclass(frozen=True, slots=True, kw_only=True)
class MountCommand(CommandOptions):
    """A parsed command line. directory is as written."""

    config: VolumeConfig
    directory: str
    warnings: tuple[str, ...] = ()


def question(argv: Sequence[str]) -> str | None:
    """The text to print instead of mounting, if the command line asks for help or the version."""
    for name, _ in _tokens(argv, _parser()):
        if name in {"help", "-h"}:
            return help_text()
        if name in {"version", "-V"}:
            return f"csi-s3 {version('csi-s3')}"
    return None


def parse_command(argv: Sequence[str], *, uid: int, gid: int, helper: bool = False) -> MountCommand:
    """Read the arguments after the program's name; options may stand anywhere.

    uid, gid: the caller's, the default owner of all files.
    helper: called by mount(8), whose -f means a dry run.

    Raises:
        BadOptionError: as `volume_context.parse_volume`; also a missing or surplus argument.

    """
    parser, positionals = _parser(), []
    for name, text in _tokens(argv, parser):
        if name is None:
            positionals.append(text or "")
        elif helper and name == "-f":
            raise BadOptionError("mount -f is refused", "a dry run is not possible")
        elif name == "-o":
            _add_list(text, parser)
        elif name not in _HELPER_FLAGS:
            _add(name, text, parser)
    source, directory = _positionals(positionals)
    bucket, prefix = _source(source, parser)
    defaults: dict[str, Value] = {
        "allow-other": False,
        "uid": uid,
        "gid": gid,
        "bucketName": bucket,
        "prefix": prefix,
    }
    return MountCommand(
        config=config(parser.values, defaults=[defaults]),
        directory=directory,
        warnings=parser.warnings,
        **command_fields(parser.values),
    )


def parse_source(text: str) -> tuple[str, str]:
    """Split BUCKET or s3://BUCKET/PREFIX into bucket and prefix ("" or ending with "/").

    Raises:
        BadOptionError: neither of the two.

    """
    bucket, prefix = text, ""
    if text.startswith("s3://"):
        bucket, _, prefix = text.removeprefix("s3://").partition("/")
    elif re.match(r"[a-z0-9]+://", text):
        raise BadOptionError(f"source {quoted(text)} is not valid", f"expected {USAGE.split()[1]}")
    return (
        str(read_value("source bucket", value_types.BUCKET, bucket)),
        str(read_value("source prefix", value_types.PREFIX, prefix)),
    )


def help_text() -> str:
    return (
        f"Usage: {USAGE}\n\nMount an S3 bucket, or the part of it below a prefix, on a directory. "
        f"Runs in the background\nunless --foreground is given; umount DIRECTORY ends it. "
        f"In fstab:\n    s3://BUCKET/ DIRECTORY csi-s3 _netdev,OPTION,OPTION=VALUE 0 0\n"
        f"\n{_options_text()}"
    )


def _options_text() -> str:
    """Those that work, by group, then the names of the others."""
    parts: list[str] = []
    for group, rows in GROUPS.items():
        listed = [row for row in rows if row.on_command is Support.WORKS]
        parts.append(f"{group}:\n" + "".join(_help_lines(row) for row in listed))
    for support, words in (
        (Support.HINT, "Accepted with a warning, but without effect"),
        (Support.REFUSED, "Refused"),
    ):
        names = [row.name for rows in GROUPS.values() for row in rows if row.on_command is support]
        text = f"{words}: --{', --'.join(names)}."
        parts.append(textwrap.fill(text, _HELP_WIDTH, break_on_hyphens=False) + "\n")
    return "\n".join(parts)


def _help_lines(option: Option) -> str:
    short = next((a for a in option.aliases if a.startswith("-")), "")
    long = f"--{option.name}" if not option.name.startswith("-") else option.name
    value = "" if option.value_type is None else f" {option.value_type.metavar}"
    head = f"  {short + ',' if short else '   '} {long}{value}"
    default = "" if option.value_type is None else option.default_text
    text = f"{option.help} [{default}]" if default else option.help
    indent = " " * _HELP_COLUMN
    body = textwrap.fill(
        text,
        _HELP_WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
    if len(head) < _HELP_COLUMN:
        return f"{head}{body[len(head) :]}\n"
    return f"{head}\n{body}\n"


def _parser() -> OptionParser:
    return OptionParser(OptionKind.COMMAND, OPTIONS, list_hint="see --help for all options")


def _positionals(words: Sequence[str]) -> tuple[str, str]:
    names = ("BUCKET", "DIRECTORY")
    if len(words) < len(names):
        raise BadOptionError(f"{names[len(words)]} is missing", f"usage: {USAGE}")
    if len(words) > len(names):
        raise BadOptionError(f"argument {quoted(words[2])} is not expected", f"usage: {USAGE}")
    source, directory = words
    if not directory:
        raise BadOptionError("DIRECTORY is empty", f"usage: {USAGE}")
    return source, directory


def _source(text: str, parser: OptionParser) -> tuple[str, str]:
    bucket, prefix = parse_source(text)
    option = parser.values.get("prefix", prefix)
    if prefix and option != prefix:
        raise BadOptionError(
            f"{quoted(text)} and --prefix={option!r} name two prefixes", "keep one"
        )
    return bucket, prefix


def _tokens(argv: Sequence[str], parser: OptionParser) -> Iterator[tuple[str | None, str | None]]:
    """Yield (spelling, value or None) for each option and (None, text) for each positional.

    Long: --name, --name=value, --name value. Short: -f, -fd, -l value, -lvalue. A value that
    begins with a dash needs the "=".
    """
    rest = deque(argv)
    while rest:
        arg = rest.popleft()
        if arg == "--":
            yield from ((None, text) for text in rest)
            return
        if arg.startswith("--"):
            name, separator, text = arg.removeprefix("--").partition("=")
            value = text if separator else _next_value(name, rest, parser)
            yield name, value
        elif arg.startswith("-") and arg != "-":
            yield from _short(arg, rest, parser)
        else:
            yield None, arg


def _short(arg: str, rest: deque[str], parser: OptionParser) -> Iterator[tuple[str, str | None]]:
    for at, letter in enumerate(arg[1:], start=1):
        name, glued = f"-{letter}", arg[at + 1 :]
        if name not in _HELPER_FLAGS and parser.find(name) is None:
            yield arg, None
            return
        if glued and _takes_value(name, parser):
            yield name, glued.removeprefix("=")
            return
        yield name, _next_value(name, rest, parser)


def _takes_value(name: str, parser: OptionParser) -> bool:
    option = parser.find(name)
    return option is not None and option.value_type is not None


def _next_value(name: str, rest: deque[str], parser: OptionParser) -> str | None:
    if not _takes_value(name, parser) or not rest or rest[0].startswith("-"):
        return None
    return rest.popleft()


def _add(name: str, text: str | None, parser: OptionParser) -> None:
    option = parser.find(name)
    if text and option is not None and option.value_type is value_types.PATH:
        text = _absolute(text, option.name)
    parser.add(name, text)


def _absolute(text: str, name: str) -> str:
    """Make a path absolute: the mount's process has another working directory."""
    try:
        return str(Path(text).absolute())
    except FileNotFoundError as exc:
        raise BadOptionError(
            f"option --{name}={quoted(text)} is not valid",
            "expected an absolute path: the working directory is gone",
        ) from exc


def _add_list(text: str | None, parser: OptionParser) -> None:
    """Add the value of -o: a comma-separated list; backslash escapes comma, backslash and quote."""
    words = [split_item(item) for item in _split_escaped(text or "") if item.strip()]
    if not words:
        raise BadOptionError("option -o has no value", "expected a comma-separated list of options")
    names = {name for name, _ in words}
    if "rw" in names and not names.isdisjoint({"ro", "read-only", "-r"}):
        raise BadOptionError("options ro and rw contradict each other", "keep one")
    for name, value in words:
        option = parser.find(name)
        if option is not None and option.name in _NOT_IN_A_LIST:
            raise BadOptionError(
                f"option {name} is refused inside -o", "use it on the command line"
            )
        if name not in FSTAB_WORDS and not name.lower().startswith("x-"):
            _add(name, value, parser)


def _split_escaped(text: str) -> list[str]:
    """Split at commas that are not escaped; mount(8) passes labels in quotes."""
    if re.search(r'(?<!\\)(\\\\)*"', re.sub(_QUOTED_LABEL, "", text)):
        raise BadOptionError(
            f"option -o {quoted(text)} is not valid",
            "write a quote in it with a backslash before it",
        )
    pieces = re.findall(rf"{_QUOTED_LABEL}|(?:\\.|[^,])+", text, re.DOTALL)
    return [re.sub(r'\\([,\\"])', r"\1", piece) for piece in pieces]
