"""LoRA adapters as one file, as the blob store keeps them, and as the peft folder that trainers and back ends load.

    data = pack(folder, AdapterCard(method="rft", base="tiny", base_digest=base_digest(WEIGHTS)))
    describe(data).rank                                # and alpha, targets, parameters, card
    folder = unpack(data, cache / digest(data))        # adapter_config.json, adapter_model.safetensors, card.json
    check_fit(folder, WEIGHTS)                         # refuses an adapter of another base

The file is a valid ``adapter_model.safetensors`` whose metadata also holds the texts of ``adapter_config.json`` and of
the card. Equal adapters give equal bytes, so the digest names the adapter. Nothing here needs torch.
"""

import base64
import functools
import json
import os
import re
import shutil
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TypeAlias

import msgspec
from safetensors import SafetensorError, deserialize

from whet.core.errors import UserError
from whet.core.ids import digest, new_id
from whet.core.records import Json, Record, Usage
from whet.core.wire import decode, encode

__all__ = [
    "AdapterCard",
    "AdapterInfo",
    "adapter_rank",
    "adapter_version",
    "base_digest",
    "card_of",
    "check_fit",
    "describe",
    "is_unpacked",
    "pack",
    "read_card",
    "unpack",
]

CONFIG, WEIGHTS, CARD, HEAD = "adapter_config.json", "adapter_model.safetensors", "card.json", "head.safetensors"
PACKED = b'{"__metadata__":{"adapter_config.json":'
"""What a packed adapter begins with after its first 8 bytes."""
_FACTOR = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.\w+)?\.weight")
# What a back end may load without a word and not compute (vLLM ignores rank patterns and layers it does not have).
_NOT_PLAIN = (
    "alora_invocation_tokens",
    "alpha_pattern",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
)
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_SMALL, _BLOCK, _BLOCKS = 64 * 2**20, 4096, 1024

Shape: TypeAlias = tuple[int, ...]


class AdapterCard(Record, frozen=True, kw_only=True):
    """Where an adapter comes from, kept inside of it.

    ``base`` is how the base model is called and ``base_digest`` what ``base_digest()`` gives for its folder. ``parent``
    is the digest of the adapter that training went on from. ``sources`` are ids of the records it was trained on
    (runs, verdicts, critiques, feedback) and ``data_digest`` the SHA-256 of the training data; ``rows`` and ``tokens``
    count these (tokens: those that counted, over all steps). ``usage`` is what collecting the data cost, ``seconds``
    the wall time of the training, ``config`` its settings.
    """

    method: str = ""
    base: str = ""
    base_digest: str = ""
    parent: str = ""
    sources: tuple[str, ...] = ()
    data_digest: str = ""
    rows: int = 0
    tokens: int = 0
    steps: int = 0
    usage: Usage = Usage()
    seconds: float = 0.0
    config: dict[str, Json] = msgspec.field(default_factory=dict)


class AdapterInfo(Record, frozen=True, kw_only=True):
    """What an adapter is: its digest, its LoRA (``targets`` are module names), its size, and its card."""

    digest: str
    rank: int
    alpha: float
    targets: tuple[str, ...]
    parameters: int
    bytes: int
    card: AdapterCard = AdapterCard()

    @property
    def base(self) -> str:
        """How the base model is called."""
        return self.card.base


class _Tensor(Record, frozen=True, kw_only=True):
    dtype: str
    shape: Shape
    data: bytes


class LoraConfig(Record, frozen=True, kw_only=True):
    """The part of ``adapter_config.json`` that matters here."""

    peft_type: str
    r: int
    lora_alpha: float
    bias: str = "none"


# --- one file -------------------------------------------------------------------------------------------------------


def pack(folder: str | Path, card: AdapterCard) -> bytes:
    """Returns the portable form of a peft folder; the same adapter and card give the same bytes.

    A scalar head beside the adapter (``head.safetensors``) travels with it.

    Raises:
        UserError: the folder holds no adapter, or one that is more than plain LoRA.
    """
    folder = Path(folder)
    config, lora = _read_config(folder)
    tensors, _ = _open(_read(folder / WEIGHTS), str(folder))
    _check_factors(tensors, lora, str(folder))
    metadata = {"format": "pt", CONFIG: encode(_tidy(config, card)).decode(), CARD: encode(card).decode()}
    if (folder / HEAD).is_file():
        metadata[HEAD] = base64.b64encode((folder / HEAD).read_bytes()).decode()
    return _assemble(tensors, metadata)


