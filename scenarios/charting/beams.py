"""What predicted CSI is worth in a downlink: sum rate of beams that point along predicted covariances."""

from __future__ import annotations

import numpy as np
import torch

from analysis.sum_rate import LinearProbe, principal_channel, sum_rate
from scenarios.charting.data import Sequences
from scenarios.charting.forecasting import values_ahead
from scenarios.charting.forecasts import Frame, embed, roll_ahead

USERS_AT_ONCE = 4
_NUM_SUBCARRIERS = 8


def covariances(csi: torch.Tensor) -> np.ndarray:
    """Spatial covariance of each array over the subcarriers, of trace 1: [..., R, M, F] to [..., R, M, M].

    That is C = sum_f h_f h_f^H / sum_f |h_f|^2, which a beam for the whole band is made from.
    """
    h = csi.numpy()
    square = h @ h.conj().swapaxes(-1, -2)
    trace = np.trace(square, axis1=-2, axis2=-1).real[..., None, None]
    return np.asarray(square / np.maximum(trace, 1e-30))


def beam_rates(frame: Frame, snr_db: float) -> dict[str, np.ndarray]:
    """Sum rate in bit/s/Hz by look-ahead, float64 [H], of beams along four covariances of the same users.

    w-jepa: predicted by a linear probe of the rolled embedding, the probe fitted on training data;
    last-value: measured at the origin; zero-look-ahead: by the probe, of the embedding at that time;
    true: measured when the beam is used, the bound. Users are served four at a time (fewer where there are
    fewer users or antennas) by every array alone, with zero-forcing; the rate is the mean over arrays,
    users' groups, origins and eight subcarriers. Channels are scaled to a mean |h|^2 of 1 for each user
    and array: snr_db is what an antenna would have.
    """
    model, data = frame.model, frame.data
    test = data.test
    z = embed(model, data.train).flatten(0, 1).flatten(1).numpy()
    probe = LinearProbe.fit(z, covariances(data.train.csi.flatten(0, 1)))
    measured = covariances(test.csi)
    ahead = roll_ahead(frame, embed(model, test), test)
    at_origin = np.repeat(measured[:, frame.origins][:, :, None], len(frame.look_ahead), axis=2)
    later = values_ahead(embed(model, test).flatten(2).numpy(), frame.origins, frame.look_ahead)
    candidates = {
        "w-jepa": probe.predict(ahead.flatten(3).numpy()),
        "last-value": at_origin,
        "zero-look-ahead": probe.predict(later),
        "true": values_ahead(measured, frame.origins, frame.look_ahead),
    }
    channel = values_ahead(_scaled(test), frame.origins, frame.look_ahead)
    return {name: _rate(channel, covariance, snr_db) for name, covariance in candidates.items()}


def _scaled(part: Sequences) -> np.ndarray:
    """A few subcarriers of the CSI at a mean |h|^2 of 1 for each user, time and array: [U, T, R, S, M]."""
    h = part.csi.numpy()
    chosen = np.unique(np.linspace(0, h.shape[-1] - 1, _NUM_SUBCARRIERS).round().astype(int))
    power = np.mean(np.abs(h) ** 2, axis=(-2, -1), keepdims=True)
    return np.asarray((h[..., chosen] / np.sqrt(np.maximum(power, 1e-30))).swapaxes(-1, -2))


def _rate(channel: np.ndarray, covariance: np.ndarray, snr_db: float) -> np.ndarray:
    """Mean sum rate by look-ahead of channels [U, O, H, R, S, M] with beams from covariances [..., M, M]."""
    beam = principal_channel(covariance)[..., None, :]
    size = min(USERS_AT_ONCE, channel.shape[0], channel.shape[-1])
    num_groups = channel.shape[0] // size
    truth, guess = (
        np.moveaxis(np.broadcast_to(each, channel.shape)[: num_groups * size], 0, -2)
        for each in (channel, beam)
    )
    grouped = [
        sum_rate(truth[..., start : start + size, :], guess[..., start : start + size, :], snr_db)
        for start in range(0, num_groups * size, size)
    ]
    return np.asarray(np.mean(grouped, axis=(0, 1, 3, 4)))
