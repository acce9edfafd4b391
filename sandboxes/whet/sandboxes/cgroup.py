"""A control group per box, where we may make one: the kernel's own bound on memory and processes.

Version 1 and 2 are written directly. Where neither can be, the watchdog in the zygote stands alone.
"""

from whet.sandboxes.launch import Started
from whet.sandboxes.sandbox import Limits

__all__ = ["adopt_into_cgroup"]


def adopt_into_cgroup(started: Started, limits: Limits) -> None:
    """Puts a box into a control group of its own."""
