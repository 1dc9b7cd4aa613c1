"""The link budget: powers, thermal noise, and the path loss of TR 38.901's indoor factory.

SNR convention: per resource element, the transmit power being spread evenly over the carrier and the
noise power being k T B F over the same bandwidth B. Give B as the occupied bandwidth (12 subcarriers
of each resource block): with the channel bandwidth, guard bands included, the SNR is too low by 0.37 dB
(20 MHz, 30 kHz).
"""

from __future__ import annotations

import math

import numpy as np

BOLTZMANN_J_PER_K = 1.380649e-23
REFERENCE_TEMPERATURE_K = 290.0


def noise_power_w(bandwidth_hz: float, noise_figure_db: float) -> float:
    """Thermal noise power k T B F at T = 290 K, in watts (the noise figure's reference: IEEE, 290 K)."""
    return BOLTZMANN_J_PER_K * REFERENCE_TEMPERATURE_K * bandwidth_hz * 10 ** (noise_figure_db / 10)


def dbm_to_w(power_dbm: float) -> float:
    """Power in watts of a level in dBm: 10^((P - 30) / 10)."""
    return 10 ** ((power_dbm - 30) / 10)


def path_loss_los_db(distance_m: np.ndarray, carrier_hz: float) -> np.ndarray:
    """Indoor-factory line-of-sight path loss: 31.84 + 21.5 log10 d + 19 log10 f.

    distance_m: 3-D distance d in metres, any shape; f is the carrier in GHz. Returns dB, same shape.
    Source: 3GPP TR 38.901, table 7.4.1-1, InF LOS.
    """
    return 31.84 + 21.5 * np.log10(distance_m) + 19 * np.log10(carrier_hz / 1e9)


def path_loss_nlos_db(distance_m: np.ndarray, carrier_hz: float) -> np.ndarray:
    """Indoor-factory path loss without line of sight: max(PL_LoS, 33.63 + 21.9 log10 d + 20 log10 f).

    distance_m: 3-D distance d in metres, any shape; f is the carrier in GHz. Returns dB, same shape.
    Source: 3GPP TR 38.901, table 7.4.1-1, InF-DH NLOS (dense clutter, high base station).
    """
    blocked = 33.63 + 21.9 * np.log10(distance_m) + 20 * np.log10(carrier_hz / 1e9)
    return np.maximum(path_loss_los_db(distance_m, carrier_hz), blocked)


def los_probability(
    ground_distance_m: np.ndarray,
    base_station_height_m: float,
    device_height_m: float,
    clutter_density: float,
    clutter_size_m: float,
    clutter_height_m: float,
) -> np.ndarray:
    """Probability of line of sight in a factory with a high base station: exp(-d_2D / k).

    k = -d_clutter / ln(1 - r) x (h_BS - h_UT) / (h_c - h_UT), for clutter of density r, size d_clutter
    and height h_c above the devices. ground_distance_m: any shape; returns the same shape.
    Source: 3GPP TR 38.901, table 7.4.2-1, InF-SH and InF-DH.
    """
    reach_m = -clutter_size_m / math.log1p(-clutter_density)
    reach_m *= (base_station_height_m - device_height_m) / (clutter_height_m - device_height_m)
    return np.exp(-np.asarray(ground_distance_m) / reach_m)
