"""What judges and explains: verifiers, critics, feedback from outside, and how far each source is trusted.

    from whet.core import VerifierSpec
    from whet.feedback import CheckCritic, load_verifier

    verifier = load_verifier(VerifierSpec(kind="exact", params={"expected": "42"}))
    verdict = await verifier.verify(task, run)
    critiques = await CheckCritic().critique(task, run, [verdict])
"""

from whet.feedback.answers import extract_code
from whet.feedback.critic import Critic
from whet.feedback.verifier import FreshSandboxes, Verifier
from whet.feedback.verifiers.registry import load_verifier, verify_all

__all__ = [
    "Critic",
    "FreshSandboxes",
    "Verifier",
    "extract_code",
    "load_verifier",
    "verify_all",
]
