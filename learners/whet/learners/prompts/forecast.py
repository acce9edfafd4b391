"""A forecast of scores: what a text is likely to score, from the texts that were scored before.

    forecast = Forecast.of(texts, scores)
    forecast.at(["another text"])           # array([0.43])
    forecast.error                          # 0.12: how wrong it is about a text it has not seen

Ridge regression on hashed n-grams; nothing is downloaded. It knows words, not meaning.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from whet.memory.embedders import HashedNgrams, Vectors

__all__ = ["Forecast"]

_EMBEDDER = HashedNgrams()


@dataclass(frozen=True)
class Forecast:
    """A fitted regression: ``mean`` of the scores, a weight for each text (``weights_n``), and its ``error``."""

    vectors_nd: Vectors
    weights_n: NDArray[np.float64]
    mean: float
    error: float

    @classmethod
    def of(cls, texts: Sequence[str], scores: Sequence[float], *, ridge: float = 0.1) -> Self:
        """Returns the regression of scores on texts, in its dual form: w = (K + λI)⁻¹ (y − ȳ), K the cosines.

        ``error`` is the root mean square over texts of what the regression without that text gets wrong,
        w_i / [(K + λI)⁻¹]_ii.
        """
        vectors = _EMBEDDER.vectors(texts)
        inverse = np.linalg.inv(vectors @ vectors.T + ridge * np.eye(len(texts)))
        mean = float(np.mean(scores))
        weights = inverse @ (np.asarray(scores, dtype=np.float64) - mean)
        error = float(np.sqrt(np.mean((weights / np.diag(inverse)) ** 2)))
        return cls(vectors, weights, mean, error)

    def at(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Returns the expected score of each text."""
        return np.asarray(self.mean + _EMBEDDER.vectors(texts) @ self.vectors_nd.T @ self.weights_n)
