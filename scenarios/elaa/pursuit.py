"""Orthogonal matching pursuit on a dictionary of steering vectors, for one snapshot or several at once.

Several snapshots (of time, or subcarriers) share their atoms and have gains of their own: simultaneous
pursuit, on a polar dictionary P-SOMP. Shapes: S snapshots, K atoms chosen, A atoms in all.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from scenarios.elaa.dictionaries import Dictionary
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.observations import Observed, check_visible
from semcom.contracts import SemcomError

_BATCH = 64
_SHORT = 1e-6
"""Squared share of an atom outside of those chosen, below which it is taken as one of them."""


@dataclass(frozen=True)
class Sparse:
    """Channels as few atoms. support: int64 [N, K]; gain: complex64 [N, S, K], 0 beyond count: int64 [N]."""

    support: torch.Tensor
    gain: torch.Tensor
    count: torch.Tensor


@dataclass(frozen=True)
class Pursuit:
    """Orthogonal matching pursuit with a ridge re-fit of its atoms' gains.

    Atoms are added one by one, that with the largest sum over snapshots of |a^H residual|^2 first, until the
    residual's energy is below stop x noise_var x visible elements or there are num_atoms. The gains then are
    (A^H A + ridge noise_var I)^-1 A^H y on the visible elements.
    snapshot_atoms: complex64 [S, A, M], each snapshot's own responses (of a wide band), else shared ones.
    Source: Cui and Dai, Channel estimation for extremely large-scale MIMO: far-field or near-field?, IEEE
    Trans. Commun. 70(4), 2022, algorithm 1; the ridge as Hoerl and Kennard 1970.
    """

    dictionary: Dictionary
    num_atoms: int = 8
    stop: float = 1.0
    ridge: float = 1.0
    snapshot_atoms: torch.Tensor | None = None

    def __post_init__(self) -> None:
        """Raises SemcomError for numbers out of range."""
        if not 1 <= self.num_atoms <= len(self.dictionary):
            raise SemcomError(
                f"num_atoms {self.num_atoms} is not from 1 to the dictionary's {len(self.dictionary)}"
            )
        if self.stop < 0 or self.ridge < 0:
            raise SemcomError(f"stop {self.stop} and ridge {self.ridge}: both have to be 0 or more")

    def estimate(self, observed: Observed) -> torch.Tensor:
        """Estimates the channels at all elements, complex64 [N, M]."""
        return self.estimate_jointly(observed.y[:, None], observed.visible, observed.noise_var)[:, 0]

    def estimate_jointly(
        self, y: torch.Tensor, visible: torch.Tensor, noise_var: torch.Tensor
    ) -> torch.Tensor:
        """Estimates snapshots that share their atoms, complex64 [N, S, M].

        y: complex64 [N, S, M], 0 where hidden; visible: bool [N, M]; noise_var: float32 [N].
        Raises SemcomError where no element is visible, or for snapshots that snapshot_atoms aren't for.
        """
        return self.field(self.decompose(y, visible, noise_var))

    def decompose(self, y: torch.Tensor, visible: torch.Tensor, noise_var: torch.Tensor) -> Sparse:
        """Finds each channel's atoms and their gains, from what `estimate_jointly` takes."""
        support, energy = self.choose(y, visible)
        return self.refit(y, visible, noise_var, support, energy)

    def field(self, sparse: Sparse) -> torch.Tensor:
        """The channels that atoms make at all elements, complex64 [N, S, M]."""
        parts = []
        for i in range(0, len(sparse.support), _BATCH):
            rows = slice(i, i + _BATCH)
            atoms = self._chosen(sparse.support[rows])
            if self.snapshot_atoms is None:
                parts.append(sparse.gain[rows] @ atoms[:, 0])
            else:
                parts.append((sparse.gain[rows, :, None] @ atoms)[:, :, 0])
        return torch.cat(parts)

    def choose(self, y: torch.Tensor, visible: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Finds num_atoms atoms: their numbers [N, K] as they came, and the residual's energy [N, K + 1]."""
        check_visible(visible)
        if self.snapshot_atoms is not None and len(self.snapshot_atoms) != y.shape[1]:
            raise SemcomError(
                f"{y.shape[1]} snapshots, and atoms for {len(self.snapshot_atoms)}: give each its own"
            )
        parts = [self._choose(y[i : i + _BATCH], visible[i : i + _BATCH]) for i in range(0, len(y), _BATCH)]
        return torch.cat([each for each, _ in parts]), torch.cat([each for _, each in parts])

    def refit(
        self,
        y: torch.Tensor,
        visible: torch.Tensor,
        noise_var: torch.Tensor,
        support: torch.Tensor,
        energy: torch.Tensor,
    ) -> Sparse:
        """Stops at the count of atoms that `choose` has left little residual with, and fits their gains."""
        support, energy = support[:, : self.num_atoms], energy[:, : self.num_atoms + 1]
        within = self.kept(noise_var * y.shape[1], visible, energy)
        parts = []
        for i in range(0, len(y), _BATCH):
            rows = slice(i, i + _BATCH)
            kept = within[rows]
            basis = self._chosen(support[rows]) * (kept[:, :, None] & visible[rows, None])[:, None]
            load = self.load(noise_var[rows], visible[rows], kept)
            gram = basis.conj() @ basis.mT + torch.diag_embed(load)[:, None]
            # All snapshots of a channel are right-hand sides of one system, or each has a system of its own.
            seen = y[rows].mT[:, None] if self.snapshot_atoms is None else y[rows, :, :, None]
            gain = torch.linalg.solve(gram, basis.conj() @ seen)
            parts.append(gain[:, 0].mT if self.snapshot_atoms is None else gain[..., 0])
        return Sparse(support, torch.cat(parts), within.sum(dim=1))

    def kept(self, noise_var: torch.Tensor, visible: torch.Tensor, energy: torch.Tensor) -> torch.Tensor:
        """Which atoms come before the stop, bool [N, K], K no more than num_atoms; see `choose`.

        noise_var: float32 [N], of all snapshots together.
        """
        limit = self.stop * noise_var * visible.sum(dim=1)
        count = (energy[:, : self.num_atoms + 1][:, :-1] > limit[:, None]).sum(dim=1)
        return torch.arange(min(self.num_atoms, energy.shape[1] - 1)) < count[:, None]

    def load(self, noise_var: torch.Tensor, visible: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """What is added to the diagonal of the atoms' Gram matrices: float32 [N, K]."""
        load = torch.where(kept, self.ridge * noise_var[:, None], 1.0)
        # Without ridge or noise, atoms may be so much alike that only this keeps their gains apart.
        return load + 1e-6 * visible.sum(dim=1, keepdim=True)

    def _chosen(self, support: torch.Tensor) -> torch.Tensor:
        """Atoms of some numbers [B, K]: [B, 1, K, M], or with snapshot_atoms [B, S, K, M]."""
        if self.snapshot_atoms is None:
            return self.dictionary.atoms[support][:, None]
        return self.snapshot_atoms[:, support].transpose(0, 1)

    def _choose(self, y: torch.Tensor, visible: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`choose` for a batch: the residual is kept orthogonal to all atoms so far by Gram and Schmidt."""
        atoms = self.dictionary.atoms[None] if self.snapshot_atoms is None else self.snapshot_atoms
        residual = torch.where(visible[:, None], y, 0)
        num, num_snapshots, width = residual.shape
        basis = torch.zeros((num, len(atoms), self.num_atoms, width), dtype=torch.complex64)
        support = torch.zeros((num, self.num_atoms), dtype=torch.int64)
        energy = [residual.abs().square().sum(dim=(1, 2))]
        for number in range(self.num_atoms):
            by_snapshot = residual.transpose(0, 1).reshape(len(atoms), -1, width)
            # A batch of one would have its atoms conjugated and copied each time.
            inner = by_snapshot[0] @ atoms[0].mH if len(atoms) == 1 else by_snapshot @ atoms.mH
            parts = torch.view_as_real(inner)
            match = parts[..., 0].square().addcmul_(parts[..., 1], parts[..., 1])
            strength = match if num_snapshots == 1 else match.reshape(num_snapshots, num, -1).sum(dim=0)
            support[:, number] = best = strength.argmax(dim=1)
            fresh = torch.where(visible[:, None], atoms[:, best].transpose(0, 1), 0)
            before = fresh.abs().square().sum(dim=-1, keepdim=True)
            # Twice, because once leaves what float32 rounds of atoms much alike.
            for _ in range(2):
                share = basis[:, :, :number].conj() @ fresh[..., None]
                fresh = fresh - (share.mT @ basis[:, :, :number])[:, :, 0]
            power = fresh.abs().square().sum(dim=-1, keepdim=True)
            fresh = torch.where(power > _SHORT * before, fresh * power.clamp(min=1e-30).rsqrt(), 0)
            basis[:, :, number] = fresh
            residual = residual - (fresh.conj() * residual).sum(dim=-1, keepdim=True) * fresh
            energy.append(residual.abs().square().sum(dim=(1, 2)))
        return support, torch.stack(energy, dim=1)


def tune_pursuit(
    dictionary: Dictionary,
    observed: Observed,
    truth: torch.Tensor,
    num_atoms: Sequence[int] = (2, 3, 4, 6, 8, 12, 16, 24),
    stops: Sequence[float] = (0.0, 0.8, 1.0, 1.3),
    ridges: Sequence[float] = (0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0),
) -> Pursuit:
    """Chooses the number of atoms, the residual's stop and the ridge that are best on validation data.

    truth: complex64 [N, M]. The best ones are those of the least mean |h_hat - h|^2 / |h|^2.
    """
    longest = Pursuit(dictionary, min(max(num_atoms), len(dictionary)))
    support, energy = longest.choose(observed.y[:, None], observed.visible)
    atoms = dictionary.atoms[support]
    seen = torch.where(observed.visible[:, None], atoms, 0)
    # Errors are quadratic in the gains: products with atoms are made once for all settings.
    seen_gram, seen_match = seen.conj() @ seen.mT, (seen.conj() @ observed.y[..., None])[..., 0]
    gram, match = atoms.conj() @ atoms.mT, (atoms.conj() @ truth[..., None])[..., 0]
    power = truth.abs().square().sum(dim=1)
    best, least = longest, float("inf")
    for num, stop in itertools.product(num_atoms, stops):
        if num > len(dictionary):
            continue
        pursuit = replace(longest, num_atoms=num, stop=stop)
        kept = pursuit.kept(observed.noise_var, observed.visible, energy)
        both = kept[:, :, None] & kept[:, None]
        normal = torch.where(both, seen_gram[:, :num, :num], 0)
        right = torch.where(kept, seen_match[:, :num], 0)
        for ridge in ridges:
            pursuit = replace(pursuit, ridge=ridge)
            load = pursuit.load(observed.noise_var, observed.visible, kept)
            gain = torch.linalg.solve(normal + torch.diag_embed(load), right)
            field = (gram[:, :num, :num] @ gain[..., None])[..., 0]
            error = power + (gain.conj() * (field - 2 * match[:, :num])).real.sum(dim=1)
            mean = float((error / power).mean())
            if mean < least:
                best, least = pursuit, mean
    return best


def subcarrier_atoms(array: LineArray, dictionary: Dictionary, offset_hz: torch.Tensor) -> torch.Tensor:
    """Responses of a dictionary's places at subcarriers offset_hz [S] from the carrier: complex64 [S, A, M].

    A place keeps its angle and distance on all of them, while its steering vector turns with the frequency
    (beam squint); gains take up the delay. The array's elements stay where they are.
    """
    carrier_hz = 299_792_458.0 / array.wavelength_m
    atoms = []
    for offset in offset_hz.tolist():
        ratio = 1 + offset / carrier_hz
        scaled = replace(
            array,
            wavelength_m=array.wavelength_m / ratio,
            spacing_wavelengths=array.spacing_wavelengths * ratio,
        )
        atoms.append(scaled.response(dictionary.sine, dictionary.inverse_m))
    return torch.stack(atoms)
