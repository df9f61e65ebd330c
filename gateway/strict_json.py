"""JSON as RFC 8259 and I-JSON (RFC 7493) mean it.

What Python's parser lets pass is refused here, with the field named.
"""

import json
import math
from typing import Any, Final

from gateway.problems import FieldError, ProblemError, malformed

MAX_DEPTH: Final = 16
MAX_INTEGER_DIGITS: Final = 20  # an int64 has 19 and a sign; what is longer is no number of ours
MAX_FIELD_CHARACTERS: Final = 200  # a field's name may be the client's own text: do not echo all of it


class _Unacceptable:
    """Stands in the parsed tree for a value that must be refused, so that the walk can name its field."""

    def __init__(self, why: str) -> None:
        self.why = why


_DUPLICATE: Final = _Unacceptable("appears twice")
_NOT_FINITE: Final = _Unacceptable("must be a finite number")
_TOO_LONG: Final = _Unacceptable("has too many digits")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                members[name] = _DUPLICATE
            seen.add(name)
    return members


def _integer(text: str) -> int | _Unacceptable:
    return int(text) if len(text) <= MAX_INTEGER_DIGITS else _TOO_LONG


def _float(text: str) -> float | _Unacceptable:
    number = float(text)
    return number if math.isfinite(number) else _NOT_FINITE


def _constant(_: str) -> _Unacceptable:
    return _NOT_FINITE


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
)


def parse_object(body: bytes) -> dict[str, Any]:
    """Parses a request body that must be one JSON object.

    Raises:
        ProblemError: 400 for text that is not UTF-8, not JSON, not an object, or nested deeper than
            MAX_DEPTH; for a duplicate key, NaN, Infinity, a number too long for us, a NUL character or half
            of a surrogate pair, with its field.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise malformed("The body is not UTF-8.") from error
    if not text:
        raise malformed("The body is empty; it must be a JSON object.")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise malformed(f"The body is not JSON: {error.msg} at character {error.pos}.") from error
    except RecursionError as error:
        raise malformed("The body is nested too deep.") from error
    if not isinstance(value, dict):
        raise malformed("The body must be a JSON object.")
    _check(value, "", 1)
    return value


def _check(value: Any, field: str, depth: int) -> None:
    if isinstance(value, str):
        _check_text(value, field)
    elif isinstance(value, _Unacceptable):
        raise _refuse(field, value.why)
    elif isinstance(value, dict | list):
        if depth > MAX_DEPTH:
            raise _refuse(field, f"is nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, dict):
            for name, member in value.items():
                _check_text(name, field)
                _check(member, f"{field}.{name}" if field else name, depth + 1)
        else:
            for index, member in enumerate(value):
                _check(member, f"{field}[{index}]", depth + 1)


def _check_text(text: str, field: str) -> None:
    if "\x00" in text:
        raise _refuse(field, "must not contain a NUL character")
    # str.isascii is a flag of the string: the encoder runs only for text that could hold a surrogate.
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise _refuse(field, "must not contain half of a surrogate pair") from error


def _refuse(field: str, why: str) -> ProblemError:
    shown = field[:MAX_FIELD_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
    return malformed("The body is not strict JSON.", FieldError(shown, why))
