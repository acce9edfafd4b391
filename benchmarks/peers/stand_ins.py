"""The two models of the benchmark, stand-ins for large ones, and its metric. Everybody is given the same ones.

``do`` solves tasks of a world when its context defines their verbs, and guesses them otherwise. ``write`` is a
colleague who finds out from failing checks what verbs mean, and says so in whatever form a method asks for.
"""

import json
import random
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from whet.agents.tasksets.world import judge_answer
from whet.core.models.tiny.world import OPERATIONS, program, read_definitions
from whet.core.records import Run, Task
from whet.learners.prompts.archive import Evidence
from whet.learners.prompts.testing import conclude_from, definitions

__all__ = ["do", "judge", "write"]

_CHAIN = re.compile(r"Write solve\(x\): (.+?)\.")
_FINDING = re.compile(r"solve\([\['][^\n]*?\) (?:returned|raised) [^\n]+?, expected [^\n]+?\.(?= |\n|$|\")|\bpassed\b")
_TWO_LINES = re.compile(r"(def \w+\(x\):)\n\s+(return [^\n]+)")
_SAID = re.compile(
    r"<LM_OUTPUT> def .*?</LM_OUTPUT>|#Others\n.*?(?=#Feedback\n)|^# Trace\n.*?(?=^# Results)", re.DOTALL | re.MULTILINE
)
_ANSWERED = re.compile(r"<(LM_OUTPUT|VARIABLE)> def .*?</\1>", re.DOTALL)
_DEFINITION = re.compile(r"def \w+\(x\): return [^\n\"<`]*")
_FIELD = re.compile(r"`\[\[ ## (\w+) ## \]\]`")
_PART = re.compile(r"^# Text \((\w+)\)", re.MULTILINE)
_VARIABLE = re.compile(r"#Variables\n\(\w+\) (\w+)\s*=")


def do(messages: Sequence[Mapping[str, str]]) -> str:
    """Returns an answer to the last message; what the messages before it define is known, the rest is guessed."""
    asked = messages[-1]["content"]
    chain = next((match[1].split(", then ") for match in _CHAIN.finditer(asked)), [])
    known = read_definitions(_unformatted("\n".join(message["content"] for message in messages)))
    rng = random.Random("/".join(chain))
    return program(chain, {verb: known.get(verb) or rng.choice(sorted(OPERATIONS)) for verb in chain})


def judge(task: Task, answer: str) -> tuple[float, str]:
    """Returns the score of an answer in [0, 1], and what is wrong with it in words."""
    verdicts = judge_answer(task, answer)
    run = Run(task_id=task.id, agent="benchmark", answer=answer)
    evidence = Evidence(task=task, run=run, verdicts=verdicts, score=float(verdicts[0].score or 0.0))
    return evidence.score, evidence.feedback


def write(text: str) -> str:
    """Returns what the colleague writes, in the form that is asked for."""
    # What somebody answered is not taken for knowledge where it stands apart from what was found about it.
    text = _unformatted(text)
    text = (_ANSWERED if "<ROLE> response" in text else _SAID).sub("", text)
    # Methods quote answers in JSON, in tags, in fences: each definition is put on a line of its own.
    text = _DEFINITION.sub(r"\n\g<0>\n", text.replace("\\n", "\n"))
    known, examples = _read(text)
    told = definitions(conclude_from(known, examples))
    if "# Answers of prompt 2" in text and "Rewrite it" not in text:
        first, _, second = text.partition("# Answers of prompt 2")
        better = 1 + (second.count("Feedback: passed") > first.count("Feedback: passed"))
        return json.dumps({"preferred": better, "feedback": "Define the verbs."})
    if "<OBJECTIVE_FUNCTION>" in text:
        quoted = [f"{task.partition(chr(10))[0]} {said}" for task, _, said in examples if said]
        return "\n".join(["The verbs were not defined.", *quoted, "```", told, "```"])
    if "IMPROVED_VARIABLE" in text:
        return f"<IMPROVED_VARIABLE>{told}</IMPROVED_VARIABLE>"
    if variable := _VARIABLE.search(text):
        return json.dumps({"reasoning": "Verbs were undefined.", "answer": "", "suggestion": {variable[1]: told}})
    if fields := _FIELD.findall(text.rpartition("Respond with")[2]):
        return "\n\n".join(f"[[ ## {field} ## ]]\n{'' if field == 'completed' else told}" for field in fields)
    if (part := _PART.search(text)) and "TERMINATE" in text:
        return json.dumps({"reasoning": "Verbs were undefined.", "suggestion": {part[1]: told}})
    if "new_instruction" in text:
        return json.dumps({"new_instruction": told})
    return f"The verbs were not defined.\n```\n{told}\n```"


def _unformatted(text: str) -> str:
    """Returns a text with definitions on one line each; Trace formats what holds one with black."""
    return _TWO_LINES.sub(lambda match: f"{match[1]} {match[2].replace(' + ', '+')}", text)


def _read(text: str) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """Returns what a text defines outside of examples, and its examples: task, answer and what was found, as texts.

    An example goes from a task to the last finding before the next task.
    """
    starts = [match.start() for match in _CHAIN.finditer(text)]
    outside, examples = text[: starts[0]] if starts else text, []
    demonstrated = "proposed_instruction" in text
    for start, end in pairwise([*starts, len(text)]):
        part = text[start:end]
        found = list(_FINDING.finditer(part))
        cut = found[-1].end() if found else (len(part) if demonstrated else 0)
        outside += part[cut:]
        said = "passed" if demonstrated else " ".join(match[0] for match in found)
        examples.append((part[: cut or None], part[:cut], said))
    known = {verb: meaning for verb, meaning in read_definitions(outside).items() if meaning in OPERATIONS}
    return known, examples
