"""Smooth ways of straight lines and arcs, and the fastest speed along them that an acceleration allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_CELL_M = 0.1


class Piece(NamedTuple):
    """A straight line or an arc, from start_m [2] on; a user stands for pause_s before one with `stops`.

    curvature_per_m: 1/radius, positive to the left. speed_m_per_s: the fastest that one may be on it.
    """

    start_m: np.ndarray
    heading: float
    length_m: float
    curvature_per_m: float
    speed_m_per_s: float
    stops: bool
    pause_s: float


@dataclass(frozen=True)
class Profile:
    """Speed along a way, in C short cells of constant acceleration.

    Cell c lasts from start_s[c], after any pause, to end_s[c], leads from way_m[c] to way_m[c + 1], and
    the squares of the speeds there are squares[c] and squares[c + 1]; piece[c] is the piece it lies in.
    """

    way_m: np.ndarray
    squares: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray
    piece: np.ndarray

    def time_at(self, way_m: float) -> float:
        """When one has come so far, in seconds; -1 before the end of the first cell."""
        return float(np.interp(way_m, self.way_m[1:], self.end_s, left=-1.0))


def make_profile(pieces: Sequence[Piece], acceleration: float) -> Profile:
    """The fastest speed that no piece and no acceleration forbids: one pass forwards, one backwards."""
    num_cells = [max(2, int(np.ceil(piece.length_m / _CELL_M))) for piece in pieces]
    index = np.repeat(np.arange(len(pieces)), num_cells)
    cell_m = np.repeat([piece.length_m / n for piece, n in zip(pieces, num_cells, strict=True)], num_cells)
    way_m = np.concatenate([[0.0], np.cumsum(cell_m)])
    fastest = np.array([piece.speed_m_per_s**2 for piece in pieces])[index]
    squares = np.minimum(np.append(fastest, np.inf), np.insert(fastest, 0, np.inf))
    first = np.cumsum([0, *num_cells[:-1]])
    pause_s = np.zeros(len(index))
    for start, piece in zip(first, pieces, strict=True):
        if piece.stops:
            squares[start], pause_s[start] = 0.0, piece.pause_s
    squares[-1] = 0.0
    gained = 2 * acceleration * cell_m
    for cell in range(len(cell_m)):
        squares[cell + 1] = min(squares[cell + 1], squares[cell] + gained[cell])
    for cell in range(len(cell_m) - 1, -1, -1):
        squares[cell] = min(squares[cell], squares[cell + 1] + gained[cell])
    speed = np.sqrt(squares)
    end_s = np.cumsum(pause_s + 2 * cell_m / (speed[:-1] + speed[1:]))
    start_s = np.concatenate([[0.0], end_s[:-1]]) + pause_s
    return Profile(way_m, squares, start_s, end_s, index)


def places(pieces: Sequence[Piece], piece: np.ndarray, way_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places [T, 2] and headings [T] so far into pieces, way_m [T] after the beginning of each."""
    start_m = np.array([p.start_m for p in pieces])[piece]
    first = np.array([p.heading for p in pieces])[piece]
    curvature = np.array([p.curvature_per_m for p in pieces])[piece]
    half = curvature * way_m / 2
    # The chord of an arc: it halves the turn, and is sin(half) / half of the arc.
    chord_m = (way_m * np.sinc(half / np.pi))[:, None]
    towards = np.stack([np.cos(first + half), np.sin(first + half)], axis=-1)
    return start_m + chord_m * towards, first + 2 * half
