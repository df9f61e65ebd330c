"""PostgreSQL reads the arrays of a batch as they were meant."""

from collections.abc import Callable, Iterator

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.arrays import bytes_array, plain_array, text_array

pytestmark = pytest.mark.integration

# PostgreSQL stores no NUL, and UTF-8 has no surrogates.
TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
SETTINGS = settings(deadline=None, max_examples=200)


@pytest.fixture(scope="module")
def connection(new_database: Callable[..., str]) -> Iterator[psycopg.Connection]:
    with psycopg.connect(new_database(), autocommit=True) as opened:
        yield opened


def read(connection: psycopg.Connection, array: str, kind: str) -> list[object]:
    row = connection.execute(f"SELECT %s::{kind}[]", [array]).fetchone()  # type: ignore[arg-type]
    assert row is not None
    return list(row[0])


@SETTINGS
@given(values=st.lists(st.none() | TEXTS | st.sampled_from(["", "NULL", '"', "\\", "{", ",", "\n", " a "])))
def test_texts_come_back_as_they_were(connection: psycopg.Connection, values: list[str | None]) -> None:
    assert read(connection, text_array(values), "text") == values


@SETTINGS
@given(values=st.lists(st.none() | st.binary()))
def test_bytes_come_back_as_they_were(connection: psycopg.Connection, values: list[bytes | None]) -> None:
    assert read(connection, bytes_array(values), "bytea") == values


@SETTINGS
@given(
    numbers=st.lists(st.none() | st.floats(allow_nan=False)),
    flags=st.lists(st.none() | st.booleans()),
    ids=st.lists(st.none() | st.uuids()),
)
def test_numbers_flags_and_ids_come_back_as_they_were(
    connection: psycopg.Connection, numbers: list[float | None], flags: list[bool | None], ids: list[object]
) -> None:
    assert read(connection, plain_array(numbers), "float8") == numbers
    assert read(connection, plain_array(flags), "boolean") == flags
    assert read(connection, plain_array(ids), "uuid") == ids  # type: ignore[arg-type]


def test_a_text_with_nul_is_refused_and_not_cut_off(connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.DataError):
        read(connection, text_array(["before \x00 after"]), "text")
