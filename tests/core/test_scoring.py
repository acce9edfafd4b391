"""Models with weights at hand say how likely a given text is, the same as when they write it themselves."""

import pytest

from whet.core import Budget, BudgetError, Message, ModelError, Sampling, UserError
from whet.core.models import Budgeted, Limited, Recording, Scoring, ScriptedModel, Tape, need_scoring
from whet.core.models.hf import HFModel
from whet.core.models.tiny.model import WEIGHTS, TinyModel

ASKED = [Message(role="user", content="Write solve(x): zorp.")]


@pytest.mark.asyncio
async def test_a_text_is_as_likely_as_when_the_model_writes_it() -> None:
    model = TinyModel()
    written = await model.complete(ASKED, sampling=Sampling(temperature=0.0))
    assert written.finish_reason == "stop"
    assert written.logprobs is not None
    found = await model.logprobs(ASKED, written.text)
    assert found == pytest.approx(written.logprobs, abs=1e-4)
    other = await model.logprobs(ASKED, "Thank you, that works.")
    assert sum(other) < sum(found)


@pytest.mark.asyncio
async def test_transformers_and_numpy_agree() -> None:
    mine, theirs = TinyModel(), HFModel(WEIGHTS)
    assert isinstance(theirs, Scoring)
    text = "def solve(x):\n    return x[::-1]\n"
    assert await theirs.logprobs(ASKED, text) == pytest.approx(await mine.logprobs(ASKED, text), abs=1e-3)


@pytest.mark.asyncio
async def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match="reads at most"):
        await TinyModel().logprobs(ASKED, "x y " * 4000)


@pytest.mark.asyncio
async def test_wrappers_pass_it_on_under_their_own_rules() -> None:
    budget = Budget(calls=1)
    model = need_scoring(Budgeted(Limited(TinyModel(), 2), budget))
    found = await model.logprobs(ASKED, "pass")
    assert found == await TinyModel().logprobs(ASKED, "pass")
    assert (budget.spent.calls, budget.spent.tokens > len(found)) == (1, True)
    with pytest.raises(BudgetError):
        await model.logprobs(ASKED, "pass")
    for cannot in (ScriptedModel([]), Limited(ScriptedModel([]), 1)):
        with pytest.raises(UserError, match="does not tell how likely"):
            need_scoring(cannot)
    with pytest.raises(UserError, match="keeps no logprobs"):
        await Recording(TinyModel(), Tape()).logprobs(ASKED, "pass")
