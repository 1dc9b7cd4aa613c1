"""A small ray-traced data set for tests, by a name that Ray's workers can import."""

from channels.csi_scene import CsiSceneConfig

CANYON = CsiSceneConfig(
    scene="street-canyon",
    num_arrays=2,
    num_columns=2,
    num_subcarriers=6,
    num_trajectories=4,
    num_steps=6,
    max_depth=1,
    diffraction=False,
    num_rays=1000,
)
