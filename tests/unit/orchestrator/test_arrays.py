"""Arrays as PostgreSQL's text; test_engine_arrays.py lets PostgreSQL itself read them."""

from uuid import UUID

from orchestrator.arrays import bytes_array, plain_array, text_array
from orchestrator.entries import State

ID = UUID("01890000-0000-7000-8000-000000000001")


def test_plain_values_are_written_bare_and_nothing_is_null() -> None:
    assert plain_array([ID, None]) == f"{{{ID},NULL}}"
    assert plain_array([1, 2.5, True, State.RUNNING]) == "{1,2.5,True,RUNNING}"


def test_texts_are_quoted_so_that_an_empty_one_and_the_word_null_are_texts() -> None:
    assert text_array(["", None, "NULL", "a,b", "{}"]) == '{"",NULL,"NULL","a,b","{}"}'


def test_quotes_and_backslashes_in_a_text_are_escaped() -> None:
    assert text_array(['say "no"', "C:\\temp"]) == '{"say \\"no\\"","C:\\\\temp"}'


def test_bytes_are_hexadecimal() -> None:
    assert bytes_array([b"\x00\xff", b"", None]) == '{"\\\\x00ff","\\\\x",NULL}'


def test_an_array_of_nothing_is_empty() -> None:
    assert plain_array([]) == text_array([]) == bytes_array([]) == "{}"
