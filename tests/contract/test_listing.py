"""LIST on every store: order, folding, page borders."""

import pytest

from csi_s3.errors import StoreRefusedError

TRAPS = ["dir-1", "dir/", "dir/a-b", "dir/a/x", "dir/b", "dir0", "é", "z/1", "z/2"]


@pytest.fixture
async def trapped(store):
    for key in TRAPS:
        await store.put(key, b"" if key.endswith("/") else key.encode())
    return store


async def test_an_empty_bucket_lists_nothing(subject):
    page = await subject.store.list_page("")
    assert (list(page.objects), list(page.prefixes), page.next_token) == ([], [], None)


async def test_listing_says_of_objects_what_head_says(store):
    await store.put("k", b"hello")
    [listed] = (await store.list_page("")).objects
    head = await store.head("k")
    assert (listed.key, listed.size, listed.etag) == (head.key, head.size, head.etag)
    assert listed.last_modified == head.last_modified
    assert not listed.archived


@pytest.mark.parametrize("max_keys", [1, 2, 3, 1000])
async def test_every_page_size_gives_every_name_once_and_in_order(subject, trapped, max_keys):
    if max_keys == 1 and subject.quirk("pages of one name end early"):
        assert len((await subject.listed(max_keys=1)).objects) < 3
        return
    everything = await subject.listed(delimiter="", max_keys=max_keys)
    keys = [info.key for info in everything.objects]
    assert keys == sorted(TRAPS, key=str.encode)
    folded = await subject.listed(max_keys=max_keys)
    assert [info.key for info in folded.objects] == ["dir-1", "dir0", "é"]
    assert folded.prefixes == ["dir/", "z/"]


@pytest.mark.parametrize("max_keys", [1, 2, 1000])
async def test_a_directory_lists_its_own_names_and_marker(subject, trapped, max_keys):
    page = await subject.listed("dir/", max_keys=max_keys)
    if max_keys == 1 and subject.quirk("pages of one name end early"):
        assert len(page.objects) < 3
        return
    assert [info.key for info in page.objects] == ["dir/", "dir/a-b", "dir/b"]
    assert page.prefixes == ["dir/a/"]


async def test_max_keys_counts_objects_and_prefixes_together(subject, trapped):
    page = await trapped.list_page("", max_keys=2)
    assert len(page.objects) + len(page.prefixes) == 2
    assert page.next_token is not None


async def test_a_prefix_need_not_end_at_a_slash(subject, trapped):
    page = await trapped.list_page("dir-")
    assert [info.key for info in page.objects] == ["dir-1"]


async def test_a_prefix_with_nothing_under_it_lists_nothing(subject, trapped):
    page = await trapped.list_page("nothing/")
    assert (list(page.objects), list(page.prefixes)) == ([], [])


async def test_a_prefix_whose_keys_are_gone_is_listed_no_more(subject, store):
    for key in ("d/", "d/a/x", "d/a/b/y", "e/x", "f"):
        await store.put(key, b"")
    for key in ("d/", "d/a/x"):
        await store.delete(key)
    assert not await store.delete_many([("d/a/b/y", "")])
    folded = await subject.listed()
    assert ([info.key for info in folded.objects], folded.prefixes) == (["f"], ["e/"])
    everything = await subject.listed(delimiter="")
    assert [info.key for info in everything.objects] == ["e/x", "f"]
    for prefix in ("d/", "d/a/", "d/a/b/"):
        page = await store.list_page(prefix, delimiter="", max_keys=2)
        assert (list(page.objects), page.next_token) == ([], None)
    await store.put("d/a/b/y", b"")
    assert (await subject.listed("d/")).prefixes == ["d/a/"]


async def test_an_object_and_keys_below_its_name_are_listed_side_by_side(subject, store):
    await store.put("x", b"file")
    if subject.quirk("an object bars keys below it"):
        with pytest.raises(StoreRefusedError):
            await store.put("x/y", b"below")
        return
    await store.put("x/y", b"below")
    everything = await subject.listed(delimiter="")
    if subject.quirk("an object hides keys below it"):
        assert [info.key for info in everything.objects] == ["x"]
        assert (await store.head("x/y")).size == 5
        return
    assert [info.key for info in everything.objects] == ["x", "x/y"]
    for max_keys in (2, 1000):
        page = await subject.listed(max_keys=max_keys)
        assert [info.key for info in page.objects] == ["x"]
        assert page.prefixes == ["x/"]


async def test_a_page_ends_where_it_was_asked_to_and_goes_on_behind_it(subject, store):
    for n in range(7):
        await store.put(f"n/{n}", b"")
    first = await store.list_page("n/", max_keys=3)
    rest = await store.list_page("n/", max_keys=1000, token=first.next_token)
    assert [info.key for info in first.objects] == ["n/0", "n/1", "n/2"]
    assert [info.key for info in rest.objects] == ["n/3", "n/4", "n/5", "n/6"]
    assert rest.next_token is None
