"""Where users can walk in a scene, and the trajectories on which they do."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from scipy import ndimage

from semcom.rng import Streams

NUM_HEADINGS = 32
_STEPS_PER_CELL = 4


class OpenGround:
    """A raster of square cells: where the ground is free, and how high it is.

    is_free: bool [Y, X], nothing stands or hangs there; height_m: float64 [Y, X], the ground's
    height there; centre_m: float64 [2], the centre of the cell in row 0 and column 0; cell_m: a side.

    `walkable` is what a walker keeps to: free cells all eight neighbours of which are free, and of these the
    largest connected part, which leaves closed courtyards out.
    """

    def __init__(
        self, is_free: np.ndarray, height_m: np.ndarray, centre_m: np.ndarray, cell_m: float
    ) -> None:
        self.height_m, self.centre_m, self.cell_m = height_m, centre_m, cell_m
        inner = ndimage.binary_erosion(is_free, structure=np.ones((3, 3), dtype=bool))
        part, num_parts = ndimage.label(inner)
        sizes = np.bincount(part.ravel(), minlength=num_parts + 1)[1:]
        self.walkable = inner & (part == 1 + sizes.argmax()) if num_parts else inner

    def is_walkable(self, place_m: np.ndarray) -> np.ndarray:
        """Whether places [..., 2] lie in walkable cells."""
        column, row = np.moveaxis(np.rint((place_m - self.centre_m) / self.cell_m).astype(np.int64), -1, 0)
        num_rows, num_columns = self.walkable.shape
        inside = (row >= 0) & (row < num_rows) & (column >= 0) & (column < num_columns)
        return inside & self.walkable[np.where(inside, row, 0), np.where(inside, column, 0)]

    def free_length_m(self, place_m: np.ndarray, heading: np.ndarray, at_most_m: float) -> np.ndarray:
        """How far one can walk straight on from a walkable place [2] in each direction: float64 [H].

        Looked up four times a cell, so that a line may cut a corner by an eighth of a cell: less than the
        whole cell by which walkable cells keep away from walls.
        """
        stride_m = self.cell_m / _STEPS_PER_CELL
        distance_m = stride_m * np.arange(1, max(1, int(at_most_m / stride_m)) + 1)
        direction = np.stack([np.cos(heading), np.sin(heading)], axis=-1)
        free = self.is_walkable(place_m + distance_m[:, None] * direction[:, None, :])
        return stride_m * np.where(free.all(axis=1), free.shape[1], free.argmin(axis=1))

    def ground_m(self, place_m: np.ndarray) -> np.ndarray:
        """Height of the ground at walkable places [K, 2], bilinear between the cells' centres: [K]."""
        at = ((place_m - self.centre_m) / self.cell_m)[:, ::-1].T
        return np.asarray(ndimage.map_coordinates(self.height_m, at, order=1, mode="nearest"))


class Trajectories:
    """The walks of K devices: straight legs over open ground, every device at the same speed.

    A walk starts at a place drawn evenly from the walkable ground. Each leg heads in one of 32 evenly
    spaced directions with a random turn, drawn in proportion to how far it is open that way, and ends
    there or after leg_length_m. Place and turns come from the device's own streams, so a walk is a pure
    function of (seed, device, distance); legs are kept once drawn, 24 bytes each.
    """

    def __init__(
        self,
        ground: OpenGround,
        num_devices: int,
        device_height_m: float,
        leg_length_m: float,
        streams: Streams,
    ) -> None:
        self._ground = ground
        self._device_height_m = device_height_m
        self._leg_length_m = leg_length_m
        self._streams = streams
        cells = np.argwhere(ground.walkable)[:, ::-1]
        draws = streams.uniform("walk-start", range(num_devices), 0, (3,)).numpy()
        start_m = ground.centre_m + ground.cell_m * (
            cells[(draws[:, 0] * len(cells)).astype(np.int64)] + draws[:, 1:] - 0.5
        )
        # By device, the corners of its walk and the distance walked up to each.
        self._corners_m = [[place_m] for place_m in start_m]
        self._walked_m = [[0.0] for _ in start_m]

    def positions_m(self, distance_m: float) -> np.ndarray:
        """Where the devices' antennas are after walking that far: float64 [K, 3]."""
        place_m = np.stack([self._place_m(device, distance_m) for device in range(len(self._corners_m))])
        return np.column_stack([place_m, self._ground.ground_m(place_m) + self._device_height_m])

    def _place_m(self, device: int, distance_m: float) -> np.ndarray:
        corners_m, walked_m = self._corners_m[device], self._walked_m[device]
        while walked_m[-1] <= distance_m:
            self._add_leg(device)
        leg = bisect_right(walked_m, distance_m) - 1
        share = (distance_m - walked_m[leg]) / (walked_m[leg + 1] - walked_m[leg])
        place_m: np.ndarray = corners_m[leg] + share * (corners_m[leg + 1] - corners_m[leg])
        return place_m

    def _add_leg(self, device: int) -> None:
        corners_m, walked_m = self._corners_m[device], self._walked_m[device]
        turn, choice = self._streams.uniform("walk-turn", [device], len(corners_m), (2,))[0].numpy()
        heading = 2 * np.pi * (turn + np.arange(NUM_HEADINGS)) / NUM_HEADINGS
        free_m = self._ground.free_length_m(corners_m[-1], heading, self._leg_length_m)
        total_m = np.cumsum(free_m)
        chosen = int(np.searchsorted(total_m, choice * total_m[-1], side="right"))
        step_m = free_m[chosen] * np.array([np.cos(heading[chosen]), np.sin(heading[chosen])])
        corners_m.append(corners_m[-1] + step_m)
        walked_m.append(walked_m[-1] + float(free_m[chosen]))
