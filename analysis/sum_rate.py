"""Sum rate of users whose channels the base station only predicts, and the probe that predicts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

ComplexArray = npt.NDArray[np.complexfloating]
FloatArray = npt.NDArray[np.float64]

Precoder = Literal["zero-forcing", "matched"]


def sum_rate(
    channel: npt.ArrayLike, channel_hat: npt.ArrayLike, snr_db: float, precoder: Precoder = "zero-forcing"
) -> FloatArray:
    """Downlink sum rate in bit/s/Hz with true channels h_k and precoders made from predicted ones: [...].

    R = sum_k log2(1 + p |h_k^T w_k|^2 / (1 + p sum_(j != k) |h_k^T w_j|^2)), p = 10^(snr_db / 10) / K: equal
    power, noise of power 1. The unit vectors w_k point along the columns of H_hat^H (H_hat H_hat^H)^-1
    (zero-forcing; of pseudo-inverse where predictions coincide) or along conj(h_hat_k) (matched).
    channel, channel_hat: complex [..., K, M], K users and M antennas, the same [...]: times, subcarriers.
    snr_db is the total transmit power over the noise; with channels scaled to mean |h|^2 = 1 it is the mean
    SNR at one antenna. Neither phase nor power of a prediction matters, only its direction; a prediction of
    0 is not served, and its power is lost. With true channels it is the precoder's upper bound, with the
    channels of the last report the lower bound that a prediction has to beat.
    Raises ValueError for wrong shapes, or zero-forcing for more users than antennas.
    Source: Bjornson, Hoydis and Sanguinetti, Massive MIMO networks, 2017, section 4.3; for K = 1 it is
    log2(1 + snr |h^H h_hat|^2 / |h_hat|^2), as Stephan, Euchner and ten Brink measure channel prediction
    (Channel charting-based channel prediction on real-world distributed massive MIMO CSI, WCNC 2025).
    """
    truth, guess = (np.asarray(each, dtype=np.complex128) for each in (channel, channel_hat))
    if truth.shape != guess.shape or truth.ndim < 2:
        raise ValueError(f"channels have shapes {truth.shape} and {guess.shape}: both have to be [..., K, M]")
    num_users, num_antennas = truth.shape[-2:]
    if precoder == "zero-forcing":
        if num_users > num_antennas:
            raise ValueError(
                f"{num_users} users can't be kept apart by {num_antennas} antennas: take the matched precoder"
            )
        beams = np.swapaxes(np.linalg.pinv(_unit(guess)), -1, -2)
    elif precoder == "matched":
        beams = guess.conj()
    else:
        raise ValueError(f"precoder {precoder!r} is unknown: take zero-forcing or matched")
    power = 10 ** (snr_db / 10) / num_users
    received = power * np.abs(truth @ np.swapaxes(_unit(beams), -1, -2)) ** 2
    signal = np.diagonal(received, axis1=-2, axis2=-1)
    interference = received.sum(axis=-1) - signal
    return np.asarray(np.log2(1 + signal / (1 + interference)).sum(axis=-1), dtype=np.float64)


def principal_channel(covariance: npt.ArrayLike) -> ComplexArray:
    """The channel that explains most of a covariance: [..., M, M] to [..., M], sqrt(l_1) v_1.

    Its phase is arbitrary. Only the Hermitian part counts; 0 where no eigenvalue is positive.
    """
    matrix = np.asarray(covariance)
    values, vectors = np.linalg.eigh((matrix + np.swapaxes(matrix, -1, -2).conj()) / 2)
    return np.asarray(vectors[..., -1] * np.sqrt(np.maximum(values[..., -1:], 0)))


@dataclass(frozen=True)
class LinearProbe:
    """An affine map from embeddings to channels or covariances: y = z W + b.

    weight: complex128 [D, F], offset: complex128 [F], shape: that of one target, F = its numbers.
    """

    weight: ComplexArray
    offset: ComplexArray
    shape: tuple[int, ...]

    @classmethod
    def fit(cls, embedding: npt.ArrayLike, target: npt.ArrayLike, ridge: float = 1e-3) -> LinearProbe:
        """Fits embeddings [n, D] to targets [n, ...], complex, by least squares with a ridge.

        min |Y - Z W - b|^2 + ridge n |S W|^2, S the embedding's deviations, so that the ridge doesn't depend
        on units. Raises ValueError for wrong shapes.
        """
        z, y = np.asarray(embedding, dtype=np.float64), np.asarray(target)
        if z.ndim != 2 or y.ndim < 2 or len(z) != len(y) or not len(z):
            raise ValueError(f"embeddings {z.shape} and targets {y.shape} have to be [n, D] and [n, ...]")
        flat = y.reshape(len(y), -1).astype(np.complex128)
        z_mean, y_mean = z.mean(0), flat.mean(0)
        z, flat = z - z_mean, flat - y_mean
        scale = z.std(0)
        scale[scale == 0] = 1
        z = z / scale
        gram = z.T @ z + ridge * len(z) * np.eye(z.shape[1])
        weight = np.linalg.solve(gram.astype(np.complex128), z.T @ flat) / scale[:, None]
        return cls(weight, y_mean - z_mean @ weight, y.shape[1:])

    def predict(self, embedding: npt.ArrayLike) -> ComplexArray:
        """Maps embeddings [..., D] to targets [..., *shape]."""
        z = np.asarray(embedding, dtype=np.float64)
        return np.asarray(z @ self.weight + self.offset).reshape(*z.shape[:-1], *self.shape)


def _unit(vectors: ComplexArray) -> ComplexArray:
    """Vectors [..., M] at length 1; those of length 0 stay 0."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0))
