"""Which objects make up a log, and which are merged."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from agent.control.files.logs import Extent, covering_extents, first_to_merge

_KIB = 1024


def _row(*sizes: int) -> list[Extent]:
    extents: list[Extent] = []
    start = 0
    for size in sizes:
        extents.append(Extent(start, start + size))
        start += size
    return extents


def test_a_name_says_exactly_which_bytes_an_object_holds():
    extent = Extent(5, 70)
    assert extent.name == "00000000000000000005-00000000000000000070"
    assert Extent.parse(extent.name) == extent


def test_the_parts_beside_a_merged_object_are_left_out():
    found = [Extent(0, 10), Extent(10, 20), Extent(0, 20), Extent(20, 25)]
    assert covering_extents(found) == [Extent(0, 20), Extent(20, 25)]


def test_nothing_behind_a_gap_belongs_to_the_log():
    assert covering_extents([Extent(0, 10), Extent(11, 20)]) == [Extent(0, 10)]


def test_a_log_without_its_first_byte_is_empty():
    assert covering_extents([Extent(1, 10)]) == []


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.data())
def test_a_merge_cut_short_anywhere_changes_nothing_of_what_is_covered(sizes, data):
    parts = _row(*sizes)
    first = data.draw(st.integers(0, len(parts) - 1))
    last = data.draw(st.integers(first, len(parts) - 1))
    merged = Extent(parts[first].start, parts[last].end)
    gone = data.draw(st.sets(st.sampled_from(parts[first : last + 1])))
    left = [part for part in parts if part not in gone]
    covered = covering_extents([*left, merged])
    assert covered[0].start == 0
    assert covered[-1].end == parts[-1].end
    assert all(a.end >= b.start for a, b in itertools.pairwise(covered))


def test_thirty_two_small_objects_become_one():
    assert first_to_merge(_row(*[100] * 31)) is None
    assert first_to_merge(_row(*[100] * 32)) == 0


def test_large_objects_are_left_as_they_are():
    assert first_to_merge(_row(*[2 * 1024 * _KIB] * 40)) is None


def test_middling_objects_are_merged_once_they_fill_a_mebibyte():
    assert first_to_merge(_row(600 * _KIB)) is None
    assert first_to_merge(_row(100, 600 * _KIB, 600 * _KIB)) == 1


def test_a_run_ends_at_an_object_of_another_class():
    assert first_to_merge(_row(500 * _KIB, *[100] * 32)) == 1


def test_an_empty_log_has_nothing_to_merge():
    assert first_to_merge([]) is None
