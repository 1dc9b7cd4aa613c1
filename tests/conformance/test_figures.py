"""Figures as a journal takes them: width, embedded fonts, series that are told apart without colour."""

import struct
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from analysis.figures import COLORS, add_legend, line_figure, new_figure, save, series_style
from analysis.statistics import mean_interval


def records(num_methods: int = 3, num_seeds: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        [
            {"method": f"method {m}", "seed": s, "metric": "score", "unit": "%", "interval_ms": x, "value": v}
            for m in range(num_methods)
            for x in (40, 20, 80)
            for s, v in enumerate(rng.normal(50 - x / 4 + m, 2, num_seeds))
        ]
    )


@pytest.mark.parametrize(("width", "inches"), [("column", 3.5), ("page", 7.16)])
def test_the_files_have_the_width_of_a_column_or_page(tmp_path: Path, width: str, inches: float):
    figure = line_figure(records(), "interval_ms", "score", width=width)
    pdf, png = save(figure, tmp_path, "score")
    box = pdf.read_bytes().split(b"/MediaBox [")[1].split(b"]")[0].split()
    assert float(box[2]) / 72 == pytest.approx(inches, abs=0.01)
    assert struct.unpack(">I", png.read_bytes()[16:20])[0] == pytest.approx(300 * inches, abs=1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["score.pdf", "score.png"]


def test_a_metric_that_names_its_unit_has_it_once():
    named = records().assign(metric="error_m", unit="m")
    assert line_figure(named, "interval_ms", "error_m").axes[0].get_ylabel() == "error (m)"


def test_fonts_are_embedded_as_type_42(tmp_path: Path):
    figure = line_figure(records(), "interval_ms", "score", y_label=r"score $\pm$ half-width, −1 µs")
    written = save(figure, tmp_path, "score")[0].read_bytes()
    assert b"/FontFile2" in written
    assert b"/Type3" not in written
    # The power check: without the style, matplotlib would have written Type 3.
    with matplotlib.rc_context({"pdf.fonttype": 3}):
        figure.savefig(tmp_path / "plain.pdf")
    assert b"/Type3" in (tmp_path / "plain.pdf").read_bytes()


def test_the_same_records_give_the_same_bytes(tmp_path: Path):
    for name in ("a", "b"):
        save(line_figure(records(), "interval_ms", "score"), tmp_path / name, "score")
    for kind in ("pdf", "png"):
        assert (tmp_path / f"a/score.{kind}").read_bytes() == (tmp_path / f"b/score.{kind}").read_bytes()
    changed = records().assign(value=lambda rows: rows["value"] + 1)
    pdf, _ = save(line_figure(changed, "interval_ms", "score"), tmp_path / "c", "score")
    assert pdf.read_bytes() != (tmp_path / "a/score.pdf").read_bytes()


def test_lines_show_means_and_intervals_in_the_order_of_x():
    shown = records()
    figure = line_figure(shown, "interval_ms", "score", order=["method 2", "method 0"])
    (axes,) = figure.axes
    assert [container.get_label() for container in axes.containers] == ["method 2", "method 0"]
    line, _, (bars,) = axes.containers[0]
    assert list(line.get_xdata()) == [20, 40, 80]
    for x, y, bar in zip(line.get_xdata(), line.get_ydata(), bars.get_segments(), strict=True):
        of_point = shown[(shown["method"] == "method 2") & (shown["interval_ms"] == x)]
        interval = mean_interval(of_point["value"].to_numpy())
        assert y == pytest.approx(interval.mean)
        assert bar[:, 1] == pytest.approx([interval.low, interval.high])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("interval (ms)", "score (%)")


@pytest.mark.parametrize("band", [False, True])
def test_one_seed_words_on_x_and_references_are_drawn(tmp_path: Path, band: bool):
    shown = records(num_methods=6, num_seeds=1).assign(
        interval_ms=lambda rows: rows["interval_ms"].astype(str)
    )
    lines = {"ceiling": 50.0, "theory": ([0.0, 1.0], [40.0, 30.0])}
    figure = line_figure(shown, "interval_ms", "score", references=lines, band=band)
    save(figure, tmp_path, "score")
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["40", "20", "80"]
    dashed = [line for line in axes.get_lines() if line.get_gid() == "reference"]
    assert [line.get_label() for line in dashed] == ["ceiling", "theory"]
    assert {line.get_linestyle() for line in dashed} == {"--"}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][-2:] == ["ceiling", "theory"]


def test_a_metric_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no records of metric rate"):
        line_figure(records(), "interval_ms", "rate")


def test_series_are_told_apart_without_colour():
    styles = [series_style(index) for index in range(40)]
    shapes = {(s["marker"], str(s["linestyle"]), s["markerfacecolor"] == "white") for s in styles}
    assert len(shapes) == len(styles)
    assert all(a["marker"] != b["marker"] for a, b in pairwise(styles))
    luminance = [np.dot(to_rgb(color), (0.2126, 0.7152, 0.0722)) for color in COLORS]
    assert max(luminance) < 0.7  # darker than the paper


def test_drawing_keeps_no_global_state():
    code = "import sys, analysis.figures as f; f.new_figure(); assert 'pyplot' not in str([*sys.modules])"
    subprocess.run([sys.executable, "-c", code], check=True)
    before = dict(matplotlib.rcParams)
    new_figure("page", num_columns=2)
    assert dict(matplotlib.rcParams) == before


def test_long_names_are_folded_and_stand_above_the_panel(tmp_path):
    """A name wider than the figure left no room for the panel: matplotlib gave up its layout, and warned."""
    figure, (axes,) = new_figure()
    axes.plot([0, 1], [0, 1], label="a name of some length, " * 6)
    add_legend(figure, [axes])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(figure, tmp_path, "long")
    assert axes.get_legend() is None
    (legend,) = figure.legends
    assert legend.get_texts()[0].get_text().count("\n") >= 2
    assert axes.get_position().width > 0.5
