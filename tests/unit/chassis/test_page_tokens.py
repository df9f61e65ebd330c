"""Tokens come back as they were, for the list that they were made for, and for no other."""

import base64
import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import Fault, FaultKind
from chassis.page_tokens import MAX_NUMBER, decode_page_token, encode_page_token

FILTER = ["user", 3, ""]


@given(
    number=st.integers(-MAX_NUMBER, MAX_NUMBER),
    text=st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=50),
    identifier=st.uuids(),
)
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


@pytest.mark.parametrize("number", ["1" * 20, "-1" + "0" * 20, float("inf"), float("nan")])
@pytest.mark.parametrize("text", ["a", "a\x00b", "\ud800"])
def test_a_forged_token_with_what_no_database_has_is_refused_by_name(number: object, text: str) -> None:
    ours = encode_page_token((1, "a"), FILTER)
    digest, *_ = json.loads(base64.urlsafe_b64decode(ours + "=" * (-len(ours) % 4)))
    for position in ([number, text], ["1", "a\x00b"], ["1", "\ud800"]):
        forged = base64.urlsafe_b64encode(json.dumps([digest, *position]).encode()).decode().rstrip("=")
        with pytest.raises(Fault) as caught:
            decode_page_token(forged, FILTER, types=(int, str))
        assert [field.subject for field in caught.value.fields] == ["page_token"]
