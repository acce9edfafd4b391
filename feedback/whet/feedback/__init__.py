"""What judges and explains: verifiers, critics, feedback from outside, and how far each source is trusted.

from whet.core import VerifierSpec
from whet.feedback import CheckCritic, load_verifier

verifier = load_verifier(VerifierSpec(kind="exact", params={"expected": "42"}))
verdict = await verifier.verify(task, run)
critiques = await CheckCritic().critique(task, run, [verdict])
"""

from whet.feedback import feedback
from whet.feedback.answers import extract_code
from whet.feedback.critic import Critic
from whet.feedback.critics.check import CheckCritic
from whet.feedback.critics.model import ModelCritic
from whet.feedback.verifier import FreshSandboxes, Verifier
from whet.feedback.verifiers.registry import check_spec, load_verifier, verify_all

__all__ = [
    "CheckCritic",
    "Critic",
    "FreshSandboxes",
    "ModelCritic",
    "Verifier",
    "check_spec",
    "extract_code",
    "feedback",
    "load_verifier",
    "verify_all",
]
