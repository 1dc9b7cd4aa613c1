"""Which elements of an extremely large array see a user: an amplitude factor for each element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from channels.near_field import NearFieldConfig, draw_users_m, element_positions_m
from channels.shadows import screen_amplitude
from semcom.contracts import SemcomError

VISIBLE_ABOVE = 0.5
"""An element is visible where its amplitude factor is above this: it loses less than 6 dB, which is what an
edge takes right at the border of its geometric shadow."""

_MAX_REDRAWS = 100
_MIN_SHARE = 0.01


class FullVisibility(BaseModel):
    """All elements see the user."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["full"] = "full"


class BlockVisibility(BaseModel):
    """One or two runs of whole sub-arrays are hidden, so that a share of the array is left.

    One run or two are as likely, lengths and places uniform over what is possible. Elements count in their
    order, row by row.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["blocks"] = "blocks"
    share: float = Field(0.5, gt=0, le=1, description="share of the array that is visible")
    subarray_size: int = Field(16, ge=1, le=4096, description="elements of a sub-array, one after the other")


class MarkovVisibility(BaseModel):
    """Visible runs are born and die from column to column: a two-state Markov chain along the array.

    Runs have geometric lengths of means L_v = mean_visible and L_h = L_v (1 - share) / share; the chain
    starts in its stationary state, so that each column is visible with probability `share`; a column's rows
    are alike. Draws with nothing visible are drawn again, which favours visible columns where runs are long
    against the array. The birth-death process along an array's elements is that of clusters in Wu et al.
    2014 (IEEE JSAC 32(6)), which dies by distance; here the user's own visibility is born and dies.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["markov"] = "markov"
    share: float = Field(0.5, gt=0, le=1, description="share of the array that is visible, on average")
    mean_visible: float = Field(64, ge=1, le=1e5, description="mean length of a visible run, in columns")


class StochasticVisibility(BaseModel):
    """3GPP's stochastic model of spatial non-stationarity, made simple: one visibility region.

    With partial_probability the user sees a part of the array only. The part's share V of the array's area
    is normal, mean_share and std_share, truncated to 0.01..1; the region is a rectangle, of V^u of the rows
    with u uniform (all of a single row) and V^(1-u) of the columns, anywhere in the array. Outside it an
    element is attenuated by roll_off_db for each wavelength to the region, at most by max_attenuation_db.

    TR 38.901 version 19 (7.6, spatial non-stationarity; see arXiv 2506.17887) draws a visibility
    probability, a region and the attenuation of the elements for each cluster, by tables for its scenarios.
    What is above was written from memory of that outline and not from its tables: the numbers are plain
    choices, and the region is one for all paths, because they are dominated by the direct one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["stochastic"] = "stochastic"
    partial_probability: float = Field(0.8, ge=0, le=1, description="probability that a part is hidden")
    mean_share: float = Field(0.5, gt=0, le=1, description="mean of the visible share, before truncation")
    std_share: float = Field(0.2, ge=0, le=1, description="its standard deviation, before truncation")
    roll_off_db: float = Field(3, gt=0, le=100, description="attenuation for each wavelength from the region")
    max_attenuation_db: float = Field(30, ge=7, le=200, description="most attenuation of an element")


class BlockerVisibility(BaseModel):
    """An upright screen between the user and the array: Fresnel diffraction at each element.

    Width and distance are uniform, and so is where the middle of the shadow falls, as far to the sides as
    the shadow still touches the array. The shadow is that of the user's direct path, and taken for all paths:
    see screen_amplitude.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["blocker"] = "blocker"
    min_width_m: float = Field(0.2, gt=0, le=100, description="narrowest screen")
    max_width_m: float = Field(0.8, gt=0, le=100, description="widest screen")
    height_m: float = Field(1.7, gt=0, le=100, description="height of the screen")
    min_away_m: float = Field(1, gt=0, le=1e4, description="nearest screen, before the array's centre")
    max_away_m: float = Field(3, gt=0, le=1e4, description="farthest screen")


VisibilityConfig = Annotated[
    FullVisibility | BlockVisibility | MarkovVisibility | StochasticVisibility | BlockerVisibility,
    Field(discriminator="kind"),
]


