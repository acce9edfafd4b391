"""Models by name.

load_model("tiny")                                            # shipped with Whet: real weights, CPU
load_model("hf:./model", adapter="./lora")                    # transformers in this process
load_model("openai:llama", base_url="http://host:8000/v1")    # any OpenAI-compatible server
load_model("vllm:./model", command="/opt/vllm")               # a vLLM server of its own, with LoRA adapters
load_model("litellm:anthropic/claude-haiku-4-5")              # any provider; so is any other bare name
load_model("recorded:calls.jsonl")                            # replay
load_model("my_package.models:MyModel", size=3)               # your own
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from whet.core.errors import UserError
from whet.core.loading import call_factory, is_dotted_path, load_object, nearest
from whet.core.models.model import Model

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

__all__ = ["MODELS", "as_model", "load_model"]

MODELS = {
    "hf": "whet.core.models.hf:HFModel",
    "litellm": "whet.core.models.litellm:LiteLLMModel",
    "openai": "whet.core.models.openai:OpenAIModel",
    "recorded": "whet.core.models.recorded:load_recorded",
    "tiny": "whet.core.models.tiny.model:TinyModel",
    "vllm": "whet.core.models.vllm:load_vllm",
}
"""Short name to the dotted path of what makes the model. All but ``tiny`` take an argument after a colon."""


def load_model(name: str, /, **options: object) -> Model:
    """Returns the model of that name; ``options`` go to what makes it.

    A name of the form ``short:argument`` or ``package.module:Name`` is looked up; any other goes to LiteLLM.

    Raises:
        UserError: there is no such model or option, or a package is missing; the message has the install line.
    """
    short, colon, argument = name.partition(":")
    what = f"model {name!r}"
    if name == "tiny":
        path, arguments = MODELS["tiny"], []
    elif short in MODELS and short != "tiny":
        if not argument:
            raise UserError(f"{what} does not say which one; write {short}:NAME")
        path, arguments = MODELS[short], [argument]
    elif colon and is_dotted_path(name):
        _refuse_unknown_short(short, what)
        path, arguments = name, []
    else:
        path, arguments = MODELS["litellm"], [name]
    factory = load_object(path, what=what)
    if not callable(factory):
        raise UserError(f"{what} is {factory!r}, which makes no model; name a class or a function")
    return _checked(factory, arguments, options, what)


def _refuse_unknown_short(short: str, what: str) -> None:
    if "." not in short and (hint := nearest(short, MODELS)):
        raise UserError(f"{what} is not known{hint}; models are {', '.join(MODELS)}, package.module:Name and LiteLLM's")


def _checked(factory: Callable[..., object], arguments: list[str], options: dict[str, object], what: str) -> Model:
    model = call_factory(factory, *arguments, options=options, what=what)
    if not isinstance(model, Model):
        raise UserError(f"{what} made {model!r}, which is no Model: it needs a name and an async complete()")
    return model


def as_model(model: "Model | BaseChatModel | str") -> Model:
    """Returns a model as it is, a name's model, or any LangChain chat model as a model.

    Raises:
        UserError: it is none of these, or there is no such model.
    """
    if isinstance(model, str):
        return load_model(model)
    if isinstance(model, Model):
        return model
    # Who holds a chat model has imported its package; nobody else pays for that.
    if "langchain_core.language_models" in sys.modules:
        from langchain_core.language_models import BaseChatModel

        from whet.core.models.langchain import LangChainModel

        if isinstance(model, BaseChatModel):
            return LangChainModel(model)
    raise UserError(f"{model!r} is no model; give a name, a Model, or a LangChain chat model")
