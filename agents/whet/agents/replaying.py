"""Replay a run from its record, with no model; fork it at any step, under another policy.

    same = await replay(agent, run_id)                              # the same graph, every answer from the record
    other = await fork(agent, run_id, step=12, policy=candidate)    # the record up to step 12, then live

Both are runs of their own, with ``parent_id`` the run they come from. The graph's code is executed again; what came
from outside (models, tools, verifiers, critics) comes from the record, so a graph that changed meanwhile, or is not
deterministic, is noticed: it asks for what is not on the record, and the run fails saying so.
"""
