"""What a ray-traced data set of CSI is to hold: a scene, arrays around an area of it, users who move."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from channels.motion import MotionConfig
from channels.scenes import SCENES, Coordinate
from semcom.contracts import SemcomError

POSITIONS_A_CHUNK = 128
"""So many positions of a file are traced as one piece of work; of trajectories it is one."""

# A worker holds the channels of a chunk, twice while it writes them.
_MAX_CHUNK_BYTES = 1 << 29

Place = tuple[Coordinate, Coordinate, Coordinate]


class Area(NamedTuple):
    """The middle of a round area of a scene, and places of arrays that see most of it."""

    centre_m: tuple[float, float]
    array_m: tuple[tuple[float, float, float], ...]


# Arrays stand 2 to 5 m above the edge of a roof that faces the area, in the canyon over its streets.
AREAS = {
    "munich": Area(
        (35.0, 68.0), ((-25.0, 102.0, 25.0), (5.5, 21.5, 29.0), (76.5, 120.5, 21.0), (55.5, 4.5, 29.0))
    ),
    "etoile": Area(
        (-39.5, 24.5), ((10.5, -70.5, 18.0), (44.5, -5.5, 23.5), (45.5, 37.5, 22.4), (5.5, 75.5, 20.5))
    ),
    "florence": Area(
        (71.5, -66.5), ((72.5, -85.5, 15.3), (-9.5, -33.5, 21.2), (39.5, -84.5, 15.3), (120.5, -86.5, 16.6))
    ),
    "san-francisco": Area(
        (31.5, 56.5), ((50.5, 19.5, 21.1), (-17.5, 78.5, 26.5), (-13.5, 30.5, 31.5), (20.5, 96.5, 25.4))
    ),
    "street-canyon": Area(
        (0.0, 0.0), ((-25.0, 0.0, 10.0), (25.0, 0.0, 10.0), (-25.0, 45.0, 10.0), (25.0, -45.0, 10.0))
    ),
}


class CsiSceneConfig(BaseModel):
    """Arrays around an area of a scene, the users who move about in it, and what is computed of both."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scene: str = Field("munich", description=f"{', '.join(SCENES)}, or the path of a scene's XML file")
    ground: str | None = Field(
        None, description="of a scene file, the object that users stand on; by default the one named ground"
    )
    num_arrays: int = Field(4, ge=1, le=4, description="how many of the arrays are used, the first ones")
    array_m: tuple[Place, ...] | None = Field(
        None, description="x, y, z of the arrays; by default places around the built-in scene's area"
    )
    centre_m: tuple[Coordinate, Coordinate] | None = Field(
        None, description="x, y of the area's centre, which all arrays face; by default the scene's own"
    )
    radius_m: float = Field(48.0, ge=5, le=1000, description="radius of the area that users keep to")
    num_rows: int = Field(2, ge=1, le=32, description="rows of an array, half a wavelength apart")
    num_columns: int = Field(4, ge=1, le=32, description="columns of an array, half a wavelength apart")
    polarisation: Literal["V", "cross"] = Field(
        "V", description="one vertical antenna at each place, or two at -45 and +45 degrees"
    )
    pattern: Literal["iso", "tr38901"] = Field("tr38901", description="pattern of the arrays' antennas")
    carrier_hz: float = Field(3.5e9, ge=1e9, le=40e9, description="carrier frequency")
    bandwidth_hz: float = Field(50e6, ge=1e5, le=1e9, description="bandwidth that the subcarriers divide")
    num_subcarriers: int = Field(64, ge=1, le=4096, description="subcarriers, the centres of equal parts")
    num_trajectories: int = Field(45, ge=1, le=100_000, description="trajectories of a data set")
    num_steps: int = Field(100, ge=1, le=2000, description="positions of a trajectory")
    interval_s: float = Field(0.2, ge=1e-4, le=60, description="time from position to position")
    motion: MotionConfig = Field(default_factory=MotionConfig, description="how users move")
    positions_path: Path | None = Field(
        None,
        description="a text file of positions to trace instead of trajectories: x, y, z a line, by commas",
    )
    max_depth: int = Field(3, ge=0, le=8, description="most interactions of a path; 0 is line of sight alone")
    reflection: bool = Field(True, description="specular reflections")
    diffraction: bool = Field(True, description="one diffraction at an edge")
    refraction: bool = Field(False, description="transmission through walls")
    num_rays: int = Field(
        10_000, ge=1000, le=1_000_000, description="rays launched from each array to find paths"
    )

    def arrays_m(self) -> np.ndarray:
        """Places of the arrays, float64 [num_arrays, 3], where check_csi_scene has nothing against them."""
        return np.array((self.array_m or AREAS[self.scene].array_m)[: self.num_arrays])

    def area_centre_m(self) -> tuple[float, float]:
        """Where the middle of the area is, x and y."""
        return self.centre_m or AREAS[self.scene].centre_m


def check_csi_scene(config: CsiSceneConfig) -> None:
    """Raises SemcomError for what can be told without a scene: see also make_chunk.

    That is a scene that is not there, arrays or a centre that nobody has placed, fewer places than
    num_arrays, channels of a trajectory that take too much memory, and positions that cannot be read.
    """
    if config.scene not in SCENES and not Path(config.scene).is_file():
        raise SemcomError(
            f"scene = {config.scene} is not there: take {', '.join(SCENES)}, or a scene's XML file"
        )
    for name in ("array_m", "centre_m"):
        if getattr(config, name) is None and config.scene not in AREAS:
            raise SemcomError(f"scene = {config.scene} has no {name} of its own: set {name}")
    if len(config.arrays_m()) < config.num_arrays:
        raise SemcomError(
            f"num_arrays = {config.num_arrays}, and array_m has {len(config.arrays_m())} places: add some"
        )
    num_positions = config.num_steps if config.positions_path is None else POSITIONS_A_CHUNK
    num_antennas = config.num_rows * config.num_columns * (2 if config.polarisation == "cross" else 1)
    size = 8 * num_positions * config.num_arrays * num_antennas * config.num_subcarriers
    if size > _MAX_CHUNK_BYTES:
        raise SemcomError(
            f"num_steps = {num_positions} positions of {config.num_arrays} x {num_antennas} antennas and "
            f"{config.num_subcarriers} subcarriers take {size / 2**20:.0f} MiB, more than a worker should "
            f"hold at once ({_MAX_CHUNK_BYTES / 2**20:.0f} MiB): lower one of them"
        )
    if config.positions_path is not None:
        read_positions(config.positions_path)


def read_positions(path: Path) -> np.ndarray:
    """Reads places, float64 [N, 3], from a text file with x, y, z on each line, divided by commas.

    Raises SemcomError for a file that cannot be read or holds anything else.
    """
    try:
        place_m = np.loadtxt(path, delimiter=",", ndmin=2)
    except OSError as error:
        raise SemcomError(f"positions_path = {path} can't be read ({error.strerror or error})") from None
    except ValueError as error:
        told = str(error).splitlines()[0]
        raise SemcomError(f"positions_path = {path} is no table of x, y, z ({told})") from None
    if place_m.shape[1:] != (3,) or not len(place_m) or not np.isfinite(place_m).all():
        raise SemcomError(
            f"positions_path = {path} holds a table {list(place_m.shape)}: it takes finite x, y, z a line"
        )
    return place_m
