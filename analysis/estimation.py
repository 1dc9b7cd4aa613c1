"""Metrics of channel estimates: error, likeness of direction, and what a beam made from one is worth."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ComplexArray = npt.NDArray[np.complex128]
FloatArray = npt.NDArray[np.float64]


def normalised_errors(channel: npt.ArrayLike, channel_hat: npt.ArrayLike) -> FloatArray:
    """Squared error of each sample over the channel's own power: |h_hat - h|^2 / |h|^2, float64 [N].

    channel, channel_hat: complex [N, ...], the same shape; the norms run over all axes but the first, so over
    the whole array with what is hidden of it; of complex [N] each number is a channel. No unit; 1 for an
    estimate of 0.
    Raises ValueError for shapes that differ or lack an axis, NaN or infinity, or a channel of 0.
    """
    truth, guess = _paired(channel, channel_hat)
    others = tuple(range(1, truth.ndim))
    error, power = (np.asarray((np.abs(each) ** 2).sum(axis=others)) for each in (guess - truth, truth))
    return error / power


def nmse_db(channel: npt.ArrayLike, channel_hat: npt.ArrayLike) -> float:
    """Normalised mean squared error in dB: 10 log10 of the mean over N samples of |h_hat - h|^2 / |h|^2.

    The mean of the ratios, not the ratio of the means: a weak channel counts as much as a strong one, and a
    few samples that failed decide it (see `median_nmse_db`). -infinity without any error.
    Shapes and errors as for `normalised_errors`; at least one sample.
    """
    return _db(float(_some(normalised_errors(channel, channel_hat)).mean()))


def median_nmse_db(channel: npt.ArrayLike, channel_hat: npt.ArrayLike) -> float:
    """Median over N samples of |h_hat - h|^2 / |h|^2 in dB: what an estimate usually errs by.

    Of an even number of samples the mean of the middle two, before the logarithm.
    Shapes and errors as for `nmse_db`.
    """
    return _db(float(np.median(_some(normalised_errors(channel, channel_hat)))))


def squared_cosines(channel: npt.ArrayLike, channel_hat: npt.ArrayLike) -> FloatArray:
    """Squared generalised cosine similarity |v^H v_hat|^2 / (|v|^2 |v_hat|^2), in 0 to 1: float64 [...].

    channel, channel_hat: complex [..., M], the same shape. Neither phase nor power of an estimate matters;
    an estimate of 0 points nowhere and has 0. SGCS is their mean over samples and subcarriers.
    Raises ValueError for shapes that differ or lack an axis, NaN or infinity, or a channel of 0.
    Source: 3GPP TR 38.843, section 6.2.1, for eigenvectors; here for the channel of one antenna.
    """
    truth, guess = _paired(channel, channel_hat)
    return _received(truth, guess) / _power(truth)


def beamforming_gain_db(channel: npt.ArrayLike, channel_hat: npt.ArrayLike) -> float:
    """Mean power received with beams made from estimates over that with perfect knowledge, dB, at most 0.

    10 log10(sum_n |h_n^H w_n|^2 / sum_n |h_n|^2), w = h_hat / |h_hat|: maximum ratio combining, or
    transmission of the same total power in the reciprocal direction. Unlike the mean of `squared_cosines`
    it weighs a sample by its channel's power. An estimate of 0 receives nothing; -infinity if all are.
    Shapes [..., M] and errors as for `squared_cosines`; at least one sample.
    """
    truth, guess = _paired(channel, channel_hat)
    return _db(float(_some(_received(truth, guess)).sum() / _power(truth).sum()))


def spectral_efficiency(
    channel: npt.ArrayLike, channel_hat: npt.ArrayLike, snr_db: npt.ArrayLike
) -> FloatArray:
    """Spectral efficiency with maximum ratio combining by an estimate, bit/s/Hz: float64 [...].

    log2(1 + snr |h^H w|^2), w = h_hat / |h_hat|, snr = 10^(snr_db / 10): transmit power over the noise of one
    element, which is an element's mean SNR where channels are scaled to mean |h_m|^2 = 1; the array's gain
    comes on top, up to M. The receiver knows the combined channel h^H w, and pilots and feedback are not
    taken off. An estimate of 0 gives 0; the upper bound is that of h_hat = h. Equals `analysis.sum_rate` for
    one user. channel, channel_hat: complex [..., M]; snr_db: a number, or an array that broadcasts to [...].
    Raises ValueError as `squared_cosines`, and for an SNR that is NaN or +infinity.
    """
    truth, guess = _paired(channel, channel_hat)
    level_db = np.asarray(snr_db, dtype=np.float64)
    if not np.all(level_db < np.inf):
        raise ValueError("an SNR is NaN or infinity: the spectral efficiency takes a number of dB")
    return np.asarray(np.log2(1 + 10 ** (level_db / 10) * _received(truth, guess)))


def _paired(channel: npt.ArrayLike, channel_hat: npt.ArrayLike) -> tuple[ComplexArray, ComplexArray]:
    truth, guess = (np.asarray(each, dtype=np.complex128) for each in (channel, channel_hat))
    if truth.shape != guess.shape or not truth.ndim:
        raise ValueError(
            f"channels of shape {truth.shape} and estimates of shape {guess.shape}: both have to be alike"
        )
    for name, values in (("channel", truth), ("estimate", guess)):
        if not np.isfinite(values).all():
            place = tuple(int(axis[0]) for axis in np.nonzero(~np.isfinite(values)))
            raise ValueError(f"the {name} holds NaN or infinity at {place}: give finite ones")
    if not _power(truth).all():
        raise ValueError("a channel is 0 throughout: an error relative to its power has no meaning")
    return truth, guess


def _power(values: ComplexArray) -> FloatArray:
    return np.asarray((values.real**2 + values.imag**2).sum(axis=-1), dtype=np.float64)


def _received(truth: ComplexArray, guess: ComplexArray) -> FloatArray:
    """Power |h^H w|^2 with w the estimate at length 1, or 0."""
    power = _power(guess)
    inner = np.abs((truth.conj() * guess).sum(axis=-1)) ** 2
    return np.asarray(np.divide(inner, power, out=np.zeros_like(inner), where=power > 0))


def _some(values: FloatArray) -> FloatArray:
    if not values.size:
        raise ValueError("there are no samples to take the mean of: give at least one channel")
    return values


def _db(ratio: float) -> float:
    return float(10 * np.log10(ratio)) if ratio else -float("inf")
