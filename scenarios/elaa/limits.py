"""What an array, its visibility and its estimators can't do, found before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from channels.near_field import NearFieldConfig
from channels.visibility import BlockVisibility, VisibilityConfig, draw_visibility
from scenarios.elaa.band_search import COHERENCE_SCALE, OVERSAMPLING
from scenarios.elaa.data import visibility_of
from scenarios.elaa.dictionaries import MAX_BYTES, polar_bytes
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.nomp import Nomp, nomp_prior
from scenarios.elaa.path_search import check_search
from semcom.contracts import SemcomError
from semcom.rng import Streams

# Shares that are nearer than this have one label in tables, and one random stream.
_SHARE_STEP = 0.01
_MOST_EXAMPLE_BYTES = 6_000_000_000


def check_shares(
    visibility: VisibilityConfig, array: NearFieldConfig, key: str, shares: Sequence[float]
) -> None:
    """Raises SemcomError, naming the key, for visible shares that the visibility model can't have.

    A result is named by its share: blocks have to leave just that, full visibility hides nothing, and of
    the models that know no share all results below 1 would be the same.
    """
    partial = [share for share in shares if share < 1]
    if visibility.kind == "full" and partial:
        raise SemcomError(
            f"{key} holds {partial[0]:g}, and visibility.kind = full hides nothing: take a share of 1, or "
            "kind = blocks"
        )
    if visibility.kind in ("stochastic", "blocker") and len(partial) > 1:
        raise SemcomError(
            f"{key} holds {len(partial)} shares below 1, and visibility.kind = {visibility.kind} knows no "
            "share, so that they are all alike: keep one"
        )
    for share in shares:
        told = visibility_of(visibility, share)
        try:
            draw_visibility(told, array, 1, Streams(0).torch_generator("elaa-check"))
        except SemcomError as error:
            raise SemcomError(f"{key}: visibility.{error}") from None
        if isinstance(told, BlockVisibility):
            _check_blocks(key, share, array.num_elements // told.subarray_size)


def _check_blocks(key: str, share: float, num_parts: int) -> None:
    left = round(share * num_parts) / num_parts
    if abs(left - share) >= _SHARE_STEP:
        raise SemcomError(
            f"{key} holds {share:g}, and {num_parts} sub-arrays can't be visible to that share: take {left:g}"
        )


def check_paths(array: NearFieldConfig) -> None:
    """Raises SemcomError for an array on which NOMP, with which hybrids are trained too, can't search."""
    line = LineArray.of(array)
    nomp = Nomp(line, nomp_prior(line))
    check_search(line, nomp.oversampling, nomp.coherence_scale)


def check_polar(key: str, array: NearFieldConfig) -> None:
    """Raises SemcomError, naming the key that asks for it, for a polar dictionary that takes too much."""
    if (size := polar_bytes(LineArray.of(array))) > MAX_BYTES:
        raise SemcomError(
            f"{key} needs a polar dictionary, which for {array.num_elements:,} elements takes "
            f"{size / 1e9:.1f} GB, above {MAX_BYTES / 1e9:.1f} GB: take fewer elements, a larger "
            "array.min_distance_m, or leave it out"
        )


def check_band(methods: Sequence[str], wide: NearFieldConfig, num_examples: int) -> None:
    """Raises SemcomError for a band whose waves can't be searched, or whose atoms or examples take too much.

    methods: those of the band result; wide: the array with its subcarriers; num_examples: of training.
    """
    num, top = wide.num_subcarriers, 1 + float(wide.offsets_hz()[-1]) / wide.carrier_hz
    told = f"evaluation.num_subcarriers = {num}"
    if float(wide.offsets_hz()[0]) <= -wide.carrier_hz:
        raise SemcomError(
            f"array.bandwidth_hz = {wide.bandwidth_hz:g} reaches below 0 Hz from array.carrier_hz = "
            f"{wide.carrier_hz:g}: lower it"
        )
    if wide.spacing_wavelengths * top * LineArray.of(wide).max_sine >= 0.5:
        raise SemcomError(
            f"array.bandwidth_hz = {wide.bandwidth_hz:g}: elements are {wide.spacing_wavelengths * top:.2f} "
            "wavelengths apart on the highest subcarrier, where angles are ambiguous: lower it, or "
            "array.spacing_wavelengths"
        )
    for name, size in (
        ("p-somp", polar_bytes(LineArray.of(wide))),
        ("nomp-band", polar_bytes(LineArray.of(wide), OVERSAMPLING, COHERENCE_SCALE)),
    ):
        if name in methods and num * size > MAX_BYTES:
            raise SemcomError(
                f"{name} in evaluation.band_methods: {told} dictionaries for {wide.num_elements:,} elements "
                f"take {num * size / 1e9:.1f} GB, above {MAX_BYTES / 1e9:.1f} GB: take fewer of either"
            )
    # What is received, and the targets, in real numbers of 4 bytes.
    size = 16 * num_examples * num * wide.num_elements
    if "elaa-jepa-band" in methods and size > _MOST_EXAMPLE_BYTES:
        raise SemcomError(
            f"elaa-jepa-band in evaluation.band_methods: {told}, {wide.num_elements:,} elements and "
            f"examples.num_examples = {num_examples:,} take {size / 1e9:.1f} GB, above "
            f"{_MOST_EXAMPLE_BYTES / 1e9:.1f} GB: lower one of them"
        )
