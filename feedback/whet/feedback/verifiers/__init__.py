"""Verifiers by name, each a module of its own, loaded when it is first asked for.

from whet.core import VerifierSpec
from whet.feedback.verifiers import load_verifier

verifier = load_verifier(VerifierSpec(kind="exact", params={"expected": "42"}))
"""

from whet.feedback.verifiers.registry import KINDS, check_spec, load_verifier, verify_all

__all__ = ["KINDS", "check_spec", "load_verifier", "verify_all"]
