"""Agent Skills: a folder with a ``SKILL.md`` and its scripts, read, checked, disclosed bit by bit and run in a sandbox.

    skill = Skill.parse(policy.skill("verbs"))              # UserError lists every violation of the format
    for name, body in disclose(policy, task.prompt):        # the bodies of the skills this task calls for
        print(name, estimate_tokens(body))
    result = await run_script(sandbox, skill, "scripts/verbs.py", ["--help"])
    better = install(policy, skill)                         # a new policy with the skill in it

The format is that of agentskills.io.
"""

from whet.skills.disclosure import DisclosureCost, catalogue, disclose, disclosure_cost, estimate_tokens, relevance
from whet.skills.folder import load_skill, save_skill
from whet.skills.inspection import Finding, SafetyReport, inspect_skill
from whet.skills.library import install, library, remove
from whet.skills.origin import Found, fetch_skill
from whet.skills.script import run_script, run_scripts
from whet.skills.skill import Skill
from whet.skills.workflow import WorkflowResult, plain_steps, run_workflow, workflow_faults

__all__ = [
    "DisclosureCost",
    "Finding",
    "Found",
    "SafetyReport",
    "Skill",
    "WorkflowResult",
    "catalogue",
    "disclose",
    "disclosure_cost",
    "estimate_tokens",
    "fetch_skill",
    "inspect_skill",
    "install",
    "library",
    "load_skill",
    "plain_steps",
    "relevance",
    "remove",
    "run_script",
    "run_scripts",
    "run_workflow",
    "save_skill",
    "workflow_faults",
]
