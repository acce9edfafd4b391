"""Embedders: text to unit vectors. The default works offline and is lexical, and its name says so.

    embedder = HashedNgrams()
    vectors = await embedder.embed(["sort a list", "sorting lists"])    # (2, 256), float32, unit length
    float(vectors[0] @ vectors[1])                                      # about 0.8: they share their stems

``HashedNgrams`` knows spelling, not meaning: "car" and "automobile" are strangers to it. ``RemoteEmbedder`` asks a
learned model for meaning. Vectors of two embedders are never mixed in one index.
"""

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from whet.core import ModelError, UserError

if TYPE_CHECKING:
    from litellm import EmbeddingResponse

__all__ = ["Embedder", "HashedNgrams", "RemoteEmbedder", "Vectors", "words"]

Vectors: TypeAlias = NDArray[np.float32]

_WORD = re.compile(r"[^\W_]+")
_SUFFIX = re.compile(r"(?<=[a-z]{3})(?:ings?|ed|es|s|e|ly)$")
# Words that carry little of what a text is about; they weigh a tenth. Kept short: rare words decide.
_COMMON_TEXT = """
a an the and or of to in on for with from by at as is are be was it its this that these those which will would can
could should not no do does you your i we they their there then than if when what how each all any given using use
write python function example return returns code def
"""


def words(text: str) -> list[str]:
    """Returns the words of a text in lower case, split at punctuation and underscores."""
    return _WORD.findall(text.lower())


_COMMON = frozenset(words(_COMMON_TEXT))


def is_common(word: str) -> bool:
    """Returns whether the word says little about what a text is about."""
    return word in _COMMON or (len(word) == 1 and not word.isdigit())


@runtime_checkable
class Embedder(Protocol):
    """Anything that turns texts into unit vectors of one space, named by ``name``."""

    @property
    def name(self) -> str:
        """Names the vector space: texts embedded under equal names may be compared."""
        ...

    @property
    def dims(self) -> int:
        """The length of a vector."""
        ...

    @property
    def floor(self) -> float:
        """The cosine below which two texts count as unrelated; such a hit is no hit."""
        ...

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Returns one unit vector per text, (texts, dims), float32; a zero vector for a text without words.

        Raises:
            ModelError: the model behind the embedder could not be reached or answered what cannot be used.
        """
        ...


@lru_cache(maxsize=200_000)
def _features(word: str, dims: int) -> tuple[tuple[int, float], ...]:
    """Returns (signed bucket, weight) of a word and its character n-grams; bucket -i-1 stands for -1 at i."""
    weight = 0.1 if is_common(word) else 1.0
    stem = _SUFFIX.sub("", word) if len(word) > 4 else word
    padded = f"<{word}>"
    grams = {padded[i : i + n] for n in (3, 4, 5) for i in range(len(padded) - n + 1)} - {padded}
    share = weight * 0.8 / max(len(grams), 1) ** 0.5
    return ((_bucket(f"<{stem}>", dims), weight), *((_bucket(gram, dims), share) for gram in sorted(grams)))


def _bucket(gram: str, dims: int) -> int:
    code = zlib.crc32(gram.encode())
    index = (code >> 1) % dims
    return index if code & 1 else -index - 1


class HashedNgrams:
    """Feature hashing of words, word pairs and character 3- to 5-grams (Weinberger et al. 2009), signed, unit length.

    Deterministic, offline, about a tenth of a millisecond a short text. Lexical: it finds other forms and misspellings
    of the same words and nothing about meaning.
    """

    def __init__(self, dims: int = 256) -> None:
        if dims < 32:
            raise UserError(f"dims={dims!r} is too few for hashed n-grams; give 32 or more")
        self._dims = dims

    @property
    def name(self) -> str:
        """``hashed-ngrams-DIMS``; the number after the dash would change with the features."""
        return f"hashed-ngrams-{self._dims}"

    @property
    def dims(self) -> int:
        """The number of buckets."""
        return self._dims

    @property
    def floor(self) -> float:
        """Three standard deviations of the cosine of unrelated texts, 3 / sqrt(dims)."""
        return float(3 / self._dims**0.5)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Returns (texts, dims); see ``Embedder``. Raises nothing."""
        return self.vectors(texts)

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Returns what ``embed`` does, for code that is not asynchronous."""
        out = np.zeros((len(texts), self._dims), dtype=np.float32)
        for row, text in zip(out, texts, strict=True):
            self._fill(row, text)
        return out

    def _fill(self, row: Vectors, text: str) -> None:
        counts: dict[str, int] = {}
        found = words(text)
        for word in found:
            counts[word] = counts.get(word, 0) + 1
        for word, count in counts.items():
            damped = 1 + np.log(count) if count > 1 else 1.0
            for bucket, weight in _features(word, self._dims):
                row[bucket if bucket >= 0 else -bucket - 1] += damped * (weight if bucket >= 0 else -weight)
        content = [word for word in found if not is_common(word)]
        for pair in {f"{a} {b}" for a, b in pairwise(content)}:
            bucket = _bucket(pair, self._dims)
            row[bucket if bucket >= 0 else -bucket - 1] += 0.5 if bucket >= 0 else -0.5
        norm = float(np.sqrt(row @ row))
        if norm > 0:
            row /= norm


class RemoteEmbedder:
    """A learned embedding model through LiteLLM: any provider it knows, or an OpenAI-compatible server by ``base_url``.

    RemoteEmbedder("openai/text-embedding-3-small", dims=1536)
    RemoteEmbedder("openai/bge-small", dims=384, base_url="http://localhost:8000/v1", api_key="none")
    """

    def __init__(
        self,
        model: str,
        *,
        dims: int,
        base_url: str | None = None,
        api_key: str | None = None,
        floor: float = 0.2,
        batch: int = 128,
    ) -> None:
        self._model, self._dims, self._floor, self._batch = model, dims, floor, batch
        self._base_url, self._api_key = base_url, api_key

    @property
    def name(self) -> str:
        """The model's name and the vector length."""
        return f"{self._model}-{self._dims}"

    @property
    def dims(self) -> int:
        """The vector length the model was said to have; an answer of another length is refused."""
        return self._dims

    @property
    def floor(self) -> float:
        """As given; it depends on the model."""
        return self._floor

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Returns (texts, dims); see ``Embedder``."""
        parts = [await self._ask(texts[start : start + self._batch]) for start in range(0, len(texts), self._batch)]
        return np.concatenate(parts) if parts else np.zeros((0, self._dims), dtype=np.float32)

    async def _ask(self, texts: Sequence[str]) -> Vectors:
        import litellm
        from openai import OpenAIError

        try:  # a provider refuses empty texts
            answer: EmbeddingResponse = await litellm.aembedding(
                model=self._model,
                input=[text or " " for text in texts],
                api_base=self._base_url,
                api_key=self._api_key,
            )
        except OpenAIError as error:  # the base of all of LiteLLM's errors
            raise ModelError(f"the embedder {self.name!r} did not answer: {error}", failure="unavailable") from error
        found = np.asarray([item["embedding"] for item in answer.data or []], dtype=np.float32)
        if found.shape != (len(texts), self._dims):
            raise ModelError(
                f"the embedder {self.name!r} answered an array of shape {found.shape}, expected "
                f"{(len(texts), self._dims)}; pass the model's real dims",
                failure="malformed",
            )
        norms = np.linalg.norm(found, axis=1, keepdims=True)
        return (found / np.where(norms > 0, norms, 1)).astype(np.float32)
