"""What is measured, and how much of it: the one table of cases.

A case is one run of bench/load on a fresh mount. Cases that count operations end after
`budget_s` even if work is left, and their rate is that of what was done; the others are cut off
at `limit_s`, and a system that does not get there is shown as `> limit`. Without the budget a
full run would be an hour of waiting for systems that create five files a second.
"""

from dataclasses import dataclass

MIB = 1 << 20
# not in the root, which is listed to see whether the mount is ready
BIG = "data/big%d.bin"
PART = "data/part%d.bin"
SMALL = "small/file-%05d.bin"
SMALL_BYTES = 100 << 10
CREATED_BYTES = 4096
EDIT_BYTES = 4096
MANY = 1_000_000  # more than there is time for
TREE = "tree"  # in the run's work directory: a git repository, and TREE.tar of the same files
READY_ENTRY = "small"  # a mount is ready once its root lists this


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much work: the full run's are those that docs/performance.md speaks of."""

    big_bytes: int
    names: tuple[int, ...]
    stats: int
    files: int
    tree_files: int
    budget_s: float
    limit_s: float

    @property
    def part_bytes(self) -> int:
        return self.big_bytes // 4

    def fill(self) -> list[str]:
        """The data, as arguments of `load fill`."""
        return [
            f"{BIG}:1:{self.big_bytes}",
            f"{PART}:4:{self.part_bytes}",
            f"{SMALL}:{self.files}:{SMALL_BYTES}",
            *(f"{names_pattern(count)}:{count}:1" for count in self.names),
        ]