def describe(data: bytes) -> AdapterInfo:
    """Returns what the portable form of an adapter holds.

    Raises:
        UserError: the bytes are damaged, or are no adapter.
    """
    what = f"{digest(data)[:12]} ({len(data):,} bytes)"
    tensors, metadata = _open(data, what)
    if CONFIG not in metadata or CARD not in metadata:
        raise UserError(f"{what} is no packed adapter: it has no {CONFIG} or no card; make it with whet.core.adapters")
    lora = _lora(metadata[CONFIG], what)
    modules = _check_factors(tensors, lora, what)
    return AdapterInfo(
        digest=digest(data),
        rank=lora.r,
        alpha=lora.lora_alpha,
        targets=tuple(sorted({module.rpartition(".")[2] for module in modules})),
        parameters=sum(prod(tensor.shape) for tensor in tensors.values()),
        bytes=len(data),
        card=_parse_card(metadata[CARD], what),
    )


def card_of(data: bytes) -> AdapterCard | None:
    """Returns the card of a packed adapter, ``None`` where the bytes are none; the weights are not looked at."""
    if not data[8:].startswith(PACKED):
        return None
    try:
        return decode(_metadata(data)[CARD], AdapterCard)
    except (UserError, KeyError):
        return None


def unpack(data: bytes, folder: str | Path) -> Path:
    """Writes an adapter as a peft folder and returns it: all of it or nothing, and only where it is not there yet.

    ``adapter_model.safetensors`` are the bytes as they are; ``adapter_config.json`` and ``card.json`` lie beside it.

    Raises:
        UserError: the bytes are damaged, or are no adapter.
    """
    folder, name = Path(folder), describe(data).digest
    if is_unpacked(folder, name):
        return folder
    metadata = _metadata(data)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.parent / f".{folder.name[:32]}.{new_id()}"
    new.mkdir()
    try:
        (new / CONFIG).write_text(metadata[CONFIG])
        (new / CARD).write_text(metadata[CARD])
        if HEAD in metadata:
            (new / HEAD).write_bytes(base64.b64decode(metadata[HEAD]))
        (new / WEIGHTS).write_bytes(data)
        _move(new, folder, name)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def is_unpacked(folder: Path, name: str) -> bool:
    """Returns whether a folder holds the whole adapter of the digest ``name``."""
    weights = folder / WEIGHTS
    return all((folder / part).is_file() for part in (CONFIG, CARD, WEIGHTS)) and _file_digest(weights) == name


def _move(new: Path, folder: Path, name: str) -> None:
    """Puts a whole folder in its place; somebody else may do the same at this moment, or have left a torn one."""
    for _ in range(2):
        try:
            new.rename(folder)
            return
        except OSError:
            if is_unpacked(folder, name):
                return
            if not folder.is_dir():
                raise
            shutil.rmtree(folder)
    raise UserError(f"{str(folder)!r} is being written by somebody else; try again, or name another folder")


def _tidy(config: Mapping[str, Json], card: AdapterCard) -> dict[str, Json]:
    """Returns the settings without what differs between two trainings of the same adapter."""
    targets = config.get("target_modules")
    tidy = {**config, "base_model_name_or_path": card.base or None}
    if isinstance(targets, list):
        tidy["target_modules"] = sorted(targets, key=str)  # peft writes a set, in any order
    return tidy


def _assemble(tensors: Mapping[str, _Tensor], metadata: Mapping[str, str]) -> bytes:
    """Returns a safetensors file: the widest types first, as the format aligns them, then by name."""
    header: dict[str, Json] = {"__metadata__": dict[str, Json](metadata)}
    order = sorted(tensors, key=lambda name: (-len(tensors[name].data) // max(1, prod(tensors[name].shape)), name))
    start = 0
    for name in order:
        tensor, end = tensors[name], start + len(tensors[name].data)
        header[name] = {"dtype": tensor.dtype, "shape": list[Json](tensor.shape), "data_offsets": [start, end]}
        start = end
    text = encode(header)
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(tensors[name].data for name in order)])


