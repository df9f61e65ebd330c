"""Tokens come back as they were, for the list that they were made for, and for no other."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import Fault, FaultKind
from chassis.page_tokens import decode_page_token, encode_page_token

FILTER = ["user", 3, ""]


@given(number=st.integers(), text=st.text(max_size=50), identifier=st.uuids())
def test_a_token_gives_its_position_back(number: int, text: str, identifier: UUID) -> None:
    token = encode_page_token((number, text, identifier), FILTER)
    assert decode_page_token(token, FILTER, types=(int, str, UUID)) == (number, text, identifier)


def test_an_empty_token_is_the_first_page() -> None:
    assert decode_page_token("", FILTER, types=(int,)) is None


@pytest.mark.parametrize("token", ["x", "%%%", "é", "bnVsbA", "e30", "WzFd", "A" * 400, "\x00", "W10"])
def test_garbage_is_refused_by_name(token: str) -> None:
    with pytest.raises(Fault) as caught:
        decode_page_token(token, FILTER, types=(int,))
    assert caught.value.kind is FaultKind.INVALID_ARGUMENT
    assert [field.subject for field in caught.value.fields] == ["page_token"]


@given(token=st.text(max_size=60))
def test_no_text_is_more_than_refused(token: str) -> None:
    kind = None
    try:
        assert decode_page_token(token, FILTER, types=(int,)) is None
    except Fault as fault:
        kind = fault.kind
    assert kind in {None, FaultKind.INVALID_ARGUMENT}


def test_a_token_of_another_filter_is_refused() -> None:
    token = encode_page_token((1,), FILTER)
    with pytest.raises(Fault):
        decode_page_token(token, ["somebody else", 3, ""], types=(int,))
