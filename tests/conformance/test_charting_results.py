"""The charting scenario's tables and figures, from records made by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from scenarios.charting import results
from scenarios.charting.results import SIMPLE_FORECASTS, _bits_at, draw_figures, make_tables

FIGURES = {
    "chart": "charts",
    "forecast": "error_vs_look_ahead",
    "velocity": "error_vs_velocity",
    "rate": "charts_vs_bits",
    "loss": "charts_vs_loss",
}
SCORES = ("trustworthiness", "continuity", "mae")


def row(result: str, method: str, metric: str, value: float, seed: int = 0, **axes) -> dict[str, object]:
    return {"scenario": "charting", "result": result, "method": method, "metric": metric, "value": value,
            "seed": seed, "unit": "1", "num_samples": 4, **axes}  # fmt: skip


def scores(
    result: str, method: str, trustworthiness: float, seed: int = 0, **axes
) -> list[dict[str, object]]:
    values = {"trustworthiness": trustworthiness, "continuity": 0.9, "mae": 2.0}
    return [row(result, method, metric, value, seed, **axes) for metric, value in values.items()]


def error(method: str, seed: int, value: float, look_ahead_s: float = 1.0) -> dict[str, object]:
    return row("forecast", method, "position_error", value, seed, look_ahead_s=look_ahead_s)


def everything(num_seeds: int) -> list[dict[str, object]]:
    """Records of every result, as few of each as tell a curve."""
    rows: list[dict[str, object]] = []
    for seed in range(num_seeds):
        for method in ("pca", "w-jepa"):
            rows += scores("chart", method, 0.9 + 0.01 * seed, seed)
        for look_ahead_s in (0.2, 1.0):
            axis = {"look_ahead_s": look_ahead_s}
            rows += [error(method, seed, 1 + look_ahead_s) for method in ("w-jepa", "last-value")
                     for look_ahead_s in (0.2, 1.0) if look_ahead_s == axis["look_ahead_s"]]  # fmt: skip
            for metric in ("latent_nmse", "sum_rate_w-jepa", "sum_rate_true"):
                rows.append(row("forecast", "w-jepa", metric, 0.5, seed, **axis))
            for velocity in ("exact", "unknown"):
                rows.append(row("velocity", "w-jepa", "position_error", 2.0, seed, velocity=velocity, **axis))
        for velocity in ("exact", "unknown"):
            rows += scores("velocity", "w-jepa", 0.9, seed, velocity=velocity)
        for method, codec, bits in (("w-jepa", "uniform-2", 16), ("w-jepa", "uniform-4", 32),
                                    ("csi", "uniform-1", 128), ("csi", "klt-8mean", 40),
                                    ("features", "klt-8mean", 50)):  # fmt: skip
            rows += scores("rate", method, 0.9 + bits / 1e4, seed, codec=codec)
            rows.append(row("rate", method, "payload_bits_per_report", bits, seed, codec=codec))
            rows.append(row("rate", method, "header_bits_per_report", 64, seed, codec=codec))
        for method in ("w-jepa", "hold-last"):
            for share in (0.1, 0.5):
                rows += scores("loss", method, 0.9, seed, codec="uniform-4", erasure_probability=share)
        axes = {"codec": "uniform-4", "link": "nr", "channel": "tdl-c"}
        rows += scores("air", "w-jepa", 0.9, seed, **axes)
        rows.append(row("air", "w-jepa", "position_error", 0.9, seed, look_ahead_s=0.2, **axes))
    for index in range(8):
        for metric, value in (("chart_x", index), ("chart_y", -index), ("position_x", 3 * index),
                              ("position_y", index**2)):  # fmt: skip
            for method in ("pca", "w-jepa"):
                rows.append(row("chart", method, metric, value, 0, index=index))
    return rows


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_every_figure_and_table_is_made(tmp_path, num_seeds):
    records = pd.DataFrame(everything(num_seeds))
    names = [*FIGURES.values(), "sum_rate_vs_look_ahead"]
    paths = draw_figures(records, tmp_path)
    assert {path.name for path in paths} == {f"{name}.{kind}" for name in names for kind in ("pdf", "png")}
    assert all(path.stat().st_size > 1000 for path in paths)
    tables = dict(make_tables(records))
    assert len(tables) == 10
    for title, table in tables.items():
        assert len(table), title
        assert not table.astype(str).eq("nan").any().any(), title
    # The scenario's own method stands first.
    assert tables["Charts of test positions"]["method"].tolist() == ["w-jepa", "pca"]
    assert "position_error (1)" not in tables["Charts over the configured link"]


@pytest.mark.parametrize("result", [*FIGURES, "air"])
def test_a_result_stands_alone_and_the_others_do_without_it(tmp_path, monkeypatch, result):
    # What takes long is to write them.
    monkeypatch.setattr(results, "save", lambda figure, folder, name: [folder / name])
    records = pd.DataFrame(everything(1))
    for part in (records[records["result"] == result], records[records["result"] != result]):
        # As a run that never had the others would hold it, and as one that had.
        for shown in (part, part.dropna(axis="columns", how="all")):
            drawn = {path.stem for path in draw_figures(shown, tmp_path)}
            there = set(part["result"])
            expected = {name for key, name in FIGURES.items() if key in there}
            assert drawn - {"sum_rate_vs_look_ahead"} == expected
            assert make_tables(shown)


def test_users_on_a_line_are_drawn_too(tmp_path):
    rows = [row("chart", "pca", metric, value, index=index)
            for index in range(5)
            for metric, value in (("chart_x", index), ("chart_y", 1), ("position_x", index),
                                  ("position_y", 7))]  # fmt: skip
    assert len(draw_figures(pd.DataFrame(rows), tmp_path)) == 2


def ratios(*rows: dict[str, object]) -> pd.DataFrame:
    tables = dict(make_tables(pd.DataFrame(rows)))
    return tables.get("Position error of w-jepa, as a share of the best simple forecast's", pd.DataFrame())


def test_the_ratio_is_to_the_best_of_the_simple_forecasts_seed_by_seed():
    wiener = {0: 2.0, 1: 4.0, 2: 3.0}
    table = ratios(
        *(error("w-jepa", seed, 0.25 * value) for seed, value in wiener.items()),
        *(error("wiener", seed, value) for seed, value in wiener.items()),
        *(error("last-value", seed, value) for seed, value in ((0, 1.0), (1, 9.0), (2, 9.0))),
        # These are told positions or velocities, and are no simple forecasts.
        *(error(method, seed, 0.1) for method in ("lstm", "dead-reckoning") for seed in range(3)),
    )
    # The ratio has no spread, whereas the errors have: (1/2 .. 1) against (2 .. 4).
    assert table.to_dict("records") == [
        {
            "look_ahead_s": 1.0, "best": "wiener", "ratio": "0.25 ± 0", "intervals": "overlap",
            # 5, 10 and 7.5: 4.303 times their deviation, 2.5, over sqrt 3.
            "over dead-reckoning": "7.5 ± 6.2",
        }
    ]  # fmt: skip
    assert "wiener-chart" in SIMPLE_FORECASTS
    better = ratios(*(error(m, s, v) for m, v in (("w-jepa", 1.0), ("wiener", 3.0), ("wiener-chart", 2.0))
                      for s in (0, 1)))  # fmt: skip
    assert better["best"].tolist() == ["wiener-chart"]
    assert better["ratio"].tolist() == ["0.5 ± 0"]


def test_intervals_apart_are_told_from_those_that_overlap():
    def table(ours: float) -> str:
        return ratios(
            *(error("w-jepa", seed, ours + 0.01 * seed) for seed in range(3)),
            *(error("last-value", seed, 2 + 0.01 * seed) for seed in range(3)),
        )["intervals"].item()

    # Half-widths are t of two degrees of freedom times 0.01 / sqrt 3: 0.0248 each.
    half_width = 4.302653 * 0.01 / math.sqrt(3)
    assert table(2 - 2.1 * half_width) == "apart"
    assert table(2 - 1.9 * half_width) == "overlap"


def test_one_seed_has_a_ratio_and_no_interval_and_without_either_there_is_none():
    table = ratios(error("w-jepa", 0, 1.0), error("last-value", 0, 4.0))
    assert table.to_dict("records") == [{"look_ahead_s": 1.0, "best": "last-value", "ratio": "0.25"}]
    assert ratios(error("w-jepa", 0, 1.0), error("lstm", 0, 4.0)).empty
    assert ratios(error("wiener", 0, 1.0), error("last-value", 0, 4.0)).empty


def rate(method: str, codec: str, bits: float, value: float, seed: int = 0) -> list[dict[str, object]]:
    return [*scores("rate", method, value, seed, codec=codec),
            row("rate", method, "payload_bits_per_report", bits, seed, codec=codec)]  # fmt: skip


def savings(*rows: dict[str, object]) -> pd.DataFrame:
    return dict(make_tables(pd.DataFrame(rows)))["Bits per report for the trustworthiness of an embedding"]


def test_bits_saved_by_hand():
    coded = [("klt-8mean", 100, 0.80), ("klt-16mean", 400, 0.90), ("klt-32mean", 800, 0.96)]
    table = savings(
        *(r for seed in (0, 1) for codec, bits, value in coded
          for r in rate("csi", codec, bits, value + 0.02 * seed - 0.01, seed)),
        *rate("w-jepa", "uniform-2", 16, 0.85), *rate("w-jepa", "uniform-2", 16, 0.85, 1),
        *rate("w-jepa", "uniform-4", 32, 0.96), *rate("w-jepa", "uniform-4", 32, 0.96, 1),
        *rate("w-jepa", "uniform-8", 64, 0.97), *rate("w-jepa", "uniform-1", 8, 0.70),
        *rate("features", "klt-8mean", 50, 0.5), *rate("features", "klt-16mean", 70, 0.6),
    ).set_index("codec")  # fmt: skip
    assert table["bits"].to_dict() == {"uniform-1": 8, "uniform-2": 16, "uniform-4": 32, "uniform-8": 64}
    needed = table["bits of CSI, transform coded"]
    # Half-way between 0.80 and 0.90, and bits grow by factors: 200.
    assert needed["uniform-2"] == "200"
    assert needed["uniform-4"] == "800"
    # Beyond what the curve reaches, and below where it begins, there are only bounds.
    assert needed["uniform-8"] == "> 800"
    assert needed["uniform-1"] == "< 100"
    assert table["times, CSI, transform coded"].to_dict() == {
        "uniform-1": "< 12.5", "uniform-2": "12.5", "uniform-4": "25.0", "uniform-8": "> 12.5",
    }  # fmt: skip
    assert set(table["bits of features, transform coded"]) == {"> 70"}


def test_a_curve_is_read_where_it_first_gets_as_far():
    bits = np.array([10.0, 20, 40, 80])
    assert _bits_at(bits, np.array([0.1, 0.5, 0.3, 0.9]), 0.4) == pytest.approx(10 * 2**0.75)
    assert _bits_at(bits, np.array([0.1, 0.5, 0.3, 0.9]), 0.5) == pytest.approx(20)
    assert math.isnan(_bits_at(np.array([0.0, 20.0]), np.array([0.1, 0.5]), 0.4))


def test_quantised_features_have_a_line_of_their_own(tmp_path):
    records = pd.DataFrame([*rate("features", "uniform-2", 64, 0.9), *rate("csi", "klt-4mean", 20, 0.8)])
    assert len(draw_figures(records, tmp_path)) == 2
    title, table = make_tables(records)[0]
    assert title == "Charts by bits per report"
    assert set(table["source"]) == {"features, quantised", "CSI, transform coded"}
