"""Importing the core is light: no model library, and fast."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "litellm",
    "chromadb",
    "ray",
    "transformers",
    "openai",
    "langgraph",
    "langchain_core",
    "numpy",
    "httpx",
}


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("module", ["whet.core", "whet.core.models", "whet.core.models.testing"])
def test_the_core_imports_no_heavy_library(module: str) -> None:
    loaded = json.loads(run_python(f"import {module}, sys, json; print(json.dumps(sorted(sys.modules)))"))
    assert module in loaded
    assert HEAVY.isdisjoint(loaded)


def test_the_settings_load_pydantic_but_no_model_library() -> None:
    loaded = json.loads(run_python("import whet.core.config, sys, json; print(json.dumps(sorted(sys.modules)))"))
    assert "pydantic_settings" in loaded
    assert HEAVY.isdisjoint(loaded)


def test_every_public_name_of_the_core_is_listed() -> None:
    import whet.core

    public = {name for name, value in vars(whet.core).items() if not name.startswith("_") and not _is_module(value)}
    assert public == set(whet.core.__all__)


def _is_module(value: object) -> bool:
    return isinstance(value, type(sys))
