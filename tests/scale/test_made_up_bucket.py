"""The made-up bucket lists, computes and changes keys as a store that holds them would."""

import random

import pytest

from csi_s3.s3.memory_store import MemoryStore
from tests.scale.made_up_bodies import Parts, Pattern, Slice, body_of
from tests.scale.made_up_bucket import families
from tests.scale.made_up_keys import Keys, Stored

LAYOUT = {
    "big": {"n": 25},
    "tree": {"directories": 4, "files": 3},
    "dirs": {"n": 7},
    "old": {"n": 3},
}
PREFIXES = (
    "",
    "big/",
    "big/f000000",
    "tree/",
    "tree/d0000002/",
    "dirs/",
    "b",
    "tree/d",
    "zzz",
    "w",
)


def computed() -> list[str]:
    return [family.key(i) for family in families(LAYOUT) for i in range(family.n)]


def changed(keys: Keys) -> set[str]:
    """Write and remove some keys; returns those that are there then."""
    present = set(computed())
    rng = random.Random(1)
    for key in rng.sample(sorted(present), 12):
        keys.remove(key)
        present.discard(key)
    for key in ("big/f0000003x", "big/f0000004", "wide/a", "wide/a/b", "w", "tree/d0000002"):
        keys.put(key, Stored(body_of(b"x"), '"e"', 0))
        present.add(key)
    return present


@pytest.mark.parametrize("max_keys", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("delimiter", ["", "/"])
@pytest.mark.parametrize("prefix", PREFIXES)
async def test_pages_are_those_of_the_in_memory_store(prefix, delimiter, max_keys):
    keys, store = Keys(families(LAYOUT)), MemoryStore()
    for key in changed(keys):
        store.put_now(key, b"x")
    objects, prefixes, after, wanted = [], [], "", ([], [])
    while True:
        found, common, after = keys.page(
            prefix, delimiter=delimiter, after=after, max_keys=max_keys
        )
        assert len(found) + len(common) <= max_keys
        objects += [key for key, _ in found]
        prefixes += common
        if not after:
            break
    token = None
    while True:
        page = await store.list_page(prefix, delimiter=delimiter, token=token)
        wanted[0].extend(info.key for info in page.objects)
        wanted[1].extend(page.prefixes)
        if (token := page.next_token) is None:
            break
    assert (objects, prefixes) == wanted


def test_a_key_is_found_while_it_is_there():
    keys = Keys(families(LAYOUT))
    present = changed(keys)
    for key in {*computed(), *present, "big/f25", "big/f0000025", "tree/d0000004/f0000", ""}:
        assert (keys.find(key) is not None) == (key in present), key


def test_bodies_are_read_as_they_were_written():
    data = bytes(range(256)) * 100
    whole = Parts([body_of(data), Slice(Pattern(10_000, 7), 100, 5000), body_of(b"end")])
    wanted = data + Pattern(10_000, 7).read(100, 5100) + b"end"
    assert whole.size == len(wanted)
    for start, end in ((0, len(wanted)), (5, 6), (25_590, 25_700), (30_000, 99_999), (9, 9)):
        assert whole.read(start, end) == wanted[start:end]


def test_computed_bytes_repeat_their_number():
    assert Pattern(40, 12).read(0, 99) == b"000000000000012\n" * 2 + b"00000000"
    assert Pattern(9000, 3).read(4090, 4100) == Pattern(9000, 3).read(0, 9000)[4090:4100]
