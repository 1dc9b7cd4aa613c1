"""Where generated data sets of CSI are kept (see data_cache.py): their names, files and manifests."""

from __future__ import annotations

import xml.etree.ElementTree
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from channels.csi_generator import GENERATOR_VERSION
from channels.csi_scene import CsiSceneConfig
from channels.data_cache import DataCache, Storage, find_place, package_versions
from channels.scenes import SCENES
from semcom.files import sha256

_PACKAGES = ("sionna-rt",)
# So that a slice of positions can be read without the whole file, and little is read beside it.
_STORAGE = {"csi": Storage(rows_a_block=16)}


def open_cache(config: CsiSceneConfig, seed: int) -> DataCache:
    """Finds the place of the data set of this configuration and seed."""
    told = {
        "config": config.model_dump(mode="json", exclude={"positions_path"}),
        "seed": seed,
        "generator": GENERATOR_VERSION,
        **package_versions(_PACKAGES),
        "files": [sha256(path) for path in _files(config)],
    }
    return find_place(config.scene if config.scene in SCENES else Path(config.scene).stem, told)


def assemble(config: CsiSceneConfig, seed: int, cache: DataCache, num_parts: int, wall_time_s: float) -> None:
    """Puts the parts together as the data set's file, one part at a time, and removes them.

    Raises SemcomError if one is missing.
    """
    num_redrawn, dark = 0, []

    def parts() -> Iterator[dict[str, np.ndarray]]:
        nonlocal num_redrawn
        for number in range(num_parts):
            part = cache.read_part(number)
            num_redrawn += int(part.pop("num_redrawn"))
            dark.append(~part["csi"].any(axis=(2, 3, 4)))
            yield part

    attributes: dict[str, float | str] = {
        "carrier_hz": config.carrier_hz,
        "bandwidth_hz": config.bandwidth_hz,
        "description": f"ray-traced: {config.scene}, seed {seed}",
    }
    cache.assemble(parts(), attributes, _STORAGE)
    without_path = np.concatenate(dark)
    facts = {
        "config": config.model_dump(mode="json"),
        "seed": seed,
        "generator_version": GENERATOR_VERSION,
        "num_positions": len(without_path),
        "num_redrawn_trajectories": num_redrawn,
        "share_without_path_by_array": without_path.mean(axis=0).round(6).tolist(),
    }
    cache.conclude(facts, _PACKAGES, wall_time_s)


def _files(config: CsiSceneConfig) -> Sequence[Path]:
    """The files that the numbers depend on: positions, a scene and the meshes that it names."""
    found = [config.positions_path] if config.positions_path is not None else []
    if config.scene not in SCENES:
        scene = Path(config.scene)
        found.append(scene)
        with suppress(xml.etree.ElementTree.ParseError):
            named = xml.etree.ElementTree.parse(scene).iterfind(".//string[@name='filename']")
            meshes = {scene.parent / str(node.get("value")) for node in named}
            found += sorted(mesh for mesh in meshes if mesh.is_file())
    return found
