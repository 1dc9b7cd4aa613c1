"""Metrics of sensing a room: where people are, how many, who is hidden, and frames."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np
import numpy.typing as npt
from skimage.metrics import structural_similarity

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

OCCLUDED_BELOW = 0.5
"""A pedestrian is occluded where less than this share of the body is visible."""

MOST_PEDESTRIANS = 6
"""All orders of the pedestrians of a step are tried: 720 of six."""

SSIM_WINDOW_PX = 11
"""Side of the window that SSIM looks through: no frame may be smaller."""

_SSIM_FRAMES = 16
"""So many frames are compared at a time; what of them is in between stays in the cache."""
_ROUNDING_MSE = 1 / 255**2 / 12


def num_present(true_m: npt.ArrayLike) -> IntArray:
    """Number of pedestrians in each step, int64 [N]; true_m [N, P, 2] is NaN for who is not there."""
    return np.isfinite(np.asarray(true_m, dtype=np.float64)).all(axis=2).sum(axis=1, dtype=np.int64)


def localisation_errors_m(
    true_m: npt.ArrayLike, estimate_m: npt.ArrayLike, score: npt.ArrayLike
) -> FloatArray:
    """Mean distance of the pedestrians of each step to their estimates, in metres: float64 [N].

    e_n = min over pi of 1/k sum_(i <= k) |x_i - x_hat_(pi(i))|, over all assignments pi of the k pedestrians
    of step n to the k estimates of highest score; of equal scores the first. NaN where nobody is there.
    The number k is taken as known: what a wrong number costs is in `ospa_m`.
    true_m [N, P, 2], NaN for who is not there; estimate_m [N, E, 2] and score [N, E], E >= P.
    Raises ValueError for other shapes, more than 6 pedestrians, or estimates that are not finite.
    """
    true, estimate = _paired_positions(true_m, estimate_m, score)
    count = num_present(true)
    total = _assigned_costs(true, estimate, count, count, lambda distance: distance)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def assigned_estimates(true_m: npt.ArrayLike, estimate_m: npt.ArrayLike, score: npt.ArrayLike) -> IntArray:
    """Which estimate `localisation_errors_m` holds for each pedestrian, int64 [N, P]: -1 for who is absent.

    Shapes and errors as there; of equal assignments the first.
    """
    true, estimate = np.asarray(true_m, dtype=np.float64), np.asarray(estimate_m, dtype=np.float64)
    first_true, first_estimate = _paired_positions(true, estimate, score)
    there = np.isfinite(true).all(axis=2)
    pedestrian = np.argsort(~there, axis=1, kind="stable")
    best = np.argsort(-np.asarray(score, dtype=np.float64), axis=1, kind="stable")
    found = np.full(there.shape, -1, dtype=np.int64)
    count = num_present(true)
    for num in np.unique(count[count > 0]):
        rows = np.flatnonzero(count == num)
        difference = first_true[rows, :num, None] - first_estimate[rows, None, :num]
        costs = np.linalg.norm(difference, axis=-1)
        orders = np.array(list(permutations(range(num))))
        sums = np.stack([costs[:, range(num), order].sum(axis=1) for order in orders])
        chosen = np.take_along_axis(best[rows], orders[sums.argmin(axis=0)], axis=1)
        found[rows[:, None], pedestrian[rows, :num]] = chosen
    return found


def localisation_error_m(true_m: npt.ArrayLike, estimate_m: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """Mean over all pedestrians of all steps of their distance to their estimates, in metres.

    sum_n k_n e_n / sum_n k_n with e_n of `localisation_errors_m`: a step counts by the pedestrians k_n in
    it, and one without any doesn't. NaN if nobody is there at all. Shapes and errors as there.
    """
    count = num_present(true_m)
    errors = localisation_errors_m(true_m, estimate_m, score)
    there = count > 0
    return float(np.sum(errors[there] * count[there]) / count.sum()) if there.any() else float("nan")


def ospa_m(
    true_m: npt.ArrayLike,
    estimate_m: npt.ArrayLike,
    score: npt.ArrayLike,
    count_hat: npt.ArrayLike,
    cutoff_m: float = 1.0,
    order: float = 1.0,
) -> FloatArray:
    """OSPA distance of each step, positions and number together, in metres: float64 [N], 0 to cutoff_m.

    (1/n (min over pi of sum_(i <= m) min(c, |x_i - y_pi(i)|)^p + c^p (n - m)))^(1/p), m <= n the numbers of
    pedestrians and of estimates, c = cutoff_m, p = order; 0 where both are none. The estimates are the
    count_hat [N] of highest score. Other shapes and errors as for `localisation_errors_m`, and ValueError
    for a count_hat that is not from 0 to E.
    Source: Schuhmacher, Vo and Vo, IEEE Trans. Signal Processing 56(8), 2008, eq. 3.
    """
    if not (cutoff_m > 0 and order >= 1):
        raise ValueError(f"cutoff_m = {cutoff_m:g} and order = {order:g}: give above 0 and at least 1")
    true, estimate = _paired_positions(true_m, estimate_m, score)
    counts = np.asarray(count_hat)
    if counts.shape != (len(true),) or not np.isin(counts, np.arange(estimate.shape[1] + 1)).all():
        raise ValueError(
            f"count_hat has shape {counts.shape}: give [{len(true)}] numbers from 0 to {estimate.shape[1]}"
        )
    counts, count = counts.astype(np.int64), num_present(true)
    costs = _assigned_costs(true, estimate, count, counts, lambda d: np.minimum(d, cutoff_m) ** order)
    costs += cutoff_m**order * np.abs(count - counts)
    return (costs / np.maximum(1, np.maximum(count, counts))) ** (1 / order)


def count_accuracy(count: npt.ArrayLike, count_hat: npt.ArrayLike) -> float:
    """Share of the steps in which the number of pedestrians [N] is right."""
    count, count_hat = np.asarray(count), np.asarray(count_hat)
    if count.shape != count_hat.shape or not count.size:
        raise ValueError(f"counts have shapes {count.shape} and {count_hat.shape}: give two of [N]")
    return float(np.mean(count == count_hat))


def occlusion_accuracy(visible_share: npt.ArrayLike, occluded_hat: npt.ArrayLike) -> float:
    """Share of the pedestrians whose being occluded or not is told right, over all steps and cameras.

    Occluded: visible_share < 0.5. visible_share [...], NaN for who is not there and doesn't count;
    occluded_hat bool [...]. NaN if nobody is there. Raises ValueError for unequal shapes.
    """
    occluded, guess = _occlusion(visible_share, occluded_hat)
    return float(np.mean(occluded == guess)) if occluded.size else float("nan")


def balanced_occlusion_accuracy(visible_share: npt.ArrayLike, occluded_hat: npt.ArrayLike) -> float:
    """Mean of the shares told right among the occluded and among the others: 0.5 for a constant answer.

    NaN unless there are some of both. Shapes and errors as for `occlusion_accuracy`.
    """
    occluded, guess = _occlusion(visible_share, occluded_hat)
    if not occluded.any() or occluded.all():
        return float("nan")
    return float((np.mean(guess[occluded]) + np.mean(~guess[~occluded])) / 2)


def psnr_db(true: npt.ArrayLike, decoded: npt.ArrayLike) -> float:
    """Peak signal-to-noise ratio in dB, the mean over frames of each frame's own.

    1/N sum_n 10 log10(1 / MSE_n), MSE_n over the pixels and colours of frame n. Frames come from 8 bits, so
    that MSE_n is taken as at least the 1 / (12 255^2) of rounding to them: no frame counts more than 58.9 dB,
    and one that is exact makes no infinite mean. true and decoded [N, height, width, colours] from 0 to 1.
    Raises ValueError for other shapes or values.
    """
    true, decoded = _paired_frames(true, decoded)
    mse = np.mean((true - decoded) ** 2, axis=(1, 2, 3), dtype=np.float64)
    return float(np.mean(-10 * np.log10(np.maximum(mse, _ROUNDING_MSE))))


def ssim(true: npt.ArrayLike, decoded: npt.ArrayLike) -> float:
    """Structural similarity, the mean over frames and colours: 1 for equal frames.

    With the settings of its authors: Gaussian weights of deviation 1.5 in a window of 11 x 11, K1 = 0.01,
    K2 = 0.03, moments of the population, range 1; each colour by itself. Windows that reach over the edge
    don't count. true and decoded [N, height, width, colours] from 0 to 1, at least 11 pixels high and wide.
    Raises ValueError for other shapes or values.
    Source: Wang, Bovik, Sheikh and Simoncelli, IEEE Trans. Image Processing 13(4), 2004.
    """
    true, decoded = _paired_frames(true, decoded)
    if min(true.shape[1:3]) < SSIM_WINDOW_PX:
        raise ValueError(
            f"frames of {true.shape[1]} x {true.shape[2]} are too small for SSIM: "
            f"its window is {SSIM_WINDOW_PX} x {SSIM_WINDOW_PX}"
        )
    values = [
        _ssim_of_each(true[first : first + _SSIM_FRAMES], decoded[first : first + _SSIM_FRAMES])
        for first in range(0, len(true), _SSIM_FRAMES)
    ]
    return float(np.mean(np.concatenate(values)))


def _ssim_of_each(true: FloatArray, decoded: FloatArray) -> FloatArray:
    """SSIM of each frame. They lie below one another: no window that counts reaches into the next."""
    num_frames, height, width, num_colours = true.shape
    values = np.empty((num_frames, num_colours), true.dtype)
    for colour in range(num_colours):
        _, everywhere = structural_similarity(
            true[..., colour].reshape(-1, width),
            decoded[..., colour].reshape(-1, width),
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        for frame, of_frame in enumerate(everywhere.reshape(num_frames, height, width)):
            edge = SSIM_WINDOW_PX // 2
            values[frame, colour] = of_frame[edge:-edge, edge:-edge].mean(dtype=np.float64)
    return values.mean(axis=1)


def _paired_positions(
    true_m: npt.ArrayLike, estimate_m: npt.ArrayLike, score: npt.ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Positions with those who are there first, and estimates by falling score."""
    true, estimate = np.asarray(true_m, dtype=np.float64), np.asarray(estimate_m, dtype=np.float64)
    scores = np.asarray(score, dtype=np.float64)
    fits = true.ndim == estimate.ndim == 3 and true.shape[2] == estimate.shape[2] == 2
    if not fits or len(true) != len(estimate) or scores.shape != estimate.shape[:2]:
        raise ValueError(
            f"positions, estimates and scores have shapes {true.shape}, {estimate.shape} and {scores.shape}: "
            "give [N, P, 2], [N, E, 2] and [N, E]"
        )
    if not true.shape[1] <= estimate.shape[1] <= MOST_PEDESTRIANS:
        raise ValueError(
            f"{true.shape[1]} pedestrians and {estimate.shape[1]} estimates: give no fewer estimates, "
            f"and at most {MOST_PEDESTRIANS}"
        )
    there = np.isfinite(true).all(axis=2)
    if not (there | np.isnan(true).all(axis=2)).all():
        raise ValueError("a true position is half NaN or infinite: give x and y, or NaN for both")
    if not (np.isfinite(estimate).all() and np.isfinite(scores).all()):
        raise ValueError("estimates or scores are not finite: give every step its estimates")
    first = np.argsort(~there, axis=1, kind="stable")[..., None]
    best = np.argsort(-scores, axis=1, kind="stable")[..., None]
    return np.take_along_axis(true, first, axis=1), np.take_along_axis(estimate, best, axis=1)


