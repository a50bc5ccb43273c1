"""Mount options that every volume of a node starts from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from csi_s3.config.options import CLASHES, SPELLINGS
from csi_s3.config.value_types import Value

FLAG = "--default-mount-options"


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultOptions:
    """Checked one by one, and together as those of a volume without other options.

    values: by option name. warnings: one sentence for each hint.
    """

    values: Mapping[str, Value] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def beside(self, own: Mapping[str, Value]) -> dict[str, Value]:
        """Return the defaults that hold beside a volume's own options (by name).

        A volume's own option replaces the default of its name and every default that it
        contradicts.
        """
        rest = {name: value for name, value in self.values.items() if name not in own}
        for pair in CLASHES:
            for mine, other in (pair[:2], pair[1::-1]):
                # Options of the same field do not contradict: the volume's own is applied last.
                if mine in own and not set(SPELLINGS[mine].sets) & set(SPELLINGS[other].sets):
                    rest.pop(other, None)
        if not str(own.get("sse", "aws:kms")).startswith("aws:kms"):
            rest.pop("sse-kms-key-id", None)
        if "sse-kms-key-id" in own and not str(rest.get("sse", "aws:kms")).startswith("aws:kms"):
            del rest["sse"]
        memory = own.get("memory-target")
        for name in ("part-size", "read-part-size", "write-part-size"):
            part = rest.get(name)
            if isinstance(memory, int) and isinstance(part, int) and part * 2 > memory:
                del rest[name]
        return rest


def blame(text: str, defaults: Iterable[str]) -> str:
    """A hint that names the defaults mentioned in a message about a volume's options, or ""."""
    named = sorted(name for name in defaults if name in text)
    if not named:
        return ""
    return f"{', '.join(named)} is a default of the driver ({FLAG})"
