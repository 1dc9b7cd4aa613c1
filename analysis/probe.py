"""Linear probes: how much of something is in an embedding, for a straight line to read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


class LinearProbe:
    """The least-squares map from embeddings [n, D] to what is asked for [n, A], with an intercept."""

    def __init__(self, z: npt.ArrayLike, asked: npt.ArrayLike) -> None:
        """Fits it. Raises ValueError for other than two-dimensional arrays of as many rows."""
        z, asked = np.asarray(z, dtype=np.float64), np.asarray(asked, dtype=np.float64)
        if z.ndim != 2 or asked.ndim != 2 or len(z) != len(asked) or not len(z):
            raise ValueError(f"a probe is fitted to [n, D] and [n, A]: got {z.shape} and {asked.shape}")
        self._weight = np.linalg.lstsq(_with_one(z), asked, rcond=None)[0]

    def read(self, z: npt.ArrayLike) -> FloatArray:
        """Reads embeddings [n, D]: [n, A]."""
        read: FloatArray = _with_one(np.asarray(z, dtype=np.float64)) @ self._weight
        return read


def explained_share(asked: npt.ArrayLike, read: npt.ArrayLike) -> float:
    """R^2 = 1 - sum |a - a_hat|^2 / sum |a - mean a|^2 over rows of [n, A]: 1 at best, 0 for the mean.

    Raises ValueError for arrays of different shapes, or if what is asked for doesn't vary.
    """
    asked, read = np.asarray(asked, dtype=np.float64), np.asarray(read, dtype=np.float64)
    if asked.shape != read.shape:
        raise ValueError(f"what was asked is {asked.shape} and what was read {read.shape}")
    spread = float(np.square(asked - asked.mean(axis=0)).sum())
    if spread == 0:
        raise ValueError("what is asked for doesn't vary: there is nothing to explain")
    return 1.0 - float(np.square(asked - read).sum()) / spread


def _with_one(z: FloatArray) -> FloatArray:
    return np.concatenate((z, np.ones((len(z), 1))), axis=1)
