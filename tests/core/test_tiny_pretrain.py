"""The training of the embedded model: it starts with recall in place, repeats exactly, and resumes exactly."""

import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from whet.core.models.tiny.episodes import Dial, draw_episode  # noqa: E402
from whet.core.models.tiny.llama import load_llama  # noqa: E402
from whet.core.models.tiny.tokenizer import ChatTokenizer  # noqa: E402
from whet.core.models.tiny.vocabulary import BODIES  # noqa: E402
from whet.learners.weights.pretrain import PretrainConfig, pretrain  # noqa: E402

SHORT = PretrainConfig(steps=4, tokens=256, layers=2)


def test_untrained_weights_already_recall_definitions(tmp_path: Path) -> None:
    tokenizer = ChatTokenizer()
    llama = load_llama(pretrain(PretrainConfig(steps=0, layers=2), tmp_path))
    bodies = [tokenizer.encode(body)[0] for body in BODIES]
    hits = []
    for seed in range(40):
        episode = draw_episode(random.Random(seed), "definitions", Dial(chain=(1, 1), distractors=(8, 8)))
        name, body = tokenizer.encode(episode.answer)[1:3]
        logits = llama.all_logits([*tokenizer.prompt(episode.turns), tokenizer.encode("def ")[0], name])[-1]
        hits.append(max(bodies, key=lambda token: float(logits[token])) == body)
    assert sum(hits) >= 36


def test_a_run_repeats_and_resumes_exactly(tmp_path: Path) -> None:
    whole = pretrain(SHORT, tmp_path / "whole")
    again = pretrain(SHORT, tmp_path / "again")
    assert (whole / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    (tmp_path / "whole" / "weights" / "model.safetensors").unlink()
    resumed = pretrain(SHORT, tmp_path / "whole", resume=True)
    assert (resumed / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()


def test_a_resumed_run_must_agree(tmp_path: Path) -> None:
    pretrain(SHORT, tmp_path)
    with pytest.raises(ValueError, match=r"cannot resume .*: seed differ"):
        pretrain(PretrainConfig(steps=4, tokens=256, layers=2, seed=1), tmp_path, resume=True)
