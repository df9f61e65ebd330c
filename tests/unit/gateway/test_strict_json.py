"""What Python's JSON parser lets pass and ours does not."""

import pytest

from gateway.problems import ProblemError
from gateway.strict_json import MAX_DEPTH, parse_object


def refused(body: bytes) -> tuple[int, list[str]]:
    with pytest.raises(ProblemError) as caught:
        parse_object(body)
    problem = caught.value.problem
    return problem.status, [error.field for error in problem.errors]


def test_an_ordinary_object_is_parsed() -> None:
    assert parse_object('{"a":[1,"ä",null,true,1.5],"b":{}}'.encode()) == {
        "a": [1, "ä", None, True, 1.5],
        "b": {},
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"[]",
        b"1",
        b'"x"',
        b"null",
        b"{}{}",
        b"{'a':1}",
        b'{"a":01}',
        b"\xff\xfe{}",
        b'{"a":"\xff"}',
        b'{"a":"\x00"}',
        b"\xef\xbb\xbf{}",
        b"[" * 60_000,
        b'{"a":' * 10_000,
    ],
)
def test_what_is_no_json_object_in_utf8_is_refused(body: bytes) -> None:
    assert refused(body) == (400, [])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"a":1,"a":1}', "a"),
        (b'{"a":{"b":[{"c":1,"c":2}]}}', "a.b[0].c"),
        (b'{"a":NaN}', "a"),
        (b'{"a":[0,-Infinity]}', "a[1]"),
        (b'{"a":1e999}', "a"),
        (b'{"a":' + b"9" * 5000 + b"}", "a"),
        (b'{"a":"x\\u0000y"}', "a"),
        (b'{"a":{"b":"\\ud800"}}', "a.b"),
        (b'{"a":{"\\udc00":1}}', "a"),
        (b'{"a":{"\\u0000":1}}', "a"),
    ],
)
def test_a_value_that_strict_json_does_not_know_is_refused_with_its_field(body: bytes, field: str) -> None:
    assert refused(body) == (400, [field])


def test_a_whole_surrogate_pair_is_one_character() -> None:
    assert parse_object(b'{"a":"\\ud83d\\ude00"}') == {"a": "\U0001f600"}


def test_an_object_as_deep_as_allowed_passes_and_one_deeper_does_not() -> None:
    assert parse_object(b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}")
    status, _ = refused(b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}")
    assert status == 400