def _open(data: bytes, what: str) -> tuple[dict[str, _Tensor], dict[str, str]]:
    """Returns tensors and metadata of a safetensors file; the whole file is checked."""
    try:
        found = deserialize(data)  # type: ignore[no-untyped-call]  # a compiled function
        metadata = _metadata(data)
    except (SafetensorError, UserError) as error:
        raise UserError(
            f"{what} is damaged, or is no adapter: {error}; take it from where it was made again"
        ) from error
    tensors = {
        name: _Tensor(dtype=str(each["dtype"]), shape=tuple(each["shape"]), data=bytes(each["data"]))
        for name, each in found
    }
    return tensors, metadata


class _Header(Record, frozen=True, kw_only=True, rename={"metadata": "__metadata__"}):
    metadata: dict[str, str] = msgspec.field(default_factory=dict)


def _metadata(data: bytes) -> dict[str, str]:
    return decode(data[8 : 8 + int.from_bytes(data[:8], "little")], _Header).metadata


def _check_factors(tensors: Mapping[str, _Tensor], lora: LoraConfig, what: str) -> list[str]:
    """Returns the modules that are adapted."""
    pairs = _pairs({name: tensor.shape for name, tensor in tensors.items()}, what)
    if odd := [module for module, (a, b) in pairs.items() if (a[:1], b[1:]) != ((lora.r,), (lora.r,))]:
        raise UserError(f"{what} is damaged: the factors of {odd[0]!r} are not of rank {lora.r}, as its settings say")
    return list(pairs)


def _pairs(shapes: Mapping[str, Shape], what: str) -> dict[str, tuple[Shape, Shape]]:
    sides: dict[str, dict[str, Shape]] = {}
    for name, shape in shapes.items():
        match = _FACTOR.fullmatch(name)
        if match is None:
            raise UserError(f"{what} is no plain LoRA: it holds {name!r}; train it without DoRA and modules_to_save")
        sides.setdefault(match["module"], {})[match["side"]] = shape
    if odd := [module for module, pair in sides.items() if set(pair) != {"A", "B"}]:
        raise UserError(f"{what} is no LoRA: {odd[0]!r} lacks one of its two factors")
    if not sides:
        raise UserError(f"{what} is no LoRA: there are no factors in it")
    return {module: (pair["A"], pair["B"]) for module, pair in sides.items()}


# --- the folder -----------------------------------------------------------------------------------------------------


def read_card(folder: str | Path) -> AdapterCard | None:
    """Returns the card of an unpacked adapter, ``None`` where the folder has none (another program wrote it).

    Raises:
        UserError: the card cannot be read.
    """
    path = Path(folder) / CARD
    return _parse_card(path.read_text(), str(path)) if path.is_file() else None


def adapter_rank(folder: str | Path) -> int:
    """Returns the rank of the adapter in a folder.

    Raises:
        UserError: the folder holds no plain LoRA adapter.
    """
    return _read_config(Path(folder))[1].r


def adapter_version(folder: str | Path) -> str:
    """Returns what names exactly this adapter: the digest of the blob it was unpacked from, or of its two files.

    Raises:
        UserError: the folder holds no adapter.
    """
    folder = Path(folder)
    config = _read(folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"adapter {str(folder)!r} has no {WEIGHTS}")
    weights = _file_digest(folder / WEIGHTS)
    return weights if (folder / CARD).is_file() else digest(f"{digest(config)}{weights}")


def check_fit(adapter: str | Path, base: str | Path) -> None:
    """Says nothing where an adapter fits a base model, both as folders.

    Where its card names the base it was trained on, that must be this one. Otherwise every matrix it changes must be
    there, in its shape: no back end is trusted with that, since some answer nonsense without a word.

    Raises:
        UserError: it is of another base, or no plain LoRA adapter.
    """
    adapter, base = Path(adapter), Path(base)
    _read_config(adapter)
    card = read_card(adapter)
    if card is not None and card.base_digest:
        if card.base_digest != (here := base_digest(base)):
            raise UserError(
                f"adapter {str(adapter)!r} was trained on {card.base!r} ({card.base_digest[:12]}), and this model is "
                f"{base.name!r} ({here[:12]}); serve it on its own base, or train another one on this"
            )
        return
    _check_shapes(adapter, base)


