"""The control scenario's tables and figures, from records made by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from channels.links.nr import NrConfig
from nodes.base_station import COUNTERS
from nodes.contracts import CellOutcome
from scenarios.contracts import Point
from scenarios.control.cells import resolve
from scenarios.control.codec_comparison import compare_codecs
from scenarios.control.config import TINY
from scenarios.control.metrics import make_records
from scenarios.control.results import draw_figures, make_tables


def records(*rows: dict[str, object]) -> pd.DataFrame:
    fixed = {
        "scenario": "control",
        "seed": 0,
        "unit": "1",
        "num_samples": 4,
        "codec": "uniform-8",
        "link": "erasure",
    }
    return pd.DataFrame([{**fixed, **row} for row in rows])


def horizon(method: str, seed: int, value: float, age_ms: float) -> dict[str, object]:
    return {"result": "horizon", "method": method, "seed": seed, "metric": "nmae", "value": value,
            "update_interval_ms": 80.0, "horizon_ms": age_ms}  # fmt: skip


def rate(method: str, interval: float, **values: float) -> list[dict[str, object]]:
    return [
        {"result": "rate", "method": method, "metric": metric, "value": value, "update_interval_ms": interval}
        for metric, value in values.items()
    ]


def test_a_seed_without_a_survivor_is_not_left_out_in_silence(tmp_path):
    some = records(
        *(horizon("jepa", seed, value, age) for seed, value in enumerate((0.1, 0.3)) for age in (0.0, 20.0)),
        *(horizon("supervised", seed, value, age)
          for seed, value in enumerate((0.2, float("nan"))) for age in (0.0, 20.0)),
        *(horizon("autoencoder", seed, float("nan"), age) for seed in (0, 1) for age in (0.0, 20.0)),
    )  # fmt: skip
    [(title, table)] = make_tables(some)
    assert "survivors" in title
    cells = table.set_index("method")["20"]
    assert cells.index.tolist() == ["jepa", "supervised"]
    assert cells["jepa"].startswith("0.2")
    assert cells["supervised"] == "nan"
    assert {path.name for path in draw_figures(some, tmp_path)} == {
        "nmae_vs_horizon.pdf",
        "nmae_vs_horizon.png",
    }


def test_the_reference_lines_stand_below_the_tables_of_codecs_erasures_and_sharing():
    score = {"control_score": 0.5, "survival": 1.0, "uplink_bits_per_step": 10.0}
    rows = [row for method in ("jepa", "state-hold", "true-model") for row in rate(method, 80.0, **score)]
    rows += rate("state-feedback", 20.0, **score)
    rows += [row | {"result": "codec", "codec": "uniform-4"} for row in rate("jepa", 80.0, **score)]
    rows += [row | {"result": "erasure", "erasure_probability": 0.1} for row in rate("jepa", 80.0, **score)]
    rows += [
        row | {"result": "sharing", "scheduler": "age", "num_devices": 8}
        for row in rate("jepa", 80.0, **score)
    ]
    tables = dict(make_tables(records(*rows)))
    for title in (
        "jepa: control score by codec and update interval (ms)",
        "With erasures: control score by update interval (ms)",
        "Devices that share the uplink",
    ):
        assert tables[title]["method"].tolist() == ["jepa", "state-hold", "true-model", "state-feedback"], (
            title
        )


def values(in_band: np.ndarray, **counted: np.ndarray) -> dict[str, float]:
    """The records of a cell over `nr` of which these steps [K, T] were in the band and this was counted."""
    num = len(in_band)
    counters = {name: np.zeros(num) for name in COUNTERS} | counted
    world = {"in_band": in_band, "alive": np.ones(num, dtype=bool)}
    point = Point("rate", "jepa", 0, {"update_interval_ms": 20.0, "codec": "uniform-8"})
    setting = replace(resolve(TINY, point), link=NrConfig())
    rows = make_records(TINY, point, setting, CellOutcome(counters, world))
    return {row.metric: row.value for row in rows}


def test_the_bandwidth_ratio_by_hand():
    # Two devices, three packets on four resource blocks of 144 elements; two grey frames of 32 x 64.
    found = values(
        np.ones((2, 40)), packets_sent=np.array([2, 1]), channel_uses=np.array([432, 144], dtype=np.int64)
    )
    assert found["channel_uses"] == 192
    numbers = 2 * TINY.camera.num_colors * TINY.camera.height_px * TINY.camera.width_px
    assert found["bandwidth_ratio"] == pytest.approx(192 / numbers)


def test_a_device_is_supported_from_a_score_of_074():
    in_band = np.zeros((3, 100))
    for device, num_steps in enumerate((73, 74, 75)):
        in_band[device, :num_steps] = 1
    assert values(in_band)["supported_devices"] == 2


def test_a_codec_is_compared_seed_by_seed_with_uniform_quantisers_of_no_fewer_bits():
    sizes = {"uniform-2": 24, "uniform-4": 40, "entropy-3": 25, "fsq-2": 24, "fsq-4": 41, "vq-3": 30}
    rows = []
    for codec, size in sizes.items():
        for seed in (0, 1):
            gain = {"fsq-2": (8 + seed) / 64, "vq-3": -4 / 64}.get(codec, 0.0)
            for metric, value in (("payload_bits", size), ("control_score", 0.5 + 0.25 * seed + gain)):
                [row] = rate("jepa", 80.0, **{metric: value})
                rows.append(row | {"result": "codec", "codec": codec, "seed": seed})
    table = compare_codecs(records(*rows)).set_index(["codec", "against"])
    # The fewest bits that are not fewer; nothing stands against fsq-4, which has more than all.
    assert table.index.tolist() == [("fsq-2", "uniform-2"), ("fsq-2", "entropy-3"), ("vq-3", "uniform-4")]
    # Seeds differ by 0.25, their differences by 1/64: t of one degree of freedom, 12.7 / 128.
    assert table["80"].tolist() == ["0.133 ± 0.099", "0.133 ± 0.099", "-0.0625 ± 0"]
