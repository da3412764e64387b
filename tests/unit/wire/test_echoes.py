from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.wire.echoes import Echoes

OURS, OTHER = "0a-11", "0b-22"


@given(st.lists(st.sampled_from([None, OURS, OTHER, "0A-11", f"gateway, {OURS}"]), max_size=60))
def test_the_check_is_on_once_an_answer_had_the_right_id_and_off_if_the_first_20_had_not(
    answers: list[str | None],
) -> None:
    notes: list[str] = []
    echoes = Echoes(lambda: notes.append("off"))
    named = [each for each in answers if each is not None]
    first_right = next((n for n, each in enumerate(named) if each != OTHER), len(named))
    is_off = first_right >= 20
    said = [echoes.belongs(OURS, each) for each in answers]
    right = iter(range(len(named)))
    for each, belongs in zip(answers, said, strict=True):
        place = None if each is None else next(right)
        is_misdirected = each == OTHER and not is_off and place is not None and place > first_right
        assert belongs is not is_misdirected
    assert notes == (["off"] if is_off else [])
