"""What the learned estimators of the ELAA scenario are shown, in the frame of the strongest path."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

from scenarios.elaa.features import Dechirper, Frame
from scenarios.elaa.nomp import Paths
from scenarios.elaa.observations import Observed
from scenarios.elaa.patches import Patches
from scenarios.elaa.path_refinement import PathSet

_ROWS_AT_ONCE = 256
PATH_NUMBERS = 8
"""Numbers of a path beside those for each patch."""
_SINE_OF_FRAME, _SINE_OF_PATH = 1, 3


@dataclass(frozen=True)
class PathInputs:
    """Paths that a classical method found, K of each channel at most.

    field: complex64 [N, K, L, S], of each path at each patch's elements, in the frame. variance: float32
    [N, K, L], of its phase there by the Cramer-Rao bound. about: float32 [N, K, PATH_NUMBERS + 3 L].
    present: bool [N, K].
    """

    field: torch.Tensor
    variance: torch.Tensor
    about: torch.Tensor
    present: torch.Tensor

    def total(self) -> torch.Tensor:
        """The paths' field with each faded by its phase's variance, sum_p e_p exp(-v_p / 2): [N, L, S]."""
        return (self.field * (-self.variance / 2).exp()[..., None]).sum(dim=1)


@dataclass(frozen=True)
class Inputs:
    """N channels as a network sees them: L patches of S elements in the frame.

    y: float32 [N, L, 2 S], real and imaginary parts in turn, 0 where hidden; there: float32 [N, L, S], 1 at
    visible elements; visible: bool [N, L], patches with a visible element; condition: float32
    [N, NUM_CONDITIONS]; paths: of a hybrid, or None.
    """

    y: torch.Tensor
    there: torch.Tensor
    visible: torch.Tensor
    condition: torch.Tensor
    paths: PathInputs | None = None

    def __len__(self) -> int:
        """Number of channels N."""
        return len(self.y)

    def __getitem__(self, rows: slice | torch.Tensor) -> Inputs:
        """Those of some channels."""
        paths = None
        if self.paths is not None:
            paths = PathInputs(*(getattr(self.paths, part.name)[rows] for part in fields(PathInputs)))
        return Inputs(self.y[rows], self.there[rows], self.visible[rows], self.condition[rows], paths)

    def mirrored(self) -> Inputs:
        """The same channels on a line of elements that is numbered from its other end."""
        condition = self.condition.clone()
        condition[:, _SINE_OF_FRAME] *= -1
        paths = self.paths
        if paths is not None:
            num_patches = paths.variance.shape[2]
            about = paths.about.clone()
            about[:, :, _SINE_OF_PATH] *= -1
            for at in range(PATH_NUMBERS, about.shape[2], num_patches):
                about[:, :, at : at + num_patches] = about[:, :, at : at + num_patches].flip(2)
            paths = PathInputs(paths.field.flip(2, 3), paths.variance.flip(2), about, paths.present)
        return Inputs(mirror_patches(self.y), self.there.flip(1, 2), self.visible.flip(1), condition, paths)

    def hiding(self, hidden: torch.Tensor) -> Inputs:
        """The same channels with more patches hidden, bool [N, L]; without paths, which knew of them."""
        visible = self.visible & ~hidden
        there = self.there * visible[..., None]
        condition = self.condition.clone()
        condition[:, -1] = there.mean(dim=(1, 2))
        return Inputs(self.y * visible[..., None], there, visible, condition)

    def whole(self, h: torch.Tensor) -> Inputs:
        """What a target encoder sees: all of the clean channels h [N, L, 2 S], no noise, no paths."""
        condition = self.condition.clone()
        condition[:, 0] = NO_NOISE
        condition[:, -1] = 1.0
        ones = torch.ones_like(self.there)
        return Inputs(h, ones, torch.ones_like(self.visible), condition, None)


NO_NOISE = -3.0
"""The condition's noise level of a clean channel."""


def mirror_patches(numbers: torch.Tensor) -> torch.Tensor:
    """Numbers [N, L, 2 S] of patches of a line of elements that is numbered from its other end."""
    return numbers.unflatten(2, (-1, 2)).flip(1, 2).flatten(2)


def to_numbers(values: torch.Tensor) -> torch.Tensor:
    """Complex values [..., S] as real numbers [..., 2 S]."""
    return torch.view_as_real(values.contiguous()).flatten(-2)


def to_values(numbers: torch.Tensor) -> torch.Tensor:
    """Real numbers [..., 2 S] as complex values [..., S]."""
    return torch.view_as_complex(numbers.float().unflatten(-1, (-1, 2)).contiguous())


def make_inputs(
    observed: Observed, dechirper: Dechirper, patches: Patches, paths: Paths | None = None
) -> tuple[Inputs, Frame]:
    """Turns what an array observed into a network's inputs, and the frame that takes estimates back.

    paths: what a classical method has found of the same channels, for a hybrid.
    """
    frame = dechirper(observed)
    y = patches.split(frame.turn(observed.y))
    there = patches.split(observed.visible)
    found = None if paths is None else _path_inputs(observed, frame, patches, paths)
    inputs = Inputs(to_numbers(y), there.float(), there.any(dim=2), frame.condition, found)
    return inputs, frame


def _path_inputs(observed: Observed, frame: Frame, patches: Patches, paths: Paths) -> PathInputs:
    parts = []
    for at in range(0, len(observed), _ROWS_AT_ONCE):
        rows = slice(at, at + _ROWS_AT_ONCE)
        some = replace(
            paths,
            gain=paths.gain[rows],
            sine=paths.sine[rows],
            inverse_m=paths.inverse_m[rows],
            count=paths.count[rows],
            covariance=paths.covariance[rows],
        )
        parts.append(_path_inputs_of(observed[rows], frame[rows], patches, some))
    return PathInputs(
        *(torch.cat([getattr(part, each.name) for part in parts]) for each in fields(PathInputs))
    )


def _path_inputs_of(observed: Observed, frame: Frame, patches: Patches, paths: Paths) -> PathInputs:
    waves = PathSet(paths.gain, paths.sine, paths.inverse_m).waves(paths.array)
    turn = (frame.rotation.conj() / frame.scale[:, None])[:, None]
    field = waves.field * turn
    variance = patches.split(waves.phase_variance(paths.covariance)).mean(dim=3)
    rest = (frame.turn(observed.y) - field.sum(dim=1)) * observed.visible
    field = patches.split(field)
    # How much of each path is left over in each patch: by what complex factor the path is wrong there.
    power = field.abs().square().sum(dim=3) + patches.patch_size * frame.noise_var[:, None, None]
    misfit = (field.conj() * patches.split(rest)[:, None]).sum(dim=3) / power
    present = paths.gain.abs() > 0
    level = (paths.gain.abs() / frame.scale[:, None]).clamp_min(1e-3).log()
    snr = (paths.gain.abs().square() / observed.noise_var[:, None]).clamp_min(1e-2).log() / 4
    sure = paths.covariance.diagonal(dim1=2, dim2=3).clamp_min(1e-8).log10() / 3
    alone = torch.stack(
        (present.float(), level, snr, paths.sine, paths.array.min_distance_m * paths.inverse_m), dim=2
    )
    about = torch.cat(
        (
            alone,
            sure,
            (variance + 1e-4).log10() / 2,
            misfit.real.clamp(-2, 2),
            misfit.imag.clamp(-2, 2),
        ),
        dim=2,
    )
    return PathInputs(field, variance, about * present[:, :, None], present)


def num_path_numbers(num_patches: int) -> int:
    """Numbers that a path's token is made of."""
    return PATH_NUMBERS + 3 * num_patches
