"""What feedback of near-field channels costs in bits: NMSE of each codec at 32 to 512 bits a channel.

    python benchmarks/elaa_feedback.py [--train 4000] [--test 300] [--bits 32 64 128 256 512]

The generator's default settings, seed 0; the whole array seen without noise. Bits are those of real payloads,
on average; `paths` is told the generator's own paths, so it is a bound on what path estimates could send.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from analysis.estimation import median_nmse_db, nmse_db, squared_cosines
from channels.near_field import NearFieldConfig, draw_channels
from scenarios.elaa.feedback_codebook import fit_beam_feedback
from scenarios.elaa.feedback_path_fit import fit_path_codec
from scenarios.elaa.feedback_paths import Paths
from scenarios.elaa.feedback_transform import fit_dechirped_klt_feedback, fit_klt_feedback
from scenarios.elaa.line_array import LineArray
from semcom.rng import Streams

SEED = 0
_NUM_TUNED_PATHS = 1000


def draw(config: NearFieldConfig, num: int, purpose: str) -> tuple[torch.Tensor, Paths]:
    """Channels, complex64 [num, M], and the paths that make them."""
    drawn = draw_channels(config, num, Streams(SEED).torch_generator(purpose))
    return drawn.h[:, 0, 0], Paths(drawn.gain, drawn.angle_rad[:, 0].sin(), 1 / drawn.distance_m[:, 0])


def print_row(name: str, bits: int, fit: Callable[[], Any], what: Any, h: torch.Tensor) -> None:
    """Fits one codec, sends the test channels through it and prints a line."""
    begin_s = time.perf_counter()
    feedback = fit()
    fitted_s = time.perf_counter()
    payloads: Sequence[bytes] = feedback.encode(what)
    received = feedback.decode(payloads).numpy()
    coded_s = time.perf_counter()
    truth = h.numpy()
    spent = 8 * np.mean([len(payload) for payload in payloads])
    likeness = float(squared_cosines(truth, received).mean())
    print(
        f"{name:16}{bits:6}{spent:9.1f}{nmse_db(truth, received):9.2f}{median_nmse_db(truth, received):9.2f}"
        f"{likeness:8.3f}{fitted_s - begin_s:8.1f}{1e3 * (coded_s - fitted_s) / len(h):9.2f}",
        flush=True,
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=int, default=4000, help="channels that codecs are fitted to")
    parser.add_argument("--test", type=int, default=300, help="channels that are sent")
    parser.add_argument("--bits", type=int, nargs="+", default=[32, 64, 128, 256, 512], help="bits a channel")
    asked = parser.parse_args()
    config = NearFieldConfig()
    array = LineArray.of(config)
    (h, paths), (fresh, sent) = draw(config, asked.train, "train"), draw(config, asked.test, "test")
    some = Paths(*(part[:_NUM_TUNED_PATHS] for part in (paths.gain, paths.sine, paths.inverse_m)))
    print(
        f"{'codec':16}{'asked':>6}{'bits':>9}{'NMSE dB':>9}{'median':>9}{'SGCS':>8}{'fit s':>8}{'ms each':>9}"
    )
    for bits in asked.bits:
        for name, fit, what in (
            ("paths", partial(fit_path_codec, array, some), sent),
            ("beam-dft", partial(fit_beam_feedback, h, num_beams=1), fresh),
            ("beams-etype2", partial(fit_beam_feedback, h), fresh),
            ("klt", partial(fit_klt_feedback, h), fresh),
            ("klt-dechirped", partial(fit_dechirped_klt_feedback, array, h), fresh),
        ):
            print_row(name, bits, partial(fit, bits), what, fresh)


if __name__ == "__main__":
    main()