def draw_visibility(
    config: VisibilityConfig,
    array_config: NearFieldConfig,
    num: int,
    generator: torch.Generator,
    user_m: torch.Tensor | None = None,
) -> torch.Tensor:
    """Draws amplitude factors in [0, 1] of each element for `num` users, float32 [N, M].

    An element is visible where its factor is above VISIBLE_ABOVE. Draws with no visible element are drawn
    again. user_m: float64 [N, 3], places of the users, which matter to a blocker alone; drawn where there
    are none. Raises SemcomError for settings that don't go together, users behind the array or nearer than
    a blocker, and where a hundred draws in a row leave some user without a visible element.
    """
    if user_m is not None and user_m.shape != (num, 3):
        raise SemcomError(f"user_m is {list(user_m.shape)} for {num} users: give places [{num}, 3]")
    draw = _drawer(config, array_config, generator)
    factor = draw(num, user_m)
    for _ in range(_MAX_REDRAWS):
        is_dark = (factor <= VISIBLE_ABOVE).all(dim=1)
        if not bool(is_dark.any()):
            return factor
        factor[is_dark] = draw(int(is_dark.sum()), None if user_m is None else user_m[is_dark])
    raise SemcomError(
        f"visibility = {config.kind} leaves {int(is_dark.sum())} of {num} users no visible element in "
        f"{_MAX_REDRAWS} draws: let more of the array be visible"
    )


def _drawer(
    config: VisibilityConfig, array_config: NearFieldConfig, generator: torch.Generator
) -> Callable[[int, torch.Tensor | None], torch.Tensor]:
    element_m = element_positions_m(array_config)
    if isinstance(config, FullVisibility):
        return lambda num, user_m: torch.ones((num, array_config.num_elements))
    if isinstance(config, BlockVisibility):
        return lambda num, user_m: _blocks(config, array_config.num_elements, num, generator)
    if isinstance(config, MarkovVisibility):
        return lambda num, user_m: _markov(config, array_config, num, generator)
    if isinstance(config, StochasticVisibility):
        return lambda num, user_m: _stochastic(config, array_config, num, generator)
    _check_blocker(config, array_config)
    return lambda num, user_m: _shadows(
        config,
        array_config,
        element_m,
        draw_users_m(array_config, num, generator) if user_m is None else user_m,
        generator,
    )


def _blocks(config: BlockVisibility, num_elements: int, num: int, generator: torch.Generator) -> torch.Tensor:
    num_parts = num_elements // config.subarray_size
    if num_elements % config.subarray_size:
        raise SemcomError(
            f"subarray_size = {config.subarray_size} doesn't divide num_elements = {num_elements}: change one"
        )
    num_left = round(config.share * num_parts)
    if num_left == 0:
        raise SemcomError(
            f"share = {config.share:g} of {num_parts} sub-arrays leaves no visible element: raise share"
        )
    num_hidden = num_parts - num_left
    drawn = torch.rand((num, 4), dtype=torch.float64, generator=generator)
    # Two runs need two hidden sub-arrays and a visible one between them.
    is_double = (drawn[:, 0] < 0.5) & (num_hidden > 1)
    first = torch.where(is_double, 1 + (drawn[:, 1] * (num_hidden - 1)).floor(), num_hidden)
    # How much is visible before the first run and before the second: two different numbers of 0 to num_left.
    one, other = (drawn[:, 2] * (num_left + 1)).floor(), (drawn[:, 3] * num_left).floor()
    other += other >= one
    begin, gap = torch.where(is_double, torch.minimum(one, other), one), (other - one).abs()
    part = torch.arange(num_parts)
    begin, first, gap = begin[:, None], first[:, None], gap[:, None]
    second = begin + first + gap
    is_hidden = (part >= begin) & (part < begin + first)
    is_hidden |= is_double[:, None] & (part >= second) & (part < second + num_hidden - first)
    return (~is_hidden).to(torch.float32).repeat_interleave(config.subarray_size, dim=1)


def _markov(
    config: MarkovVisibility, array_config: NearFieldConfig, num: int, generator: torch.Generator
) -> torch.Tensor:
    dies = 1 / config.mean_visible
    born = 1.0 if config.share == 1 else dies * config.share / (1 - config.share)
    if config.share < 1 and born > 1:
        raise SemcomError(
            f"share = {config.share:g} with mean_visible = {config.mean_visible:g} makes hidden runs shorter "
            "than a column: raise mean_visible or lower share"
        )
    num_columns = array_config.num_elements // array_config.num_rows
    drawn = torch.rand((num, num_columns), dtype=torch.float64, generator=generator).T
    is_visible = torch.empty((num_columns, num), dtype=torch.bool)
    is_visible[0] = drawn[0] < config.share
    stays, comes = drawn >= (dies if config.share < 1 else 0.0), drawn < born
    for column in range(1, num_columns):
        torch.where(is_visible[column - 1], stays[column], comes[column], out=is_visible[column])
    return is_visible.T.repeat(1, array_config.num_rows).to(torch.float32)


