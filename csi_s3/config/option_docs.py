"""Documentation from the table: docs/options.md, the options of --help, the chart's mount options.

`python -m csi_s3.config.option_docs` writes docs/options.md and `mountOption` in the schema of the
chart's values; tests compare both with the table.
"""

import json
import re
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

from csi_s3.config.options import GROUPS, OPTIONS, Option, Support
from csi_s3.config.volume_context import ATTRIBUTES

_INTRO = """\
# Options

Made from `csi_s3/config/options.py` and `volume_context.py` by
`python -m csi_s3.config.option_docs`; a test compares. The names are those of Mountpoint for Amazon
S3 and of its CSI driver.

Each option **works**; or is a **hint**: accepted, with one warning that says what is done instead;
or is **refused**, because ignoring it would change identity, safety or meaning; or is **dropped**
silently. An unknown name is refused, and the error names the nearest known one.

## Syntax

On a volume, each item of `mountOptions` is one option: `key value`, `key=value`, `--key value`,
`--key=value`, or `key` alone for one that takes no value. The first blank or `=` ends the name;
the rest is the value, with its blanks, `=` and commas: `prefix a=b/c d/`. An item is a list
(`uid=1,gid=2`) only if every piece between its commas is a known option, with a value if it takes
one. An option that is set twice must have the same value.

An administrator can set options that every volume of a node starts from (the chart's
`defaultMountOptions`, `csi-s3 node --default-mount-options`, one option per line). A volume's own
option replaces the default of its name and every default that it contradicts; a default without a
value cannot be turned off. The settings of a pod's `fsGroup` take precedence over defaults. Running
pods keep the options that they were started with.

On the command line, `mount-s3 BUCKET DIRECTORY --key value --key=value -o key,key=value`. Within
`-o` and in fstab a backslash protects a comma, a backslash or a quote; the words of mount(8) and
systemd (`_netdev`, `nofail`, `noauto`, `user`, `rw`, `x-…` and the like) are skipped.
"""
_ATTRIBUTES_INTRO = """\
## volumeAttributes

Keys that Kubernetes adds (`csi.storage.k8s.io/…`, `storage.kubernetes.io/…`) are ignored.

"""
_HEAD = (
    "| Option | Value | Default | On volumes | Command line | What it does |\n"
    "|---|---|---|---|---|---|\n"
)
_ATTRIBUTES_HEAD = "| Attribute | Value | Class | What it does |\n|---|---|---|---|\n"
_HELP_COLUMN, _HELP_WIDTH = 30, 96


def options_markdown() -> str:
    """The whole of docs/options.md."""
    parts = [_INTRO]
    for group, rows in GROUPS.items():
        lines = "".join(_row(_option_cells(row)) for row in rows)
        parts.append(f"## {group}\n\n{_HEAD}{lines}")
    lines = "".join(_row(_attribute_cells(row)) for row in ATTRIBUTES)
    parts.append(f"{_ATTRIBUTES_INTRO}{_ATTRIBUTES_HEAD}{lines}")
    return "\n".join(parts)


def options_text() -> str:
    """The options for --help: those that work, by group, then the names of the others."""
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


def mount_option_schema() -> dict[str, str]:
    """JSON schema of one item of mountOptions: its names, and whether they take a value.

    It does not check values: the node plugin refuses a wrong one when it starts.
    """
    accepted = [row for row in OPTIONS if row.on_volume is not Support.REFUSED]
    flags, valued = (
        "|".join(
            re.escape(name).replace("\\-", "-")
            for row in accepted
            if (row.value_type is None) is is_flag
            for name in (row.name, *row.aliases)
        )
        for is_flag in (True, False)
    )
    return {
        "type": "string",
        "description": "One mount option, NAME or NAME=VALUE, as docs/options.md lists them",
        "pattern": f"^\\s*(--)?({flags}|({valued})[\\s=]\\s*[^\\s=].*)\\s*$",
    }


def default_text(option: Option) -> str:
    """The default of the field that the option sets, then the words of the table."""
    if Support.WORKS not in {option.on_volume, option.on_command}:
        return ""
    if option.value_type is None:
        text = "off"
    else:
        value = option.field_default
        text = "" if value in {None, ""} else option.value_type.write(value)
    return "; ".join(filter(None, (text, option.default)))


def _option_cells(option: Option) -> tuple[str, ...]:
    names = ", ".join(f"`{name}`" for name in (option.name, *option.aliases))
    return (
        names,
        "" if option.value_type is None else option.value_type.expected,
        default_text(option),
        option.on_volume.value,
        option.on_command.value,
        _sentence(option),
    )


def _attribute_cells(option: Option) -> tuple[str, ...]:
    expected = "" if option.value_type is None else option.value_type.expected
    return (f"`{option.name}`", expected, option.on_volume.value, _sentence(option))


def _sentence(option: Option) -> str:
    why = f"{option.why[0].upper()}{option.why[1:]}." if option.why else ""
    return " ".join(filter(None, (option.help, f"*{why}*" if why else "")))


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _help_lines(option: Option) -> str:
    short = next((a for a in option.aliases if a.startswith("-")), "")
    long = f"--{option.name}" if not option.name.startswith("-") else option.name
    value = "" if option.value_type is None else f" {option.value_type.metavar}"
    head = f"  {short + ',' if short else '   '} {long}{value}"
    default = "" if option.value_type is None else default_text(option)
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


def main() -> None:
    root = Path(__file__).parents[2]
    page = root / "docs" / "options.md"
    page.write_text(options_markdown(), encoding="utf-8")
    chart = root / "charts" / "csi-s3" / "values.schema.json"
    schema = json.loads(chart.read_text(encoding="utf-8"))
    schema["definitions"]["mountOption"] = mount_option_schema()
    chart.write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"wrote {page} and {chart}\n")


if __name__ == "__main__":
    main()
