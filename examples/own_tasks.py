"""A command-line agent on a task file of one's own, with any model that LiteLLM knows.

    python examples/own_tasks.py tasks.jsonl openai/gpt-4o-mini --dollars 0.50

Each line is a task: {"id": "sum", "prompt": …, "verifiers": [{"kind": "exact", "params": {"expected": "42"}}]}.
Everything is recorded in .whet; look with `whet run list`, and let it learn with `whet improve jsonl:tasks.jsonl`.
"""

import argparse
import asyncio
import sys

from whet.agents import Agent, run_tasks
from whet.agents.tasksets import load_tasks
from whet.core import Budget, WhetError
from whet.core.models import load_model
from whet.memory import Memory


async def main(file: str, model: str, budget: Budget, concurrency: int) -> None:
    """Runs every task once and prints what came of it."""
    tasks = load_tasks(f"jsonl:{file}").tasks
    async with await Memory.open(".whet") as memory:
        agent = Agent("refine", load_model(model), memory=memory)
        results = await run_tasks(agent, tasks, concurrency=concurrency, budget=budget)
    for result in results:
        said = result.answer or result.run.error or ""
        outcome = result.verdicts[-1].outcome if result.verdicts else result.run.status
        print(f"{result.run.id[:16]}  {outcome:<6} {result.run.task_id:<24} {' '.join(said.split())}")
    passed = sum(any(verdict.outcome == "pass" for verdict in result.verdicts) for result in results)
    spent = budget.spent
    print(
        f"{passed} of {len(results)} pass, {spent.calls} calls, {spent.micro_dollars / 1e6:.4f} dollars",
        file=sys.stderr,
    )


def parse() -> argparse.Namespace:
    """Returns the arguments. A budget in dollars needs a model whose price is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("file")
    parser.add_argument("model")
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--dollars", type=float)
    parser.add_argument("--concurrency", type=int, default=8)
    return parser.parse_args()


if __name__ == "__main__":
    given = parse()
    limit = Budget(calls=given.calls, micro_dollars=None if given.dollars is None else round(given.dollars * 1e6))
    try:
        asyncio.run(main(given.file, given.model, limit, given.concurrency))
    except WhetError as error:
        sys.exit(str(error))
