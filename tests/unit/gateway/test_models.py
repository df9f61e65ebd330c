"""The text that clients send."""

import pytest
from pydantic import TypeAdapter, ValidationError

from gateway.models import Name

LINE: TypeAdapter[str] = TypeAdapter(Name)
REFUSED = [
    *range(0x20),
    *range(0x7F, 0xA0),
    *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
]


@pytest.mark.parametrize("code", REFUSED, ids=lambda code: f"U+{code:04X}")
def test_one_line_text_has_no_controls_and_nothing_that_turns_its_direction(code: int) -> None:
    with pytest.raises(ValidationError):
        LINE.validate_python(f"a{chr(code)}b")


@pytest.mark.parametrize(
    "text", ["~", "\xa0", "Zoë Ångström", "王小明", "שלום", "👩\u200d🔬", "\u2027\u202f\u2065\u206a"]
)
def test_one_line_text_has_every_other_character(text: str) -> None:
    assert LINE.validate_python(text) == text
