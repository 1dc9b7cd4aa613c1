"""Classical estimates of a partly visible array beside targets: NMSE, and microseconds per estimate.

    python benchmarks/elaa_classical.py [--samples 200] [--validation 300] [--training 4000] [--seeds 1]
        [--shares 1 0.75 0.5 0.25] [--ahead] [--elements 256]

256 elements (or others) at 30 GHz, 3 to 6 paths, one or two hidden blocks of 16-element sub-arrays, mask
known unless it says unknown. For each visible share and SNR each method is tuned on validation channels and
measured on test channels that are others: mean NMSE in dB over the test channels of all seeds, the median in
brackets, and beneath it the mean that a prototype reached in 200 channels of its own ("published").
"ahead" is the snapshot after three of moving users, 0.25 ms apart. The microseconds are of processor time in
one thread, per estimate, over all cells of this run, without tuning.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch

from channels.near_field import NearFieldConfig, draw_channels
from channels.visibility import VISIBLE_ABOVE, BlockVisibility, draw_visibility
from scenarios.elaa.dictionaries import Dictionary, dft_dictionary, polar_dictionary
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.linear import least_squares, tune_lmmse
from scenarios.elaa.nomp import tune_nomp
from scenarios.elaa.observations import Observed, observe
from scenarios.elaa.prediction import (
    last_value,
    predict_with_atoms,
    tune_atoms,
    tune_linear_predictor,
)
from scenarios.elaa.pursuit import Pursuit, tune_pursuit
from scenarios.elaa.region_detection import Estimator, RegionDetector, fit_region_detector, restrict, unmask
from scenarios.elaa.shrinking import tune_shrink
from semcom.rng import Streams

SHARES, SNRS_DB = (1.0, 0.75, 0.5, 0.25), (0, 10, 20)
PUBLISHED = {
    "LS, zero fill": ("0/-10/-20", "0/-4.9/-5.9", "0/-2.6/-3.0", "0/-1.1/-1.2"),
    "LMMSE": ("-3.3/-10.9/-20.5", "-2.3/-5.2/-6.2", "-1.4/-2.7/-3.1", "-0.6/-1.1/-1.3"),
    "polar OMP": ("-9.7/-17.0/-24.7", "-8.0/-12.5/-14.2", "-4.0/-5.5/-5.4", "-1.2/-1.2/-0.6"),
    "ahead: S-OMP, phases turn": (
        "-11.2/-17.4/-19.0",
        "-9.4/-13.1/-13.8",
        "-4.7/-5.7/-5.4",
        "-1.4/-1.2/-0.5",
    ),
    "NOMP and shrink": ("-10.9/-20.0/-27.0", "-9.1/-16.8/-21.0", "-5.1/-7.9/-9.0", "-1.4/-2.4/-3.2"),
}
Cell = tuple[str, float, int]
Estimate = Callable[[Observed], torch.Tensor]


def draw(
    config: NearFieldConfig, share: float, num: int, streams: Streams, what: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Channels and which of their elements are visible."""
    h = draw_channels(config, num, streams.torch_generator(f"{what} channels")).h[:, 0, 0]
    amplitude = draw_visibility(
        BlockVisibility(share=share), config, num, streams.torch_generator(f"{what} visibility")
    )
    return h, amplitude > VISIBLE_ABOVE


def tuned(
    array: LineArray, training: torch.Tensor, observed: Observed, truth: torch.Tensor, polar: Pursuit
) -> dict[str, Estimate]:
    """All methods that know the mask, tuned on validation channels."""
    nomp = tune_nomp(array, observed, truth)
    return {
        "LS, zero fill": least_squares,
        "LMMSE": tune_lmmse(training, observed, truth).estimate,
        "DFT OMP": tune_pursuit(dft_dictionary(array, 2.0), observed, truth).estimate,
        "polar OMP": polar.estimate,
        "NOMP": nomp.estimate,
        "NOMP and shrink": tune_shrink(nomp, observed, truth, (0.0,), (0.5,)).estimate,
        "NOMP, Cramer-Rao shrink": tune_shrink(nomp, observed, truth).estimate,
    }


