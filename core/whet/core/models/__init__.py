"""One way to ask any model, and what may be put around it.

    model = Retrying(Limited(load_model("openai/gpt-4o-mini"), 8))
    completion = await model.complete([Message(role="user", content="Hello")])

A back end (transformers, LiteLLM, the OpenAI SDK, LangChain) is imported when it is first asked for.
"""

from whet.core.models.model import Adaptable, Model, Scoring
from whet.core.models.pricing import FREE, Estimate, Estimating, Price, estimate_call
from whet.core.models.recorded import Exchange, RecordedModel, Tape
from whet.core.models.registry import as_model, load_model
from whet.core.models.scripted import ScriptedModel, say_tool
from whet.core.models.wrappers import (
    Budgeted,
    Cached,
    Limited,
    Recording,
    Retrying,
    Wrapper,
    adaptable,
    need_adaptable,
    need_scoring,
)

__all__ = [
    "FREE",
    "Adaptable",
    "Budgeted",
    "Cached",
    "Estimate",
    "Estimating",
    "Exchange",
    "Limited",
    "Model",
    "Price",
    "RecordedModel",
    "Recording",
    "Retrying",
    "Scoring",
    "ScriptedModel",
    "Tape",
    "Wrapper",
    "adaptable",
    "as_model",
    "estimate_call",
    "load_model",
    "need_adaptable",
    "need_scoring",
    "say_tool",
]
