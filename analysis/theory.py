"""Closed forms: what theory says a simulation should measure, for tests and for dashed lines.

dB arguments may be numbers or arrays; results are float64 of the same shape. Eb/N0 is per information
bit of an uncoded modulation, N0 the one-sided noise density per complex symbol.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import linalg, optimize, special


def db_to_linear(value_db: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Power ratio of a level in dB: 10^(x / 10)."""
    return np.asarray(10 ** (np.asarray(value_db, dtype=np.float64) / 10))


def q_function(x: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Tail of the standard normal distribution: Q(x) = erfc(x / sqrt 2) / 2 (Proakis, 2.3)."""
    return np.asarray(0.5 * special.erfc(np.asarray(x, dtype=np.float64) / np.sqrt(2)))


def ber_bpsk_awgn(ebno_db: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Bit error rate of BPSK on AWGN: Q(sqrt(2 Eb/N0)) (Proakis, Digital Communications, 4.2)."""
    return q_function(np.sqrt(2 * db_to_linear(ebno_db)))


def ber_qpsk_awgn(ebno_db: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Bit error rate of Gray-coded QPSK on AWGN: that of BPSK, two of them in quadrature (Proakis, 4.3)."""
    return ber_bpsk_awgn(ebno_db)


def ber_16qam_awgn(ebno_db: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Bit error rate of Gray-coded square 16-QAM on AWGN, exact.

    (3 Q(x) + 2 Q(3 x) - Q(5 x)) / 4 with x = sqrt(4/5 Eb/N0).
    Source: Cho and Yoon, On the general BER expression of one- and two-dimensional amplitude
    modulations, IEEE Trans. Commun. 50(7), 2002.
    """
    x = np.sqrt(0.8 * db_to_linear(ebno_db))
    return (3 * q_function(x) + 2 * q_function(3 * x) - q_function(5 * x)) / 4


def ber_bpsk_rayleigh(ebno_db: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Mean bit error rate of coherent BPSK on flat Rayleigh fading: (1 - sqrt(g / (1 + g))) / 2.

    g is the mean Eb/N0. Source: Proakis, Digital Communications, 13.3 (one branch).
    """
    mean_snr = db_to_linear(ebno_db)
    return 0.5 * (1 - np.sqrt(mean_snr / (1 + mean_snr)))


def ber_qpsk_rayleigh(ebno_db: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Mean bit error rate of coherent Gray-coded QPSK on flat Rayleigh fading: that of BPSK per bit."""
    return ber_bpsk_rayleigh(ebno_db)


def ber_16qam_rayleigh(ebno_db: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Mean bit error rate of coherent Gray-coded 16-QAM on flat Rayleigh fading: that on AWGN, averaged.

    With E Q(sqrt(2 c g)) = (1 - sqrt(c g / (1 + c g))) / 2 over an exponential g, the terms Q(x), Q(3 x)
    and Q(5 x) of ber_16qam_awgn have c = 0.4, 3.6 and 10.
    """
    g = db_to_linear(ebno_db)
    one, three, five = (0.5 * (1 - np.sqrt(c * g / (1 + c * g))) for c in (0.4, 3.6, 10.0))
    return (3 * one + 2 * three - five) / 4


def capacity_awgn(snr_db: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Capacity of the complex AWGN channel, bits per channel use: log2(1 + snr) (Shannon 1948)."""
    return np.asarray(np.log2(1 + db_to_linear(snr_db)))


def capacity_rayleigh(snr_db: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Ergodic capacity of the flat Rayleigh channel known to the receiver: e^(1/s) E1(1/s) / ln 2, s = snr.

    Source: Goldsmith, Wireless Communications, 4.2.3 (E log2(1 + s |h|^2) with |h|^2 exponential).
    """
    inverse = 1 / db_to_linear(snr_db)
    return np.asarray(special.exp1(inverse) * np.exp(inverse) / np.log(2))


def bler_awgn(num_info_bits: float, num_uses: float, snr_db: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Block error rate of the best code of n complex channel uses for k bits on AWGN: normal approximation.

    Q((n C - k + log2(2 n) / 2) / sqrt(n V)) with C = log2(1 + s) and the dispersion
    V = s (s + 2) / (s + 1)^2 log2(e)^2 per complex use.
    Source: Polyanskiy, Poor and Verdu, Channel coding rate in the finite blocklength regime, IEEE
    Trans. Inf. Theory 56(5), 2010, theorem 54 and eq. 296 (2 n real uses).
    """
    snr = db_to_linear(snr_db)
    dispersion = snr * (snr + 2) / (snr + 1) ** 2 * np.log2(np.e) ** 2
    surplus = num_uses * np.log2(1 + snr) - num_info_bits + np.log2(2 * num_uses) / 2
    return q_function(surplus / np.sqrt(num_uses * dispersion))


def bler_rayleigh(num_info_bits: float, num_uses: float, snr_db: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Block error rate of the best code on flat Rayleigh block fading: that on AWGN, averaged over |h|^2.

    snr_db: the mean SNR. Quasi-static fading known to the receiver; by the midpoint rule over 2,000
    equally likely values of |h|^2. Source: Yang, Durisi, Koch and Polyanskiy, Quasi-static
    multiple-antenna fading channels at finite blocklength, IEEE Trans. Inf. Theory 60(7), 2014.
    """
    power_db = 10 * np.log10(-np.log1p(-(np.arange(2000) + 0.5) / 2000))
    conditional = bler_awgn(num_info_bits, num_uses, np.asarray(snr_db, np.float64)[..., None] + power_db)
    return np.asarray(conditional.mean(axis=-1))


def mmse_awgn(snr_db: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Least mean squared error of a unit-power symbol sent uncoded over AWGN: 1 / (1 + snr).

    For a Gaussian source it is also the least distortion that any code of one channel use a sample can
    reach (Goblick, Theoretical limitations on the transmission of data from analog sources, IEEE Trans. Inf.
    Theory 11(4), 1965).
    """
    return 1 / (1 + db_to_linear(snr_db))


def mmse_rayleigh(snr_db: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """That error on flat Rayleigh fading known to the receiver, averaged: e^(1/s) E1(1/s) / s.

    It is E 1 / (1 + s |h|^2) with |h|^2 exponential, s the mean SNR (Abramowitz and Stegun, 5.1.28).
    """
    inverse = 1 / db_to_linear(snr_db)
    return np.asarray(inverse * np.exp(inverse) * special.exp1(inverse))


def rayleigh_amplitude_cdf(amplitude: npt.ArrayLike, mean_power: float = 1.0) -> npt.NDArray[np.float64]:
    """Probability that |h| <= a for h ~ CN(0, W): 1 - exp(-a^2 / W) (Proakis, 2.3)."""
    return rayleigh_power_cdf(np.square(np.asarray(amplitude, dtype=np.float64)), mean_power)


def rayleigh_power_cdf(power: npt.ArrayLike, mean_power: float = 1.0) -> npt.NDArray[np.float64]:
    """Probability that |h|^2 <= w for h ~ CN(0, W), the exponential distribution: 1 - exp(-w / W).

    It is the outage probability of a flat Rayleigh channel of mean SNR W at a threshold w.
    """
    return np.asarray(-np.expm1(-np.asarray(power, dtype=np.float64) / mean_power))


def jakes_autocorrelation(doppler_hz: float, lag_s: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Correlation of a fading coefficient over time under isotropic scattering: J0(2 pi f_d tau).

    doppler_hz: largest Doppler shift f_d. Source: Clarke, Bell Syst. Tech. J. 47, 1968; Jakes,
    Microwave Mobile Communications, 1974, ch. 1.
    """
    return np.asarray(special.j0(2 * np.pi * doppler_hz * np.asarray(lag_s, dtype=np.float64)))


def free_space_gain(distance_m: npt.ArrayLike, carrier_hz: float) -> npt.NDArray[np.float64]:
    """Amplitude gain between antennas without a pattern: c / (4 pi f d) (Friis)."""
    return np.asarray(299_792_458.0 / (4 * np.pi * carrier_hz * np.asarray(distance_m, dtype=np.float64)))


def slab_reflection(
    cos_incidence: npt.ArrayLike, permittivity: complex, thickness_m: float, carrier_hz: float
) -> npt.NDArray[np.complex128]:
    """Reflection coefficient of a slab for a field in the plane of incidence (ITU-R P.2040-3, 2.2.2.2).

    R = r (1 - e) / (1 - r^2 e), e = exp(-2 j k d q) with q = sqrt(eta - sin^2 theta), k = 2 pi f / c, and
    r = (eta cos theta - q) / (eta cos theta + q), Fresnel's coefficient of its surface; eta is the complex
    relative permittivity, its imaginary part negative.
    """
    cos = np.asarray(cos_incidence, dtype=np.complex128)
    root = np.sqrt(permittivity - 1 + cos**2)
    surface = (permittivity * cos - root) / (permittivity * cos + root)
    twice = np.exp(-4j * np.pi * carrier_hz / 299_792_458.0 * thickness_m * root)
    return np.asarray(surface * (1 - twice) / (1 - surface**2 * twice))


def uniform_quantiser_mse(step: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Mean squared error of a fine uniform quantiser: step^2 / 12 (Gersho and Gray, ch. 5)."""
    return np.asarray(np.square(np.asarray(step, dtype=np.float64)) / 12)


def ls_nmse_db(snr_db: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """NMSE in dB of the least-squares channel estimate from one pilot per coefficient: -SNR in dB."""
    return -np.asarray(snr_db, dtype=np.float64)


def expected_transmissions(erasure_probability: float, max_transmissions: int | None = None) -> float:
    """Mean number of transmissions of a packet that is repeated until it arrives.

    1 / (1 - p), or (1 - p^n) / (1 - p) if given up after n (the mean of a truncated geometric
    distribution). Raises ValueError unless 0 <= p < 1.
    """
    if not 0 <= erasure_probability < 1:
        raise ValueError(f"erasure_probability {erasure_probability:g} must be in [0, 1)")
    given_up = 0.0 if max_transmissions is None else erasure_probability**max_transmissions
    return (1 - given_up) / (1 - erasure_probability)


def burst_probability(num_packets: int, burst_length: int, erasure_probability: float) -> float:
    """Probability that `burst_length` or more packets in a row are lost somewhere among num_packets.

    With independent losses of probability p, and f[n] the probability that the first burst of length g
    ends at packet n: f[g] = p^g and f[n] = (1 - p) p^g (1 - sum of f up to n - g - 1).
    Source: Feller, An Introduction to Probability Theory, vol. 1, XIII.7 (success runs).
    """
    whole = erasure_probability**burst_length
    ended = np.zeros(num_packets + 1)  # ended[n]: a burst has ended at or before packet n
    for packet in range(burst_length, num_packets + 1):
        if packet == burst_length:
            ended[packet] = whole
        else:
            before = ended[packet - burst_length - 1]
            ended[packet] = ended[packet - 1] + (1 - erasure_probability) * whole * (1 - before)
    return float(ended[num_packets])


def lqr_gain(a: np.ndarray, b: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Optimal feedback of the discrete linear-quadratic regulator, u = -K x: float64 [A, X].

    K = (R + B' P B)^-1 B' P A with P from `lqr_cost_matrix`. a [X, X], b [X, A], q [X, X], r [A, A].
    """
    p = lqr_cost_matrix(a, b, q, r)
    return np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a)


def lqr_cost_matrix(a: np.ndarray, b: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Solution P of the discrete algebraic Riccati equation, float64 [X, X].

    P = A' P A - A' P B (R + B' P B)^-1 B' P A + Q. The cost sum x'Qx + u'Ru from x0 is x0' P x0.
    Source: Bertsekas, Dynamic Programming and Optimal Control, vol. 1, on linear systems
    and quadratic cost.
    """
    return np.asarray(linalg.solve_discrete_are(a, b, q, r))


def lqr_cost(a: np.ndarray, b: np.ndarray, q: np.ndarray, r: np.ndarray, initial_state: np.ndarray) -> float:
    """Least infinite-horizon cost from a state without disturbance: x0' P x0; initial_state [X]."""
    return float(initial_state @ lqr_cost_matrix(a, b, q, r) @ initial_state)


def lqr_average_cost(
    a: np.ndarray, b: np.ndarray, q: np.ndarray, r: np.ndarray, noise_covariance: np.ndarray
) -> float:
    """Least mean cost per step under white disturbance of covariance W [X, X]: trace(P W).

    Source: Bertsekas, Dynamic Programming and Optimal Control, vol. 1, on linear systems
    and quadratic cost.
    """
    return float(np.trace(lqr_cost_matrix(a, b, q, r) @ noise_covariance))


def distortion_rate_gaussian(variance: npt.ArrayLike, rate_bits: float) -> float:
    """Least squared error of a Gaussian vector at a mean rate: reverse water-filling, D = sum min(l, v_k).

    variance [D]: of the independent components v_k (the covariance's eigenvalues), some of them above 0; the
    level l is that at which sum_(v_k > l) log2(v_k / l) / 2 is rate_bits of the whole vector.
    Source: Cover and Thomas, Elements of Information Theory, 2006, theorem 10.3.3.
    """
    descending = np.sort(np.asarray(variance, dtype=np.float64))[::-1]
    positive = descending[descending > 0]
    num = np.arange(1, len(positive) + 1)
    # With the n largest above it, the level would be this; n is right where it lies below the n-th.
    levels = np.exp2((np.cumsum(np.log2(positive)) - 2 * rate_bits) / num)
    level = levels[np.flatnonzero(levels <= positive)[-1]]
    return float(np.minimum(level, positive).sum())


def rate_distortion_gaussian(variance: npt.ArrayLike, distortion: float) -> float:
    """Least mean rate, bits, at which a Gaussian vector's squared error is `distortion`: the inverse of
    `distortion_rate_gaussian`, 0 where the distortion is that of the mean."""
    values = np.asarray(variance, dtype=np.float64)
    if distortion >= values.sum():
        return 0.0
    level = optimize.brentq(lambda level: np.minimum(level, values).sum() - distortion, 0, values.max())
    return float(np.log2(values[values > level] / level).sum() / 2)
