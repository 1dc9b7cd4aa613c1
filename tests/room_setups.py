"""A small sensed room for tests, and a world of it in which each reading tells where it comes from."""

import numpy as np

from channels.room import RoomConfig, Walk

ROOM = RoomConfig(
    world="analytic",
    num_receivers=4,
    num_subcarriers=4,
    frame_height_px=16,
    frame_width_px=18,
    num_sequences=4,
    num_steps=5,
)


class PlainWorld:
    """Frames of one grey level, 40 x, and CSI r (x + jy) at receiver r, of the mean over who is there."""

    def __init__(self, config: RoomConfig) -> None:
        self._config = config

    def csi(self, walk: Walk) -> np.ndarray:
        config = self._config
        place = np.nanmean(walk.position_m, axis=1) @ [1, 1j]
        csi = (
            place[:, None, None] * np.arange(config.num_receivers)[:, None] * np.ones(config.num_subcarriers)
        )
        return csi.astype(np.complex64)

    def frames(self, walk: Walk) -> tuple[np.ndarray, np.ndarray]:
        config = self._config
        level = (40 * np.nanmean(walk.position_m[..., 0], axis=1)).astype(np.uint8)
        shape = (config.num_steps, config.num_cameras, config.frame_height_px, config.frame_width_px, 3)
        share = np.where(np.isnan(walk.heading_rad), np.nan, 1.0)[:, None].repeat(config.num_cameras, axis=1)
        return np.broadcast_to(level[:, None, None, None, None], shape), share.astype(np.float32)