def _stochastic(
    config: StochasticVisibility, array_config: NearFieldConfig, num: int, generator: torch.Generator
) -> torch.Tensor:
    num_rows = array_config.num_rows
    num_columns = array_config.num_elements // num_rows
    drawn = torch.rand((num, 5), dtype=torch.float64, generator=generator)
    share = _truncated_normal(config.mean_share, config.std_share, drawn[:, 0])
    share = torch.where(drawn[:, 1] < config.partial_probability, share, 1.0)
    of_rows = share ** (drawn[:, 2] if num_rows > 1 else 0.0)
    away = torch.zeros((num, num_rows, num_columns), dtype=torch.float64)
    for size, of_size, place, shape in (
        (num_rows, of_rows, drawn[:, 3], (1, -1, 1)),
        (num_columns, share / of_rows, drawn[:, 4], (1, 1, -1)),
    ):
        length = (of_size * size).round().clamp(min=1)[:, None, None]
        begin = (place[:, None, None] * (size - length + 1)).floor()
        number = torch.arange(size).reshape(shape)
        away += torch.maximum(begin - number, number - (begin + length - 1)).clamp(min=0).square()
    loss_db = config.roll_off_db * array_config.spacing_wavelengths * away.sqrt()
    factor = 10 ** (-loss_db.clamp(max=config.max_attenuation_db) / 20)
    return factor.flatten(1).to(torch.float32)


def _truncated_normal(mean: float, std: float, uniform: torch.Tensor) -> torch.Tensor:
    if std == 0:
        return torch.full_like(uniform, max(mean, _MIN_SHARE))
    low, high = (torch.special.ndtr(torch.tensor((end - mean) / std)).item() for end in (_MIN_SHARE, 1.0))
    return (mean + std * torch.special.ndtri(low + (high - low) * uniform)).clamp(_MIN_SHARE, 1.0)


def _shadows(
    config: BlockerVisibility,
    array_config: NearFieldConfig,
    element_m: torch.Tensor,
    user_m: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    distance_m = user_m.norm(dim=-1)
    if not bool(((user_m[:, 0] > 0) & (distance_m > config.max_away_m)).all()):
        raise SemcomError(
            f"a user is behind the array or nearer than max_away_m = {config.max_away_m:g}: a blocker stands "
            "between the two"
        )
    drawn = torch.rand((len(user_m), 4), dtype=torch.float64, generator=generator)
    away_m = config.min_away_m + (config.max_away_m - config.min_away_m) * drawn[:, 2]
    width_m = config.min_width_m + (config.max_width_m - config.min_width_m) * drawn[:, 3]
    extent_m = element_m.amax(dim=0) - element_m.amin(dim=0)
    # In the array's plane the shadow is wider than the screen: the user is near, and to the side.
    shadow_m = width_m * distance_m / (distance_m - away_m) * distance_m / user_m[:, 0]
    aim_m = torch.zeros_like(user_m)
    aim_m[:, 1] = (extent_m[1] + shadow_m) * (drawn[:, 0] - 0.5)
    aim_m[:, 2] = extent_m[2] * (drawn[:, 1] - 0.5)
    return screen_amplitude(
        element_m, user_m, aim_m, away_m, width_m, config.height_m, array_config.wavelength_m()
    )


def _check_blocker(config: BlockerVisibility, array_config: NearFieldConfig) -> None:
    for what in ("width_m", "away_m"):
        low, high = getattr(config, f"min_{what}"), getattr(config, f"max_{what}")
        if low > high:
            raise SemcomError(f"min_{what} = {low:g} is above max_{what} = {high:g}: lower it")
    if config.max_away_m >= array_config.min_distance_m:
        raise SemcomError(
            f"max_away_m = {config.max_away_m:g} puts the blocker behind a user at min_distance_m = "
            f"{array_config.min_distance_m:g}: lower it"
        )
    # Towards a user at its side an array reaches ahead of its centre.
    reach_m = array_config.aperture_m() / 2
    if config.min_away_m <= reach_m:
        raise SemcomError(
            f"min_away_m = {config.min_away_m:g} lets the blocker touch an array that reaches "
            f"{reach_m:.3g} m to each side: raise it"
        )
