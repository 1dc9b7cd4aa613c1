"""The hybrid: NOMP's paths and a learned estimate, and a network that says how far each can be relied on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from channels.near_field import NearFieldConfig
from scenarios.elaa.features import Dechirper
from scenarios.elaa.inputs import make_inputs, mirror_patches, to_numbers, to_values
from scenarios.elaa.models import CsiModel, ModelConfig
from scenarios.elaa.nomp import Nomp, Paths
from scenarios.elaa.observations import Observed
from scenarios.elaa.patches import Patches
from scenarios.elaa.path_inputs import PathInputs, make_path_inputs, num_numbers
from scenarios.elaa.shrinking import NOMP_SHRINK, Shrink, ShrunkNomp, fit_change, tune_shrink
from semcom.vit import Transformer

_UNRELIABLE = -5.0
_SURE_VARIANCE = 0.01
"""Of a path's phase in a patch (rad^2), below which the path is hardly touched."""
_ROWS_AT_ONCE = 512


class PathCombiner(nn.Module):
    """Combines paths and a learned estimate, patch by patch: PathInputs to patches [N, L, 2 S].

    h'_l = w_l sum_p [(1 + d_pl) E_pl + c_pl exp(-v_pl / 2) e_pl] + (1 - w_l) r_l

    e_pl is the field of path p in patch l as NOMP found it, v_pl its phase's variance, E_pl the mean over
    what the path may be; d_pl and c_pl, complex, are how reliable the path is there beyond that, and by what
    phase it has to be turned; w_l in [0, 1] is the reliability of all paths together, and r_l the learned
    estimate, so that (1 - w) r is the residual. d, c and w are read off the tokens of the paths and of the
    channel; d and c times sqrt(v / (v + 0.01)), so that a path that is sure stays what it is. It starts from
    the expected field, d = c = 0 and w near 1.
    """

    def __init__(self, config: ModelConfig, num_patches: int) -> None:
        super().__init__()
        self.num_patches = num_patches
        num_path, num_channel = num_numbers(num_patches)
        self.path = nn.Linear(num_path, config.combiner_dim)
        self.channel = nn.Linear(num_channel, config.combiner_dim)
        self.body = Transformer(
            config.combiner_dim, config.combiner_depth, config.num_heads, config.mlp_ratio
        )
        self.factor = nn.Linear(config.combiner_dim, 4 * num_patches)
        self.mixing = nn.Linear(config.combiner_dim, num_patches)
        with torch.no_grad():
            self.factor.weight.mul_(0.02)
            self.factor.bias.zero_()
            self.mixing.weight.mul_(0.1)
            self.mixing.bias.fill_(_UNRELIABLE)

    def forward(self, inputs: PathInputs) -> torch.Tensor:
        """Combines the estimates: see the class."""
        channel = self.channel(inputs.about_channel)[:, None]
        tokens = torch.cat((self.path(inputs.about_path) + channel, channel), dim=1)
        there = torch.cat((inputs.present, inputs.present.new_ones(len(inputs), 1)), dim=1)
        z = self.body(tokens, there)
        unsure = (inputs.variance / (inputs.variance + _SURE_VARIANCE)).sqrt()
        of_expected, of_found = (
            to_values(factor) * unsure for factor in self.factor(z[:, :-1]).chunk(2, dim=2)
        )
        expected = (inputs.expected * (1 + of_expected)[..., None]).sum(dim=1)
        faded = of_found * (-inputs.variance / 2).exp()
        field = to_numbers(expected + (inputs.field * faded[..., None]).sum(dim=1))
        learned_share = torch.sigmoid(self.mixing(z[:, -1]))[:, :, None]
        return (1 - learned_share) * field + learned_share * inputs.learned


class HybridEstimator:
    """A trained CsiModel, NOMP and a trained PathCombiner as one estimator."""

    def __init__(
        self, model: CsiModel, combiner: PathCombiner, nomp: Nomp, config: NearFieldConfig, patch_size: int
    ) -> None:
        self.model = model
        self.combiner = combiner
        self.nomp = nomp
        self.patches = Patches(config, patch_size)
        self.dechirper = Dechirper(config)

    @torch.no_grad()
    def estimate(self, observed: Observed, paths: Paths | None = None) -> torch.Tensor:
        """Estimates the channels at all elements, complex64 [N, M]; paths: what NOMP found, if known."""
        paths = self.nomp.paths(observed) if paths is None else paths
        inputs, frame = make_inputs(observed, self.dechirper, self.patches)
        starts = range(0, len(observed), _ROWS_AT_ONCE)
        learned = torch.cat([self.model(inputs[at : at + _ROWS_AT_ONCE]) for at in starts])
        described = make_path_inputs(observed, frame, inputs, learned, self.patches, paths)
        h = torch.cat([self._combine(described[at : at + _ROWS_AT_ONCE]) for at in starts])
        return frame.restore(self.patches.join(to_values(h)))

    def _combine(self, described: PathInputs) -> torch.Tensor:
        """The network's answer, averaged with that of a line numbered from its other end: [N, L, 2 S]."""
        h = self.combiner(described)
        if self.patches.grid[0] > 1:
            return h
        return (h + mirror_patches(self.combiner(described.mirrored()))) / 2


@dataclass(frozen=True)
class StackedHybrid:
    """Shrunk NOMP's estimate, and as much of what a hybrid changes in it as validation channels bear out."""

    base: ShrunkNomp
    hybrid: HybridEstimator
    change: Shrink

    def estimate(self, observed: Observed) -> torch.Tensor:
        """Estimates the channels at all elements, complex64 [N, M]."""
        return self.field(self.base.nomp.paths(observed), observed)

    def field(self, paths: Paths, observed: Observed) -> torch.Tensor:
        """The same, of the paths that NOMP found."""
        base = self.base.field(paths, observed)
        return base + self.change.apply(self.hybrid.estimate(observed, paths) - base, observed.visible)


def tune_stacked(
    hybrid: HybridEstimator, observed: Observed, truth: torch.Tensor, paths: Paths | None = None
) -> StackedHybrid:
    """Fits at one operating point how much of a hybrid's change is believed, on validation channels.

    truth: complex64 [N, M]; paths: what NOMP found of them, if known.
    """
    paths = hybrid.nomp.paths(observed) if paths is None else paths
    base = tune_shrink(hybrid.nomp, observed, truth, *NOMP_SHRINK, paths=paths)
    changed = hybrid.estimate(observed, paths)
    change = fit_change(base.field(paths, observed), changed, observed.visible, truth)
    return StackedHybrid(base, hybrid, change)
