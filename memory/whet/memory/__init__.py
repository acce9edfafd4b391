"""The memory of agents: every run, verdict, critique, lesson and policy, kept in SQL and never lost or doubled.

from whet.memory import Memory

async with await Memory.open(".whet") as memory:
    await memory.put(task, run, verdict)
    failed = await memory.find(Run, where={"status": "failed"})
"""

from whet.memory.changes import Change
from whet.memory.memory import Memory
from whet.memory.recorder import Receipt, Recorder

__all__ = ["Change", "Memory", "Receipt", "Recorder"]
