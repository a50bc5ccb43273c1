import pytest

from csi_s3.bounded import Recent


def filled(most, n):
    recent = Recent(most)
    for number in range(n):
        recent[number] = str(number)
    return recent


@pytest.mark.parametrize("n", [10, 100])
def test_it_holds_the_last_entries_and_no_more_than_it_may(n):
    recent = filled(10, n)
    assert list(recent) == list(range(n - 10, n))
    assert recent[n - 1] == str(n - 1)


def test_what_is_set_again_is_the_latest():
    recent = filled(3, 3)
    recent[0] = "again"
    recent[3] = "3"
    assert dict(recent) == {2: "2", 0: "again", 3: "3"}


def test_what_is_removed_makes_room():
    recent = filled(3, 3)
    assert recent.pop(1) == "1"
    del recent[2]
    assert recent.setdefault(9, "9") == "9"
    assert (len(recent), 1 in recent, recent.pop(1, None)) == (2, False, None)
