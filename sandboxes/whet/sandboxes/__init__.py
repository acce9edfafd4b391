"""Isolated execution of untrusted commands and Python; nothing gets out.

from whet.sandboxes import open_sandbox

async with await open_sandbox() as box:
    result = await box.run_python("print(6 * 7)")
assert result.stdout == "42\\n"
"""

from whet.sandboxes.doctor import BackendReport, doctor
from whet.sandboxes.fake import FakeSandbox
from whet.sandboxes.ladder import open_sandbox
from whet.sandboxes.pool import SandboxPool
from whet.sandboxes.sandbox import Limits, Sandbox, SandboxBackend, SandboxSpec, Snapshot, Tier

__all__ = [
    "BackendReport",
    "FakeSandbox",
    "Limits",
    "Sandbox",
    "SandboxBackend",
    "SandboxPool",
    "SandboxSpec",
    "Snapshot",
    "Tier",
    "doctor",
    "open_sandbox",
]