def _check_shapes(adapter: Path, base: Path) -> None:
    known: dict[str, set[tuple[str, Shape]]] = {}
    for file in sorted(base.glob("*.safetensors")):
        for name, (dtype, shape) in _shapes(file).items():
            module, _, kind = name.rpartition(".")
            known.setdefault(_place(module), set()).add((dtype if kind == "weight" else "", shape))
    if not known:  # weights in another format cannot be looked into; the back end checks what it can
        return
    for module, (a, b) in _pairs({n: s for n, (_, s) in _shapes(adapter / WEIGHTS).items()}, str(adapter)).items():
        there = known.get(_place(module))
        if there is None:
            raise UserError(f"adapter {str(adapter)!r} changes {module!r}, which {base.name!r} does not have")
        full = {shape for dtype, shape in there if dtype in _FLOATS}
        wanted = (b[0], a[-1])
        if full and wanted not in full:
            raise UserError(f"adapter {str(adapter)!r} fits a {module!r} of {wanted}, {base.name!r} has {min(full)}")


def _place(module: str) -> str:
    """Returns a module's name from its layer on: what comes before differs between a checkpoint and a loaded model."""
    return module[at:] if (at := module.rfind("layers.")) >= 0 else module


def _shapes(path: Path) -> dict[str, tuple[str, Shape]]:
    """Returns dtype and shape of each tensor of a safetensors file, from its header."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return {n: (t["dtype"], tuple(t["shape"])) for n, t in header.items() if n != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        raise UserError(f"{str(path)!r} is no safetensors file: {error}") from error


def _read_config(folder: Path) -> tuple[dict[str, Json], LoraConfig]:
    text = _read(folder / CONFIG).decode(errors="replace")
    lora = _lora(text, str(folder))
    return decode(text, dict[str, Json]), lora


def _lora(text: str, what: str) -> LoraConfig:
    """Returns the LoRA of a config.

    Raises:
        UserError: it is not plain.
    """
    try:
        config, lora = decode(text, dict[str, Json]), decode(text, LoraConfig)
    except UserError as error:
        raise UserError(f"{what} is no adapter: {CONFIG}: {error}") from error
    extras = [key for key in _NOT_PLAIN if config.get(key)]
    if lora.peft_type != "LORA" or extras or lora.bias != "none":
        said = ", ".join(extras) or (f"bias {lora.bias!r}" if lora.bias != "none" else f"peft_type {lora.peft_type!r}")
        raise UserError(f"{what} is no plain LoRA ({said}), which not every back end can serve; train it without")
    return lora


def _parse_card(text: str, what: str) -> AdapterCard:
    try:
        return decode(text, AdapterCard)
    except UserError as error:
        raise UserError(f"{what} has a card that cannot be read: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{str(path.parent)!r} is no adapter: {path.name}: {error.strerror}") from error


# --- digests --------------------------------------------------------------------------------------------------------


def base_digest(folder: str | Path) -> str:
    """Returns what tells the weights in a transformers folder from others: a SHA-256 over its settings and weights.

    Files up to 64 MiB are read whole, of larger ones the header and 1,024 blocks of 4 KiB from all over: enough to tell
    any two trainings apart, not to notice that a single number was changed. Settings that a library writes about
    itself do not count.

    Raises:
        UserError: the folder holds no such model.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not (folder / "config.json").is_file() or not files:
        raise UserError(f"no base model in {str(folder)!r}; it must hold config.json and weights (*.safetensors)")
    return _base_digest(folder, tuple(_signature(path) for path in (folder / "config.json", *files)))


Signature: TypeAlias = tuple[str, int, int, int]


def _signature(path: Path) -> Signature:
    found = path.stat()
    return str(path), found.st_size, found.st_ino, found.st_mtime_ns


@functools.lru_cache(maxsize=64)
def _base_digest(folder: Path, files: tuple[Signature, ...]) -> str:
    config = decode((folder / "config.json").read_bytes(), dict[str, Json])
    told = {key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")}
    parts = [
        digest(encode(told)),
        *(f"{Path(path).name} {size} {_sampled(path, size)}" for path, size, *_ in files[1:]),
    ]
    return digest("\n".join(parts))


def _sampled(path: str, size: int) -> str:
    with open(path, "rb") as file:
        if size <= _SMALL:
            return digest(file.read())
        start = file.read(8)
        parts = [start, file.read(int.from_bytes(start, "little"))]
        parts += [os.pread(file.fileno(), _BLOCK, size * block // _BLOCKS) for block in range(_BLOCKS)]
        return digest(b"".join(parts))


def _file_digest(path: Path) -> str:
    return _digest_of(_signature(path))


@functools.lru_cache(maxsize=256)
def _digest_of(signature: Signature) -> str:
    return digest(Path(signature[0]).read_bytes())