FULL = Sizes(
    big_bytes=1024 * MIB, names=(10_000, 100_000), stats=2000, files=1000, tree_files=100,
    budget_s=3, limit_s=20,
)  # fmt: skip
QUICK = Sizes(
    big_bytes=64 * MIB, names=(1000,), stats=500, files=200, tree_files=40,
    budget_s=0.7, limit_s=5,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Given:
    """Files that are in {out} beforehand: copies of some that the bucket was filled with.

    Both are patterns with one %d; count of them.
    """

    name: str
    source: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row.

    load: bench/load's arguments, with {dir} (the mount), {out} (in it, to write in), and {work}
        (the run's work directory, on a tmpfs).
    """

    name: str  # for --only
    title: str
    unit: str  # ms, s, MiB/s, or operations/s such as "reads/s"
    load: tuple[str, ...] = ()  # empty: the time to the readable directory itself
    budget_s: float | None = None
    limit_s: float
    done_bytes: int | None = None  # what the load must have moved, unless it was cut
    given: tuple[Given, ...] = ()
    written: int | None = None  # size of each object that must be in the bucket afterwards
    written_in: str = ""  # where in {out}: all of it, or "DIRECTORY/", or the one file
    edited_at: int | None = None  # where EDITed bytes must be in that one file

    def value(self, seconds: float, ops: int, moved_bytes: int) -> float:
        """The row's figure in its unit."""
        if self.unit == "ms":
            return seconds * 1000
        if self.unit == "s":
            return seconds
        return (moved_bytes / MIB if self.unit == "MiB/s" else ops) / max(seconds, 1e-9)


def names_pattern(count: int) -> str:
    return f"names-{count}/name-%06d.csv"


def cases(sizes: Sizes) -> list[Case]:
    return [*_starts(sizes), *_reads(sizes), *_names(sizes), *_writes(sizes), *_changes(sizes)]


def _starts(sizes: Sizes) -> list[Case]:
    limit = sizes.limit_s
    return [
        Case(name="mount", title="mount command to readable directory", unit="ms", limit_s=limit),
        Case(name="publish", title="CSI publish to readable directory", unit="ms", limit_s=limit),
        Case(
            name="first-byte",
            title="first byte of a known file",
            unit="ms",
            load=("first", "{dir}/" + BIG % 0),
            limit_s=limit,
        ),
    ]


def _reads(sizes: Sizes) -> list[Case]:
    limit, budget = sizes.limit_s, sizes.budget_s
    whole, quarter = sizes.big_bytes // MIB, sizes.part_bytes // MIB
    out = [
        Case(
            name="read-1",
            title=f"sequential read of {whole} MiB",
            unit="MiB/s",
            load=("seq", "{dir}/" + BIG % 0),
            limit_s=limit,
            done_bytes=sizes.big_bytes,
        ),
        Case(
            name="read-4",
            title=f"sequential read by 4 readers, {quarter} MiB each",
            unit="MiB/s",
            load=("seq", *("{dir}/" + PART % i for i in range(4))),
            limit_s=limit,
            done_bytes=sizes.big_bytes,
        ),
    ]
    out += [
        Case(
            name=f"random-{kib}k-{threads}",
            title=f"random {kib} KiB reads, {_threads(threads)}",
            unit="reads/s",
            load=("random", "{dir}/" + BIG % 0, str(kib << 10), str(threads)),
            budget_s=budget,
            limit_s=limit,
        )
        for kib in (4, 256)
        for threads in (1, 16)
    ]
    out += [
        Case(
            name=f"small-{threads}",
            title=f"files of 100 KiB, {_threads(threads)}",
            unit="files/s",
            load=("read", "{dir}/" + SMALL, str(sizes.files), str(threads)),
            budget_s=budget,
            limit_s=limit,
            done_bytes=sizes.files * SMALL_BYTES,
        )
        for threads in (1, 16)
    ]
    return out


def _names(sizes: Sizes) -> list[Case]:
    out = [
        Case(
            name="-".join(["ls", *options, str(count)]).replace("--", "-"),
            title=" ".join(["ls", *options, f"of {count:,} names"]),
            unit="s",
            load=("ls", *options, "{dir}/names-" + str(count)),
            limit_s=sizes.limit_s,
        )
        for count in sizes.names
        for options in ([], ["-l"])
    ]
    out += [
        Case(
            name=f"stat-{threads}",
            title=f"stat of {sizes.stats:,} known names, {_threads(threads)}",
            unit="names/s",
            load=("stat", "{dir}/" + names_pattern(sizes.names[0]), str(sizes.stats), str(threads)),
            budget_s=sizes.budget_s,
            limit_s=sizes.limit_s,
        )
        for threads in (1, 16)
    ]
    return out + _small_requests(sizes)


def _small_requests(sizes: Sizes) -> list[Case]:
    """Requests without bytes, as `stat`: a failing look-up may ask S3, an open rarely does."""
    kinds = (
        ("miss", "failing look-ups in a listed directory", "{dir}/names-" + str(sizes.names[0])),
        ("open", "open and close of one file", "{dir}/" + BIG % 0),
    )
    return [
        Case(
            name=f"{kind}-{threads}",
            title=f"{title}, {_threads(threads)}",
            unit="operations/s",
            load=(kind, path, str(MANY), str(threads)),
            budget_s=sizes.budget_s,
            limit_s=sizes.limit_s,
        )
        for kind, title, path in kinds
        for threads in (1, 16)
    ]


def _writes(sizes: Sizes) -> list[Case]:
    write = Case(
        name="write",
        title=f"write of {sizes.big_bytes // MIB} MiB until durable",
        unit="MiB/s",
        load=("write", "{out}/written.bin", str(sizes.big_bytes)),
        limit_s=sizes.limit_s,
        done_bytes=sizes.big_bytes,
        written=sizes.big_bytes,
    )
    four = Case(
        name="write-4",
        title=f"write of 4 files of {sizes.part_bytes // MIB} MiB at once until durable",
        unit="MiB/s",
        load=("create", "{out}/written-%d", "4", str(sizes.part_bytes), "4"),
        limit_s=sizes.limit_s,
        done_bytes=sizes.big_bytes,
        written=sizes.part_bytes,
    )
    return [write, four] + [
        Case(
            name=f"create-{threads}",
            title=f"creates of 4 KiB until durable, {_threads(threads)}",
            unit="files/s",
            load=("create", "{out}/new-%05d", str(sizes.files), str(CREATED_BYTES), str(threads)),
            budget_s=sizes.budget_s,
            limit_s=sizes.limit_s,
            written=CREATED_BYTES,
        )
        for threads in (1, 16)
    ]


def _changes(sizes: Sizes) -> list[Case]:
    """What programs written for a local disk do beyond reading and writing files once."""
    return [*_exclusive_creates(sizes), *_moves_and_edits(sizes), *_trees(sizes)]


def _exclusive_creates(sizes: Sizes) -> list[Case]:
    return [
        Case(
            name=f"exclusive-{threads}",
            title=f"exclusive creates of 4 KiB until durable, {_threads(threads)}",
            unit="files/s",
            load=(
                "exclusive",
                "{out}/new-%05d",
                str(sizes.files),
                str(CREATED_BYTES),
                str(threads),
            ),
            budget_s=sizes.budget_s,
            limit_s=sizes.limit_s,
            written=CREATED_BYTES,
        )
        for threads in (1, 16)
    ]


def _moves_and_edits(sizes: Sizes) -> list[Case]:
    limit, size = sizes.limit_s, sizes.part_bytes
    mib = size // MIB
    large = Given("large%d.bin", PART, 1)
    return [
        Case(
            name="rename-file",
            title="rename of a file of 100 KiB",
            unit="ms",
            load=("rename", "{out}/old0", "{out}/new", "1"),
            limit_s=limit,
            given=(Given("old%d", SMALL, 1),),
            written=SMALL_BYTES,
            written_in="new",
        ),
        Case(
            name="rename-directory",
            title=f"rename of a directory of {sizes.files:,} files",
            unit="s",
            load=("rename", "{out}/old", "{out}/new", str(sizes.files)),
            limit_s=limit,
            given=(Given("old/%05d", SMALL, sizes.files),),
            written=SMALL_BYTES,
            written_in="new/",
        ),
        Case(
            name="append",
            title=f"append of 1 byte to {mib} MiB until durable",
            unit="s",
            load=("append", "{out}/large0.bin"),
            limit_s=limit,
            given=(large,),
            written=size + 1,
        ),
        Case(
            name="edit",
            title=f"edit of 4 KiB in {mib} MiB, fsync",
            unit="s",
            load=("edit", "{out}/large0.bin", str(size // 2), str(EDIT_BYTES)),
            limit_s=limit,
            given=(large,),
            written=size,
            written_in="large0.bin",
            edited_at=size // 2,
        ),
    ]


def _trees(sizes: Sizes) -> list[Case]:
    count = str(sizes.tree_files)
    tar = ("tar", "-xf", "{work}/" + TREE + ".tar", "-C", "{out}")
    clone = ("git", "clone", "--quiet", "--no-hardlinks", "{work}/" + TREE, "{out}/" + TREE)
    return [
        Case(
            name=name,
            title=f"{title} of {count} files of 4 KiB",
            unit="s",
            load=("command", count, *command),
            limit_s=3 * sizes.limit_s,
            written=CREATED_BYTES,
            written_in=f"{TREE}/files/",
        )
        for name, title, command in (("untar", "tar x", tar), ("clone", "git clone", clone))
    ]


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
