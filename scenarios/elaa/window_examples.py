"""Examples that the forecaster is trained on: moving users' snapshots, and their channels then and later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch

from channels.near_field import NearFieldConfig, draw_channels
from channels.visibility import VisibilityConfig
from scenarios.elaa.examples import NUM_CELLS, ExampleConfig, cells, draw_visible
from scenarios.elaa.features import Dechirper
from scenarios.elaa.inputs import to_numbers
from scenarios.elaa.observations import Observed, observe
from scenarios.elaa.patches import Patches
from scenarios.elaa.tracks import Heard, times
from scenarios.elaa.windows import WindowInputs, make_window_inputs
from semcom.rng import Streams
from semcom.samples import Samples

VALUES_AT_ONCE = 1 << 24
"""Values of channels that are drawn at once, at most: 128 MiB."""


@dataclass(frozen=True)
class WindowExamples:
    """N moving users to learn from.

    clean: float32 [N, W, L, 2 S], the channels in the frame at `time`, int64 [W], in snapshots from the last
    one heard; cell, order: as Examples.
    """

    inputs: WindowInputs
    clean: torch.Tensor
    time: torch.Tensor
    cell: torch.Tensor
    order: torch.Tensor
    num_snapshots: int

    @cached_property
    def samples(self) -> Samples:
        """Those that batches are drawn from."""
        return Samples(len(self))

    def __len__(self) -> int:
        """Number of users N."""
        return len(self.clean)

    def draw_rows(self, num: int, generator: torch.Generator) -> torch.Tensor:
        """Draws rows with like numbers of visible patches, int64 [num]."""
        order = self.order if len(self.samples) == len(self) else self.order[self.samples.among(self.order)]
        width = max(1, len(order) // 8)
        start = torch.randint(0, len(order), (1,), generator=generator)
        return order[(start + torch.randint(0, width, (num,), generator=generator)) % len(order)]

    def later(self, rows: torch.Tensor, look_ahead: torch.Tensor) -> torch.Tensor:
        """Clean windows of rows [B] that end look-aheads [B] on, float32 [B, T, L, 2 S]."""
        wanted = look_ahead[:, None] + torch.arange(1 - self.num_snapshots, 1)
        return self.clean[rows[:, None], torch.searchsorted(self.time, wanted)]


def cells_ahead(cell: torch.Tensor, look_ahead: torch.Tensor) -> torch.Tensor:
    """Cells [N] of like share, SNR and look-ahead: 0, 1 to 2, 3 to 6, 7 and more."""
    return cell + NUM_CELLS * torch.log2(1 + look_ahead.float()).floor().long().clamp(max=3)


NUM_CELLS_AHEAD = 4 * NUM_CELLS


def draw_window_examples(
    array: NearFieldConfig,
    config: ExampleConfig,
    visibilities: Sequence[VisibilityConfig],
    patches: Patches,
    num_snapshots: int,
    look_aheads: Sequence[int],
    streams: Streams,
) -> WindowExamples:
    """Draws training examples as examples.draw_examples, of num_snapshots and all look-aheads.

    array: as many snapshots as both need.
    """
    heard_at = times(num_snapshots)
    needed = {int(time) + ahead for time in heard_at.tolist() for ahead in (0, *look_aheads)}
    time = torch.tensor(sorted(needed))
    generator = streams.torch_generator("elaa window examples")
    at_once = max(1, VALUES_AT_ONCE // (array.num_elements * array.num_snapshots))
    dechirper = Dechirper(array)
    inputs, clean, cell = [], [], []
    for begin in range(0, config.num_examples, at_once):
        num = min(at_once, config.num_examples - begin)
        h = draw_channels(array, num, generator).h[:, :, 0]
        visible = draw_visible(array, config.mask_source, visibilities, patches, num, generator)
        share = torch.rand(num, generator=generator)
        snr_db = config.min_snr_db + (config.max_snr_db - config.min_snr_db) * share
        each = [observe(h[:, t], visible, snr_db, generator) for t in range(num_snapshots)]
        heard = Heard(torch.stack([one.y for one in each], dim=1), visible, each[0].noise_var)
        shown, frame = make_window_inputs(heard, dechirper, patches)
        goal = h[:, time + num_snapshots - 1]
        if config.target_snr_db is not None:
            all_of_it = torch.ones_like(visible)
            goal = torch.stack(
                [observe(one, all_of_it, config.target_snr_db, generator).y for one in goal.unbind(dim=1)],
                dim=1,
            )
        inputs.append(shown)
        clean.append(to_numbers(patches.split(frame.enter(goal, time.float()))))
        cell.append(cells(Observed(heard.y[:, -1], visible, heard.noise_var)))
    whole = WindowInputs(
        *(torch.cat([getattr(part, each.name) for part in inputs]) for each in fields(WindowInputs))
    )
    order = whole.visible.sum(dim=1).argsort(stable=True)
    return WindowExamples(whole, torch.cat(clean), time, torch.cat(cell), order, num_snapshots)
