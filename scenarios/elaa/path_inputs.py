"""What the hybrid's network is shown of the paths that NOMP found, and of a learned estimate."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from scenarios.elaa.features import ATOMS_SINE, NOISE_LEVEL, NUM_CONDITIONS, Frame
from scenarios.elaa.inputs import Inputs, mirror_patches, to_numbers, to_values
from scenarios.elaa.nomp import Paths
from scenarios.elaa.observations import Observed
from scenarios.elaa.patches import Patches
from scenarios.elaa.path_posterior import posterior_fields
from scenarios.elaa.path_refinement import PathSet

_ROWS_AT_ONCE = 256
# Numbers of a path, and of a channel, beside those for each patch.
_ALONE_OF_PATH, _ALONE_OF_CHANNEL = 8, NUM_CONDITIONS
_PARTS_OF_PATH, _PARTS_OF_CHANNEL = 6, 7
_PATHS_SINE = 3


@dataclass(frozen=True)
class PathInputs:
    """K paths at most of each of N channels, at L patches of S elements, in the channel's frame.

    field, expected: complex64 [N, K, L, S], of each path as NOMP found it, and its mean over what the path
    may be (`posterior_fields`). variance: float32 [N, K, L], of its phase by the Cramer-Rao bound.
    learned: float32 [N, L, 2 S], a learned estimate. about_path: float32 [N, K, C], about_channel: float32
    [N, C'], see num_numbers. present: bool [N, K].
    """

    field: torch.Tensor
    expected: torch.Tensor
    variance: torch.Tensor
    learned: torch.Tensor
    about_path: torch.Tensor
    about_channel: torch.Tensor
    present: torch.Tensor

    def __len__(self) -> int:
        """Number of channels N."""
        return len(self.field)

    def __getitem__(self, rows: slice | torch.Tensor) -> PathInputs:
        """Those of some channels."""
        return PathInputs(*(getattr(self, part.name)[rows] for part in fields(self)))

    def mean(self) -> torch.Tensor:
        """The expected field of all paths, [N, L, 2 S]."""
        return to_numbers(self.expected.sum(dim=1))

    def mirrored(self) -> PathInputs:
        """The same channels on a line of elements that is numbered from its other end."""
        num_patches = self.variance.shape[2]
        path = _mirror_parts(self.about_path, _ALONE_OF_PATH, num_patches)
        path[..., _PATHS_SINE] *= -1
        channel = _mirror_parts(self.about_channel, _ALONE_OF_CHANNEL, num_patches)
        channel[..., ATOMS_SINE] *= -1
        return PathInputs(
            self.field.flip(2, 3),
            self.expected.flip(2, 3),
            self.variance.flip(2),
            mirror_patches(self.learned),
            path,
            channel,
            self.present,
        )


def num_numbers(num_patches: int) -> tuple[int, int]:
    """How many numbers stand for a path, and for a channel."""
    return (
        _ALONE_OF_PATH + _PARTS_OF_PATH * num_patches,
        _ALONE_OF_CHANNEL + _PARTS_OF_CHANNEL * num_patches,
    )


def make_path_inputs(
    observed: Observed, frame: Frame, inputs: Inputs, learned: torch.Tensor, patches: Patches, paths: Paths
) -> PathInputs:
    """Describes the paths of N channels to a network.

    learned: float32 [N, L, 2 S], another estimate of the channels in the frame, that of a CsiModel.
    """
    parts = []
    for at in range(0, len(observed), _ROWS_AT_ONCE):
        rows = slice(at, at + _ROWS_AT_ONCE)
        some = paths[rows]
        parts.append(_describe(observed[rows], frame[rows], inputs[rows], learned[rows], patches, some))
    return PathInputs(
        *(torch.cat([getattr(part, each.name) for part in parts]) for each in fields(PathInputs))
    )


def _describe(
    observed: Observed, frame: Frame, inputs: Inputs, learned: torch.Tensor, patches: Patches, paths: Paths
) -> PathInputs:
    waves = PathSet(paths.gain, paths.sine, paths.inverse_m).waves(paths.array)
    turn = (frame.rotation.conj() / frame.scale[:, None])[:, None]
    expected = patches.split(posterior_fields(paths, observed) * turn)
    field = patches.split(waves.field * turn)
    variance = patches.split(waves.phase_variance(paths.covariance)).mean(dim=3)
    present = paths.gain.abs() > 0
    there = patches.split(observed.visible)
    y, other = to_values(inputs.y), to_values(learned)
    rest = (y - field.sum(dim=1)) * there
    power = field.abs().square().sum(dim=3)
    # By what complex factor a path is wrong in each patch, and by which it is in the learned estimate.
    noise = patches.patch_size * frame.noise_var[:, None, None]
    misfit = (field.conj() * rest[:, None]).sum(dim=3) / (power + noise)
    agreement = (field.conj() * other[:, None]).sum(dim=3) / (power + 1e-3)
    level = (paths.gain.abs() / frame.scale[:, None]).clamp_min(1e-3).log()
    snr = (paths.gain.abs().square() / observed.noise_var[:, None]).clamp_min(1e-2).log() / 4
    nearness = paths.array.min_distance_m * paths.inverse_m
    alone = torch.stack((present.float(), level, snr, paths.sine, nearness), dim=2)
    sure = paths.covariance.diagonal(dim1=2, dim2=3).clamp_min(1e-8).log10() / 3
    path = (
        alone,
        sure,
        (variance + 1e-4).log10() / 2,
        ((expected.abs().square().mean(dim=3) + 1e-4) / (power / patches.patch_size + 1e-4)).log() / 2,
        *(part.clamp(-2, 2) for z in (misfit, agreement) for part in (z.real, z.imag)),
    )
    kept = (power * (-variance).exp()).sum(dim=1) / power.sum(dim=1).clamp_min(1e-9)
    total = to_values(to_numbers((field * (-variance / 2).exp()[..., None]).sum(dim=1)))
    level_of_noise = (10 ** (2 * inputs.condition[:, NOISE_LEVEL]))[:, None]
    channel = (
        inputs.condition,
        inputs.visible.float(),
        kept,
        _log_power(rest, 1e-2, level_of_noise) * inputs.visible,
        _log_power((y - other) * there, 1e-2, level_of_noise) * inputs.visible,
        _log_power(other, 1e-4),
        _log_power(total - other, 1e-4),
        _log_power(expected.sum(dim=1) - other, 1e-4),
    )
    return PathInputs(
        field,
        expected,
        variance,
        learned,
        torch.cat(path, dim=2) * present[:, :, None],
        torch.cat(channel, dim=1),
        present,
    )


def _log_power(values: torch.Tensor, least: float, unit: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Half the logarithm of the mean power of values [N, L, S] in units of `unit`: [N, L]."""
    return (values.abs().square().mean(dim=2) / unit + least).log() / 2


def _mirror_parts(numbers: torch.Tensor, first: int, num_patches: int) -> torch.Tensor:
    """Turns round what stands for each patch in numbers [..., C], from column `first` on."""
    parts = numbers[..., first:].unflatten(-1, (-1, num_patches)).flip(-1).flatten(-2)
    return torch.cat((numbers[..., :first], parts), dim=-1)
