"""docs/how-to/add-a-step.md says what is so: its code is run, and the saga that it makes is walked."""

import re
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

import pytest

from chassis.errors import Fault, FaultKind
from orchestrator.entries import Result, State
from orchestrator.progress import Progress
from orchestrator.saga import Operation, Outcome

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "add-a-step.md"
REFUSED = Fault(FaultKind.FAILED_PRECONDITION, "NO", "no", recorded=True, domain="sagacity.inventory")


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What the page's code defines."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 4
    namespace: dict[str, Any] = {"__name__": "add_a_step"}
    for block in blocks:
        exec(block, namespace)  # noqa: S102 - the page is ours
    return namespace


def walk(page: dict[str, Any], *, insured: bool, refused: str) -> tuple[Progress, list[str]]:
    params = page["PhoneOrder"](
        user_id="u", order_id="o", reservation_id="r", payment_method_id="m", sku="MUG", quantity=1,
        insurance_payment_id="i", insurance_minor=100 if insured else 0,
    )  # fmt: skip
    progress = Progress(page["PHONE_ORDER"], uuid5(NAMESPACE_DNS, "saga"), params, State.RUNNING, 1, 0)
    progress.begin()
    calls: list[str] = []
    for _ in range(20):
        pending = progress.pending()
        calls += [f"{call.step}.{call.operation}" for call in pending]
        results = [
            Result(call, Outcome.REFUSED, fault=REFUSED)
            if call.step == refused and call.operation is Operation.DO
            else Result(call, Outcome.DONE, reply=b"")
            for call in pending
        ]
        if progress.absorb(results, deadline_passed=False).answer is not None:
            break
    return progress, calls


def test_the_pages_saga_completes_with_the_new_steps(page: dict[str, Any]) -> None:
    progress, calls = walk(page, insured=True, refused="")
    assert (progress.state, calls) == (
        State.COMPLETED,
        ["reservation.do", "insurance.do", "hold.do", "sale.do"],
    )


def test_the_pages_saga_leaves_out_a_step_that_its_parameters_do_not_want(page: dict[str, Any]) -> None:
    _, calls = walk(page, insured=False, refused="")
    assert calls == ["reservation.do", "hold.do", "sale.do"]


def test_the_new_step_of_the_page_is_undone_in_reverse(page: dict[str, Any]) -> None:
    progress, calls = walk(page, insured=True, refused="sale")
    assert progress.state is State.COMPENSATED
    assert calls[-2:] == ["insurance.undo", "reservation.undo"]


def test_the_linter_says_of_the_pages_mistake_what_the_page_says(page: dict[str, Any]) -> None:
    assert f'"{page["refusal"]}"' in " ".join(PAGE.read_text("utf-8").split())


def test_the_page_leaves_no_definition_behind_that_an_older_saga_would_not_fit(page: dict[str, Any]) -> None:
    # Additive parameters are not part of the hash: a saga that began before the insurance still loads.
    assert (
        page["PHONE_ORDER"]
        .params(user_id="u", order_id="o", reservation_id="r", payment_method_id="m", sku="MUG", quantity=1)
        .insurance_minor
        == 0
    )
