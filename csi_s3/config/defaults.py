"""Mount options that every volume of a node starts from, and which of them its own leave."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from csi_s3.config.options import CLASHES, SPELLINGS
from csi_s3.config.value_types import Value

FLAG = "--default-mount-options"


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultOptions:
    """Checked: each alone, and as if a volume had these and no other.

    values: by option name. warnings: one sentence for each hint.
    """

    values: Mapping[str, Value] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def beside(self, own: Mapping[str, Value]) -> dict[str, Value]:
        """Give those that a volume's own options (by name) leave standing.

        A volume's own option replaces the default of its name, and every default that it
        contradicts.
        """
        kept = {name: value for name, value in self.values.items() if name not in own}
        for pair in CLASHES:
            for mine, other in (pair[:2], pair[1::-1]):
                # Those that set the same field do not contradict: the volume's is written last.
                if mine in own and not set(SPELLINGS[mine].sets) & set(SPELLINGS[other].sets):
                    kept.pop(other, None)
        if not str(own.get("sse", "aws:kms")).startswith("aws:kms"):
            kept.pop("sse-kms-key-id", None)
        if "sse-kms-key-id" in own and not str(kept.get("sse", "aws:kms")).startswith("aws:kms"):
            del kept["sse"]
        memory = own.get("memory-target")
        for name in ("part-size", "read-part-size", "write-part-size"):
            part = kept.get(name)
            if isinstance(memory, int) and isinstance(part, int) and part * 2 > memory:
                del kept[name]
        return kept


def blame(text: str, defaults: Iterable[str]) -> str:
    """Name the defaults that a message about a volume's options speaks of; "" if none."""
    named = sorted(name for name in defaults if name in text)
    if not named:
        return ""
    return f"{', '.join(named)} is not the volume's but the driver's default ({FLAG})"
