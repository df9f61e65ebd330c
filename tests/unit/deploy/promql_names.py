"""What a PromQL expression asks for: metrics with their matchers, and the labels that it groups by.

Not a parser: it knows what is a name, a string and a bracket, which is enough for what is written here; that
an expression is PromQL is promtool's to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<range>\[[^\]]*\])|(?P<name>[a-zA-Z_:][\w:]*)"""
    r"""|(?P<operator>=~|!~|!=|==|=)|(?P<other>\$?[\d.]+\w*|\S)"""
)
_GROUPERS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
# What Prometheus itself puts on a target's series, and what the scrape configuration adds.
OF_A_TARGET = {"job", "instance", "service"}
_OPERATORS = {"and", "or", "unless", "bool", "offset", "atan2"}


@dataclass(frozen=True)
class Selector:
    """A metric, and what its labels have to be: (label, operator, value)."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether it takes a series with these labels; those that only a target has are not looked at."""
        return all(
            _is(wanted, labels.get(label, ""), operator)
            for label, operator, wanted in self.matchers
            if label not in OF_A_TARGET
        )


@dataclass
class Asked:
    """What an expression asks for."""

    selectors: list[Selector] = field(default_factory=list)
    groups: set[str] = field(default_factory=set)


def asked(expression: str) -> Asked:
    """Return the metrics of an expression and the labels that it groups by."""
    found = Asked()
    tokens = [(match.lastgroup or "", match.group()) for match in _TOKEN.finditer(expression)]
    place = 0
    while place < len(tokens):
        kind, text = tokens[place]
        follows = tokens[place + 1][1] if place + 1 < len(tokens) else ""
        place += 1
        if kind != "name" or text in _OPERATORS:
            continue
        if text in _GROUPERS:
            inside, place = _until(tokens, place, ")")
            found.groups |= {name for group, name in inside if group == "name"}
        elif follows == "{":
            inside, place = _until(tokens, place, "}")
            found.selectors.append(Selector(text, tuple(_matchers(inside))))
        elif follows != "(" and not _is_number(text) and not _is_grouper_ahead(follows):
            found.selectors.append(Selector(text))
    return found


def _is(wanted: str, value: str, operator: str) -> bool:
    same = re.fullmatch(wanted, value) is not None if "~" in operator else value == wanted
    return same != operator.startswith("!")


def _until(tokens: list[tuple[str, str]], place: int, end: str) -> tuple[list[tuple[str, str]], int]:
    inside = []
    while tokens[place][1] != end:
        inside.append(tokens[place])
        place += 1
    return inside, place + 1


def _matchers(inside: list[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    for index, (kind, text) in enumerate(inside):
        if kind == "operator":
            yield inside[index - 1][1], text, inside[index + 1][1][1:-1]


def _is_number(text: str) -> bool:
    return text.lower() in {"inf", "nan"}


def _is_grouper_ahead(follows: str) -> bool:
    # `sum by (a) (...)`: an aggregation whose bracket comes later.
    return follows in _GROUPERS
