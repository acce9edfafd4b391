"""Adapters as one file: equal ones give equal bytes, what comes out is what went in, what does not fit is refused."""

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from whet.core.adapters import (
    AdapterCard,
    adapter_version,
    base_digest,
    check_fit,
    describe,
    pack,
    read_card,
    unpack,
)
from whet.core.errors import UserError
from whet.core.ids import digest
from whet.core.models.testing import random_adapter
from whet.core.models.tiny.llama import load_llama
from whet.core.models.tiny.model import WEIGHTS
from whet.core.records import Usage

CARD = AdapterCard(
    method="rft",
    base="tiny",
    base_digest=base_digest(WEIGHTS),
    sources=("run-1", "verdict-1"),
    data_digest=digest("data"),
    rows=7,
    tokens=120,
    usage=Usage(calls=3, micro_dollars=20),
    seconds=1.5,
    config={"lr": 0.001},
)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_adapter(WEIGHTS, tmp_path_factory.mktemp("lora"), rank=3)


@pytest.fixture(scope="module")
def packed(adapter: Path) -> bytes:
    return pack(adapter, CARD)


def _edit(folder: Path, **changes: object) -> Path:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    return folder


def _other(tmp_path: Path, **shape: int) -> Path:
    """Returns the folder of another base model, of other sizes."""
    shutil.copytree(WEIGHTS, tmp_path / "other")
    config = json.loads((WEIGHTS / "config.json").read_text()) | shape
    (tmp_path / "other/config.json").write_text(json.dumps(config))
    weights = load_file(WEIGHTS / "model.safetensors")
    if "num_hidden_layers" in shape:
        weights = {n: w for n, w in weights.items() if f"layers.{shape['num_hidden_layers']}." not in n}
    if "intermediate_size" in shape:
        weights = {n: np.resize(w, [2 * s if s == 256 else s for s in w.shape]) for n, w in weights.items()}
    save_file(weights, tmp_path / "other/model.safetensors")
    return tmp_path / "other"


# --- there and back -------------------------------------------------------------------------------------------------


def test_it_says_what_is_in_it(packed: bytes) -> None:
    info = describe(packed)
    assert (info.digest, info.rank, info.alpha, info.bytes) == (digest(packed), 3, 6.0, len(packed))
    assert info.targets == ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    assert info.parameters == 4 * 3 * (4 * 2 * 128 + 3 * (128 + 256))
    assert (info.base, info.card) == ("tiny", CARD)


def test_it_unpacks_to_the_same_adapter(adapter: Path, packed: bytes, tmp_path: Path) -> None:
    folder = unpack(packed, tmp_path / "cache" / digest(packed))
    names = {path.name for path in folder.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "card.json"}
    ours, theirs = load_file(folder / "adapter_model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    ids = list(range(10, 40))
    assert np.array_equal(load_llama(WEIGHTS, folder).all_logits(ids), load_llama(WEIGHTS, adapter).all_logits(ids))
    assert read_card(folder) == CARD
    assert adapter_version(folder) == digest(packed)
    assert pack(folder, CARD) == packed


def test_peft_loads_what_it_unpacks_to(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    adapted = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(WEIGHTS), config)
    adapted.save_pretrained(tmp_path / "saved")
    folder = unpack(pack(tmp_path / "saved", CARD), tmp_path / "unpacked")
    base = transformers.AutoModelForCausalLM.from_pretrained(WEIGHTS)
    again = peft.PeftModel.from_pretrained(base, str(folder)).eval()
    ids = torch.arange(10, 40)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, adapted.eval()(ids).logits)


def test_equal_adapters_give_equal_bytes(adapter: Path, packed: bytes, tmp_path: Path) -> None:
    copy = _edit(Path(shutil.copytree(adapter, tmp_path / "copy")), base_model_name_or_path="/home/ada/tiny")
    targets = json.loads((copy / "adapter_config.json").read_text())["target_modules"]
    _edit(copy, target_modules=targets[::-1])
    weights = load_file(copy / "adapter_model.safetensors")
    save_file(dict(reversed(weights.items())), copy / "adapter_model.safetensors", {"b": "2", "a": "1"})
    assert pack(copy, CARD) == packed
    assert pack(copy, AdapterCard(method="dpo")) != packed
    assert b"/home/ada" not in pack(copy, CARD)


def test_a_scalar_head_travels_with_it(adapter: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "with-head"))
    save_file({"weight": np.ones((1, 128), np.float32)}, folder / "head.safetensors")
    out = unpack(pack(folder, CARD), tmp_path / "out")
    assert (out / "head.safetensors").read_bytes() == (folder / "head.safetensors").read_bytes()


# --- whole or not at all --------------------------------------------------------------------------------------------


