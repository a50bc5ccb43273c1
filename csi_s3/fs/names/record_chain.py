"""A doubly linked list whose members carry the links, for orders of many small records.

Rejected: OrderedDict, which takes some 150 bytes for each member; dict, whose first member is found
by passing all that were removed before it.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar, cast


class Link:
    """A member of one chain at most; in none, both are None."""

    __slots__ = ("after", "before")

    after: "Link | None"
    before: "Link | None"

    def __init__(self) -> None:
        self.after = self.before = None


LinkT = TypeVar("LinkT", bound=Link)


class Chain(Generic[LinkT]):
    """Concurrency: plain code. Each step costs the same, however long the chain is."""

    __slots__ = ("_end",)

    def __init__(self) -> None:
        self._end = Link()
        self._end.after = self._end.before = self._end

    def __bool__(self) -> bool:
        return self._end.after is not self._end

    @property
    def first(self) -> LinkT | None:
        return cast("LinkT", self._end.after) if self else None

    def __iter__(self) -> Iterator[LinkT]:
        """In their order; the chain must not change before the end."""
        member = self._end.after
        while member is not None and member is not self._end:
            yield cast("LinkT", member)
            member = member.after

    def close(self) -> None:
        """Drop the links to itself of an empty chain, which is not used any more.

        Otherwise it stays until a collection of cycles finds it.
        """
        self._end.after = self._end.before = None

    def append(self, member: LinkT) -> None:
        """At the end; a member of any chain is taken out of that first."""
        end = self._end
        if member.after is end:
            return  # it is there already
        remove(member)
        last = cast("Link", end.before)
        member.before, member.after = last, end
        last.after = end.before = member


def remove(member: Link) -> None:
    """Take it out of the chain that it is in, if any."""
    before, after = member.before, member.after
    if before is not None and after is not None:
        before.after, after.before = after, before
        member.before = member.after = None