def _assigned_costs(
    true: FloatArray,
    estimate: FloatArray,
    count: IntArray,
    count_hat: IntArray,
    cost: Callable[[FloatArray], FloatArray],
) -> FloatArray:
    """Least sum of the costs of distances, the first count to the first count_hat of them, float64 [N].

    Of the larger set as many stay alone as it has more.
    """
    total = np.zeros(len(true))
    for num, num_hat in np.unique(np.stack([count, count_hat], axis=1), axis=0):
        rows = np.flatnonzero((count == num) & (count_hat == num_hat))
        difference = true[rows, :num, None] - estimate[rows, None, :num_hat]
        costs = cost(np.linalg.norm(difference, axis=-1))
        if num > num_hat:
            costs = costs.swapaxes(1, 2)
        few, many = costs.shape[1:]
        sums = [costs[:, range(few), list(chosen)].sum(axis=1) for chosen in permutations(range(many), few)]
        total[rows] = np.min(sums, axis=0)
    return total


def _occlusion(
    visible_share: npt.ArrayLike, occluded_hat: npt.ArrayLike
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    share, guess = np.asarray(visible_share, dtype=np.float64), np.asarray(occluded_hat)
    if share.shape != guess.shape or guess.dtype != np.bool_:
        raise ValueError(
            f"shares have shape {share.shape}, answers {guess.shape} of {guess.dtype}: "
            "give as many answers, of bool"
        )
    there = ~np.isnan(share)
    return share[there] < OCCLUDED_BELOW, guess[there]


def _paired_frames(true: npt.ArrayLike, decoded: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    frames = np.asarray(true), np.asarray(decoded)
    if frames[0].shape != frames[1].shape or frames[0].ndim != 4 or not frames[0].size:
        raise ValueError(
            f"frames have shapes {frames[0].shape} and {frames[1].shape}: "
            "give two of [N, height, width, colours]"
        )
    for name, values in zip(("true", "decoded"), frames, strict=True):
        # NaN fails both comparisons.
        if not (values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"{name} frames of {values.dtype} are not from 0 to 1: scale and clip them")
    dtype = np.result_type(*frames)
    return frames[0].astype(dtype), frames[1].astype(dtype)
