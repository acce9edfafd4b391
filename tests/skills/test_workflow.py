"""Workflows: nothing but what is listed is called, a person can read them, and they run with their tools outside."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from whet.core.errors import RefusedError, UserError
from whet.sandboxes import Sandbox, open_sandbox
from whet.skills import plain_steps, run_workflow, workflow_faults

TOOLS = ("order_items", "price")
CODE = """number = task.split()[-1]
total = 0
for item in order_items(number):
    if item == "gift":
        continue
    elif price(item) > 10:
        total += price(item, discount=True)
    else:
        total += price(item)
answer = f"{total:.2f}"
"""


@pytest_asyncio.fixture
async def box() -> AsyncIterator[Sandbox]:
    async with await open_sandbox() as box:
        yield box


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("import os\nanswer = 1", "line 1: Import is not allowed"),
        ("x = 1\nanswer = open('f')", "line 2: the call of 'open' is not allowed"),
        ("answer = eval('1')", "the call of 'eval'"),
        ("answer = ().__class__.__bases__", "the attribute '__bases__'"),
        ("answer = task.__class__()", "the call of 'task.__class__'"),
        ("answer = '{0.x}'.format(task)", "the call of \"'{0.x}'.format\""),
        ("f = price\nanswer = f(1)", "'price' may only be called"),
        ("answer = max([1], key=price)", "'price' may only be called"),
        ("answer = max([1], key=lambda x: x)", "Lambda is not allowed"),
        ("price = 1\nanswer = price", "'price' may only be called"),
        ("len = 3\nanswer = 1", "'len' may only be called"),
        ("answer = __builtins__", "the name '__builtins__'"),
        ("def f(): ...\nanswer = f()", "FunctionDef is not allowed"),
        ("while True: answer = 1", "While is not allowed"),
        ("answer = price(*[1])", "a call with * or **"),
        ("answer = price(**task)", "a call with * or **"),
        ("answer = {1, 2}", "Set is not allowed"),
        ("(answer := 1)", "NamedExpr is not allowed"),
        ("answer = [price][0](1)", "the call of '[price][0]'"),
        ("answer = (1", "line 1: no valid Python"),
        ("total = 1", "never sets 'answer'"),
    ],
)
def test_what_is_not_listed_is_refused_with_its_line(code: str, fault: str) -> None:
    assert any(fault in each for each in workflow_faults(code, TOOLS)), workflow_faults(code, TOOLS)


def test_a_workflow_over_its_tools_has_no_fault_and_each_fault_is_told() -> None:
    assert workflow_faults(CODE, TOOLS) == []
    assert workflow_faults(CODE, ["price"]) == ["line 3: the call of 'order_items' is not allowed"]
    assert len(workflow_faults("import os\nimport sys\nanswer = open()", TOOLS)) == 3


@given(st.text(max_size=60))
def test_any_text_is_checked(code: str) -> None:
    workflow_faults(code, TOOLS)


def test_a_person_reads_plain_steps() -> None:
    assert plain_steps(CODE, TOOLS) == [
        "1. Let `number` be `task.split()[-1]`.",
        "2. Let `total` be `0`.",
        "3. For each `item` in `order_items(number)` (this calls `order_items`):",
        "3.1. If `item == 'gift'`:",
        "3.1.1. Go on with the next one.",
        "3.2. Otherwise, if `price(item) > 10` (this calls `price`):",
        "3.2.1. Change `total` to `total + price(item, discount=True)` (this calls `price`).",
        "3.3. Otherwise:",
        "3.3.1. Change `total` to `total + price(item)` (this calls `price`).",
        "4. Answer with `f'{total:.2f}'`.",
    ]
    assert plain_steps("x = price(1)\nanswer = price(x)", TOOLS) == [
        "1. Call `price(1)` and keep the result as `x`.",
        "2. Call `price(x)` and answer with the result.",
    ]
    with pytest.raises(UserError, match="line 1: the call of 'open'"):
        plain_steps("answer = open()", TOOLS)


@pytest.mark.asyncio
async def test_tools_are_called_outside_once_each_in_order(box: Sandbox) -> None:
    called = []

    def order_items(number: str) -> list[str]:
        called.append(number)
        return ["pen", "gift", "desk"]

    async def price(item: str, discount: bool = False) -> float:
        called.append(item)
        return {"pen": 1.5, "desk": 100}[item] * (0.5 if discount else 1)

    tools = {"order_items": order_items, "price": price}
    result = await run_workflow(box, CODE, tools, {"task": "Total of order 17"})
    assert (result.answer, result.error) == ("51.50", "")
    assert called == ["17", "pen", "pen", "desk", "desk"]
    assert result.calls[-1] == "price('desk', discount=True)"


@pytest.mark.asyncio
async def test_what_goes_wrong_is_a_result(box: Sandbox) -> None:
    tools = {"price": lambda item: 1 / item, "order_items": lambda: object()}
    assert (await run_workflow(box, "x = 1\nanswer = task[7]", tools, {"task": ""})).error == "line 2: IndexError"
    assert (await run_workflow(box, "answer = price(0)", tools, {})).error == "price raised ZeroDivisionError"
    assert "order_items raised" in (await run_workflow(box, "answer = order_items()", tools, {})).error
    many = await run_workflow(box, "for i in range(9): price(1)\nanswer = 1", tools, {}, max_calls=3)
    assert (many.error, len(many.calls)) == ("more than 3 tool calls", 3)
    assert "NameError" in (await run_workflow(box, "answer = open", tools, {})).error
    endless = await run_workflow(box, "answer = 'a' * 10 ** 12", tools, {})
    assert endless.error.startswith("it ended as") or "MemoryError" in endless.error


@pytest.mark.asyncio
async def test_a_program_that_is_none_is_not_run(box: Sandbox) -> None:
    with pytest.raises(RefusedError, match="line 1: Import"):
        await run_workflow(box, "import os\nanswer = 1", {}, {})
