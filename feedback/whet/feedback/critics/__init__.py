"""Critics: one that needs no model, one that asks one, and a panel of them with a meta-critic.

from whet.feedback.critics import CheckCritic

critiques = await CheckCritic().critique(task, run, verdicts)
critiques[0].text       # "solve([2, 1]) returned [2, 1], expected [1, 2]."
"""

from whet.feedback.critics.check import CheckCritic
from whet.feedback.critics.model import ModelCritic
from whet.feedback.critics.panel import PanelCritic

__all__ = ["CheckCritic", "ModelCritic", "PanelCritic"]
