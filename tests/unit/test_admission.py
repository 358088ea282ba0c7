"""The queue of an engine: who is read next, within which memory, expected to use how much."""

from __future__ import annotations

import pytest

from plan_tuning.students.generation import admission
from plan_tuning.students.generation.admission import Lengths, Waiting
from plan_tuning.students.generation.sequences import Row


def rows(*sizes: int, samples: int = 1) -> list[Row]:
    """Rows of different prompts of the given sizes, each ``samples`` times."""
    return [
        Row(place * samples + sample, (place, *range(1, size)), None)
        for place, size in enumerate(sizes)
        for sample in range(samples)
    ]


def taken(waiting: Waiting, used: int, expected: int, *, is_empty: bool = False) -> list[int]:
    """Sizes of the texts of the next pass, once for each row."""
    groups = waiting.take(used, expected, is_empty=is_empty)
    return [len(group.text) for group in groups for _ in group.rows]


def test_the_longest_come_first_and_what_does_not_fit_waits() -> None:
    waiting = Waiting(rows(10, 40, 39, 38), 150, shares_prompts=True)
    assert taken(waiting, 0, 30) == [40, 39], "two of 40 + 30 tokens, three would be 210"
    assert taken(waiting, 140, 30) == []
    assert taken(waiting, 0, 30) == [38, 10]
    assert len(waiting) == 0


def test_samples_share_their_prompt_or_hold_copies() -> None:
    assert taken(Waiting(rows(40, samples=4), 100, shares_prompts=True), 0, 15) == [40] * 4
    copies = Waiting(rows(40, samples=4), 100, shares_prompts=False)
    assert taken(copies, 0, 15) == []
    assert taken(copies, 0, 15, is_empty=True) == [40], "as many of a group as there is room for"
    assert len(copies) == 3


def test_one_row_is_always_taken_where_nobody_is_under_way() -> None:
    waiting = Waiting(rows(500, samples=2), 100, shares_prompts=True)
    assert taken(waiting, 0, 50) == []
    assert taken(waiting, 0, 50, is_empty=True) == [500]
    assert taken(waiting, 0, 50, is_empty=True) == [500]
    assert taken(waiting, 0, 50, is_empty=True) == []


def test_a_pass_holds_texts_of_similar_length(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Waiting(rows(400, 399, 100, 99), 10**6, shares_prompts=True)
    assert taken(waiting, 0, 1) == [400, 399]
    assert taken(waiting, 0, 1) == [100, 99]
    monkeypatch.setattr(admission, "PASS_TOKENS", 250)
    waiting = Waiting(rows(100, 100, 100), 10**6, shares_prompts=True)
    assert taken(waiting, 0, 1) == [100, 100]


def test_rows_set_aside_are_next_and_read_what_they_have_written() -> None:
    waiting = Waiting(rows(500, 499), 2000, shares_prompts=True)
    late = Row(9, (1, 2, 3), None, tokens=[4, 5])
    waiting.put_back([late])
    group = waiting.take(0, 10, is_empty=True)[0]
    assert group.text == (1, 2, 3, 4, 5)
    assert group.rows == [late]
    assert len(waiting) == 2


@pytest.mark.parametrize(
    ("used", "has_room"),
    [(0, True), (740, True), (760, False), (1000, False)],
)
def test_places_are_refilled_once_a_quarter_is_free(used: int, has_room: bool) -> None:
    waiting = Waiting(rows(*[50] * 40), 1000, shares_prompts=True)
    assert waiting.has_room(used, 10) is has_room


def test_the_last_rows_do_not_wait_for_a_quarter() -> None:
    waiting = Waiting(rows(50), 1000, shares_prompts=True)
    assert waiting.has_room(900, 50)
    assert not waiting.has_room(901, 50)
    waiting.take(0, 50, is_empty=True)
    assert not waiting.has_room(0, 50), "nobody is left"


def test_the_expected_length_is_learned_with_what_is_unfinished() -> None:
    lengths = Lengths(4096)
    assert lengths.expected == 256
    lengths.tell(80 * 1000, 80)
    assert 900 < lengths.expected < 1000
    lengths.tell(80 * 1000, 0)  # nobody ended meanwhile: the others are longer
    assert lengths.expected > 1700
    assert Lengths(40).expected == 40, "nothing is longer than what is allowed"
