"""``Memory``: every run, verdict, critique, lesson and policy, in SQL; what is recalled comes from a derived index.

    async with await Memory.open(".whet") as memory:
        await memory.put(task, run, verdict)
        runs = await memory.find(Run, where={"task_id": task.id})
"""