def on_region(detector: RegionDetector, method: Estimator) -> Estimate:
    """A method given the region that the detector finds."""
    return lambda observed: method.estimate(restrict(observed, detector.detect(observed)))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=200, help="test channels of a seed")
    parser.add_argument("--validation", type=int, default=300, help="channels that methods are tuned on")
    parser.add_argument("--training", type=int, default=4000, help="channels of the sample covariance")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--elements", type=int, default=256, help="of the array; published are 256")
    parser.add_argument("--ahead", action="store_true", help="the snapshot after three of moving users, too")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    config = NearFieldConfig(num_elements=asked.elements)
    array = LineArray.of(config)
    dictionary = polar_dictionary(array)
    spent_s: dict[str, float] = defaultdict(float)
    cells: dict[Cell, list[torch.Tensor]] = defaultdict(list)
    for seed in range(asked.seeds):
        streams = Streams(seed)
        training, _ = draw(config, 1.0, asked.training, streams, "training")
        for share in asked.shares:
            truth, visible = draw(config, share, asked.validation, streams, "validation")
            h, seen = draw(config, share, asked.samples, streams, "test")
            for snr_db in SNRS_DB:
                noise = (streams.torch_generator(f"{part} noise", step=snr_db) for part in ("tune", "test"))
                known = observe(truth, visible, snr_db, next(noise))
                observed = observe(h, seen, snr_db, next(noise))
                polar = tune_pursuit(dictionary, known, truth)
                known_mask = tuned(array, training, known, truth, polar)
                jobs = [(name, estimate, observed) for name, estimate in known_mask.items()]
                noise = (streams.torch_generator(f"{part} noise", step=snr_db) for part in ("tune", "test"))
                blind = unmask(truth, visible, snr_db, next(noise))
                detector = fit_region_detector(polar, blind, visible, truth)
                jobs.append(("P-SOMP, mask unknown", detector.estimate, unmask(h, seen, snr_db, next(noise))))
                # NOMP on the region that was found, tuned to regions found likewise.
                found = restrict(blind, detector.detect(blind))
                shrunk = tune_shrink(tune_nomp(array, found, truth), found, truth)
                jobs.append(("NOMP, mask unknown", on_region(detector, shrunk), jobs[-1][2]))
                for name, estimate, given in jobs:
                    begin_s = time.process_time()
                    h_hat = estimate(given)
                    spent_s[name] += time.process_time() - begin_s
                    error = (h_hat - h).abs().square().sum(dim=1) / h.abs().square().sum(dim=1)
                    cells[name, share, snr_db].append(error)
            if asked.ahead:
                predict(config, dictionary, share, asked.samples, asked.validation, streams, cells, spent_s)
    print_table(cells, spent_s, asked.shares, asked.seeds * asked.samples)


def predict(
    config: NearFieldConfig,
    dictionary: Dictionary,
    share: float,
    num: int,
    num_validation: int,
    streams: Streams,
    cells: dict[Cell, list[torch.Tensor]],
    spent_s: dict[str, float],
) -> None:
    """Measures predictions of the snapshot after three, of users who move."""
    config = config.model_copy(update={"num_snapshots": 4})
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    for what, size in (("validation", num_validation), ("test", num)):
        h = draw_channels(config, size, streams.torch_generator(f"{what} snapshots")).h[:, :, 0]
        amplitude = draw_visibility(
            BlockVisibility(share=share),
            config,
            size,
            streams.torch_generator(f"{what} snapshots' visibility"),
        )
        parts.append((h, amplitude > VISIBLE_ABOVE))
    for snr_db in SNRS_DB:
        noise = streams.torch_generator("snapshots' noise", step=snr_db)
        known, new = (
            observe(h[:, :3].flatten(0, 1), visible.repeat_interleave(3, dim=0), snr_db, noise)
            for h, visible in parts
        )
        (truth, seen_known), (h, seen) = parts
        known_y, y = known.y.unflatten(0, (-1, 3)), new.y.unflatten(0, (-1, 3))
        pursuit = tune_atoms(dictionary, known_y, seen_known, known.noise_var[::3], truth[:, 3], 1)
        past = pursuit.estimate_jointly(known_y, seen_known, known.noise_var[::3])
        half = len(past) // 2
        linear = tune_linear_predictor((past[:half], truth[:half, 3]), (past[half:], truth[half:, 3]))

        variance = new.noise_var[::3]
        jobs: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
            "ahead: last of P-SOMP": lambda y, seen, pursuit=pursuit, variance=variance: last_value(
                pursuit.estimate_jointly(y, seen, variance)
            ),
            "ahead: Wiener on P-SOMP": lambda y, seen, pursuit=pursuit, variance=variance, linear=linear: (
                linear.predict(pursuit.estimate_jointly(y, seen, variance))
            ),
            "ahead: S-OMP, phases turn": lambda y, seen, pursuit=pursuit, variance=variance: (
                predict_with_atoms(pursuit, y, seen, variance, 1)
            ),
        }
        for name, job in jobs.items():
            begin_s = time.process_time()
            h_hat = job(y, seen)
            spent_s[name] += time.process_time() - begin_s
            error = (h_hat - h[:, 3]).abs().square().sum(dim=1) / h[:, 3].abs().square().sum(dim=1)
            cells[name, share, snr_db].append(error)


def print_table(
    cells: dict[Cell, list[torch.Tensor]], spent_s: dict[str, float], shares: Sequence[float], num: int
) -> None:
    """Prints a row for each method and the published one beneath it; num: estimates in a cell."""
    print(f"SNR {'/'.join(map(str, SNRS_DB))} dB; mean NMSE dB (median)")
    print(f"{'':26}" + "".join(f"{f'share {share}':>36}" for share in shares) + f"{'us':>9}")
    num_estimates = num * len(shares) * len(SNRS_DB)
    for name, seconds in spent_s.items():
        row = f"{name:26}"
        for share in shares:
            errors = [torch.cat(cells[name, share, snr_db]) for snr_db in SNRS_DB]
            texts = [f"{_db(error.mean()):.1f}({_db(error.median()):.1f})" for error in errors]
            row += f"{'/'.join(texts):>36}"
        print(row + f"{seconds / num_estimates * 1e6:9.0f}")
        if name in PUBLISHED:
            known_rows = dict(zip(SHARES, PUBLISHED[name], strict=True))
            print(f"{'  published':26}" + "".join(f"{known_rows.get(s, ''):>36}" for s in shares))


def _db(power: torch.Tensor) -> float:
    return float(10 * torch.log10(power))


if __name__ == "__main__":
    main()