def test_what_is_there_is_left_and_what_is_torn_is_replaced(packed: bytes, tmp_path: Path) -> None:
    folder = unpack(packed, tmp_path / "a")
    inode = (folder / "adapter_model.safetensors").stat().st_ino
    unpack(packed, folder)
    assert (folder / "adapter_model.safetensors").stat().st_ino == inode
    (folder / "card.json").unlink()
    (folder / "adapter_model.safetensors").write_bytes(packed[:-1])
    unpack(packed, folder)
    assert adapter_version(folder) == digest(packed)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_many_may_unpack_it_at_once(packed: bytes, tmp_path: Path) -> None:
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(unpack(packed, tmp_path / "a"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [tmp_path / "a"] * 8
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert adapter_version(tmp_path / "a") == digest(packed)


def _describe(data: bytes) -> str:
    try:
        return describe(data).digest
    except UserError as error:
        return str(error)


@given(st.data())
def test_a_damaged_file_is_refused_on_one_line_or_is_another_one(packed: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(packed) - 1))
    end = data.draw(st.integers(at, len(packed)))
    damaged = packed[:at] + data.draw(st.binary(max_size=16)) + packed[end:]
    said = _describe(damaged)
    # What passes has other numbers, or other words on its card.
    assert said == digest(damaged) or "\n" not in said


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is damaged, or is no adapter"),
        (b"not a file of tensors", "is damaged, or is no adapter"),
        ((2).to_bytes(8, "little") + b"{}", "no packed adapter"),
    ],
)
def test_what_is_no_adapter_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        describe(data)
    with pytest.raises(UserError, match=message):
        unpack(data, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"bias": "all"}, "bias 'all'"),
        ({"r": 5}, "not of rank 5"),
        ({"r": "many"}, "adapter_config.json: not a valid LoraConfig"),
    ],
)
def test_what_not_every_back_end_can_serve_is_refused(
    adapter: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = _edit(Path(shutil.copytree(adapter, tmp_path / "copy")), **changes)
    with pytest.raises(UserError, match=message):
        pack(folder, CARD)


def test_a_folder_without_an_adapter_is_refused(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no adapter: adapter_config\.json"):
        pack(tmp_path, CARD)
    shutil.copy(adapter / "adapter_config.json", tmp_path)
    with pytest.raises(UserError, match=r"no adapter: adapter_model\.safetensors"):
        pack(tmp_path, CARD)
    save_file({"model.embed_tokens.weight": np.ones((2, 2), np.float32)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match="no plain LoRA"):
        pack(tmp_path, CARD)


# --- which base -----------------------------------------------------------------------------------------------------


def test_an_adapter_of_another_base_is_refused_by_name(packed: bytes, tmp_path: Path) -> None:
    folder = unpack(packed, tmp_path / "a")
    check_fit(folder, WEIGHTS)
    other = _other(tmp_path, vocab_size=991, eos_token_id=2)
    with pytest.raises(UserError, match=r"was trained on 'tiny' .* and this model is 'other'"):
        check_fit(folder, other)


def test_without_a_card_the_shapes_decide(adapter: Path, tmp_path: Path) -> None:
    check_fit(adapter, WEIGHTS)
    with pytest.raises(UserError, match=r"changes 'model\.layers\.3\..*', which 'other' does not have"):
        check_fit(adapter, _other(tmp_path, num_hidden_layers=3))
    wide = _other(tmp_path / "wide", intermediate_size=512)
    with pytest.raises(UserError, match=r"fits a 'model\.layers\.0\.mlp\.down_proj' of \(128, 256\).* \(128, 512\)"):
        check_fit(adapter, wide)


def test_the_digest_of_a_base_is_that_of_its_numbers(tmp_path: Path) -> None:
    same = Path(shutil.copytree(WEIGHTS, tmp_path / "same"))
    config = json.loads((same / "config.json").read_text()) | {"transformers_version": "9", "_name_or_path": "x"}
    (same / "config.json").write_text(json.dumps(config))
    assert base_digest(same) == base_digest(WEIGHTS)
    path = same / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    assert base_digest(same) != base_digest(WEIGHTS)
    with pytest.raises(UserError, match="no base model in"):
        base_digest(tmp_path)


def test_of_large_files_blocks_from_all_over_count(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((2).to_bytes(8, "little") + b"{}")
        os.truncate(file.fileno(), 256 * 2**20)  # a hole: it takes no room on the disk
    before = base_digest(tmp_path)
    with path.open("r+b") as file:  # a change of all numbers in a quarter of the file, as any training makes
        file.seek(64 * 2**20)
        file.write(b"\1" * (8 * 2**20))
    assert base_digest(tmp_path) != before
