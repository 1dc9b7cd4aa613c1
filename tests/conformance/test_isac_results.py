"""The ISAC scenario's tables and figures, from records made by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from scenarios.isac import results
from scenarios.isac.comparisons import with_either_camera
from scenarios.isac.equal_error import BitsNeeded, bits_at_error, cheaper, compare_at_equal_error
from scenarios.isac.results import draw_figures, make_tables

FIGURES = {
    "missing": "error_vs_missing",
    "loss": "error_vs_loss",
    "receivers": "error_vs_receivers",
    "rate": "error_vs_bits",
    "alarm": "alarm_roc",
}
METHODS = {"zero-fill": 1.1, "inpainting": 0.45, "image-only": 0.7, "supervised": 0.44, "oracle": 0.3,
           "mean-fill": 1.0, "last-value": 0.8, "masked-head": 0.5}  # fmt: skip
UNITS = {"localisation_error_m": "m", "ospa_m": "m", "psnr_db": "dB", "bits_per_step": "bit"}


def row(result: str, method: str, metric: str, value: float, seed: int = 0, **axes) -> dict[str, object]:
    return {"scenario": "isac", "result": result, "method": method, "metric": metric, "value": value,
            "seed": seed, "unit": UNITS.get(metric, "1"), "num_samples": 4, **axes}  # fmt: skip


def everything(num_seeds: int) -> list[dict[str, object]]:
    """Records of every result, as few of each as tell a curve."""
    rows: list[dict[str, object]] = []
    grid = (0.0, 0.01, 0.05, 0.2, 1.0)
    for seed in range(num_seeds):
        for number, (method, error) in enumerate(METHODS.items()):
            error += 0.02 * seed * math.cos(number)
            for place in ("receivers", "none", "camera-1"):
                if method == "oracle" and place != "none":
                    continue
                worse = {"none": 1.0, "receivers": 1.1, "camera-1": 1.5}[place]
                values = {"localisation_error_m": error * worse, "ospa_m": error, "count_accuracy": 0.9,
                          "psnr_db": 30 / worse, "prior_share": 0.0}  # fmt: skip
                rows += [row("missing", method, m, v, seed, missing=place) for m, v in values.items()]
            if method == "oracle":
                continue
            for share in (0.0, 0.1, 0.3):
                axes = {"erasure_probability": share}
                rows.append(row("loss", method, "localisation_error_m", error * (1 + share), seed, **axes))
                rows.append(row("loss", method, "prior_share", share**11, seed, **axes))
            for count in (0, 3, 9):
                value = error * (1.5 - count / 18)
                rows.append(
                    row("receivers", method, "localisation_error_m", value, seed, num_receivers=count)
                )
            codecs = {"uniform-1": 700, "uniform-2": 1000, "uniform-4": 1600}
            intervals = {"inpainting": (1, 4), "supervised": (1, 4), "image-only": (1,)}.get(method, ())
            for codec, bits in codecs.items():
                for interval in intervals:
                    axes = {"codec": codec, "receiver_interval": interval}
                    rows.append(
                        row("rate", method, "localisation_error_m", error * (1 + 200 / bits), seed, **axes)
                    )
                    rows.append(row("rate", method, "bits_per_step", bits / interval, seed, **axes))
        for downscale in (1, 2, 4):
            for quality in (5, 20, 80):
                for method, interval in (("jpeg", 1), ("jpeg", 4), ("jpeg-cameras", 1)):
                    axes = {"quality": quality, "downscale": downscale, "receiver_interval": interval}
                    bits = 400 * quality / downscale + 1000 / interval
                    value = 0.3 + 200 / bits + 0.1 * downscale
                    rows.append(row("rate", method, "localisation_error_m", value, seed, **axes))
                    rows.append(row("rate", method, "bits_per_step", bits, seed, **axes))
        for number, (fault, sensor) in enumerate((f, s) for s in ("camera", "receiver")
                                                 for f in ("swapped", "frozen", "noise")):  # fmt: skip
            axes = {"fault": fault, "sensor": sensor, "score": "energy"}
            for metric, value in (("auc", 0.99), ("detection_rate", 0.95), ("false_alarm_rate", 0.051),
                                  ("detection_rate_where_wrong", 0.96)):  # fmt: skip
                rows.append(row("alarm", "inpainting", metric, value, seed, **axes))
            for rate in grid:
                value = rate ** (0.05 * (1 + number))
                rows.append(
                    row("alarm", "inpainting", "roc_detection", value, seed, false_alarm=rate, **axes)
                )
        axes = {"codec": "uniform-4", "link": "nr", "channel": "tdl-c"}
        rows.append(row("air", "inpainting", "localisation_error_m", 0.5, seed, **axes))
        rows.append(row("air", "inpainting", "bits_per_step", 1600, seed, **axes))
    return rows


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_every_figure_and_table_is_made(tmp_path, monkeypatch, num_seeds):
    records = pd.DataFrame(everything(num_seeds))
    if num_seeds == 1:
        # Lines without intervals: drawn, and not written, which is what takes long.
        def draw(figure, folder, name):
            figure.draw_without_rendering()
            return [folder / f"{name}.{kind}" for kind in ("pdf", "png")]

        monkeypatch.setattr(results, "save", draw)
    paths = draw_figures(records, tmp_path)
    assert {path.name for path in paths} == {
        f"{f}.{kind}" for f in FIGURES.values() for kind in ("pdf", "png")
    }
    assert num_seeds == 1 or all(path.stat().st_size > 1000 for path in paths)
    tables = dict(make_tables(records))
    assert len(tables) == 14
    for title, table in tables.items():
        assert len(table), title
        assert not table.astype(str).eq("nan").any().any(), title
    # The scenario's own method stands first and the reference last; sensors are in their order.
    table = tables["Missing sensors: Localisation error (m)"]
    assert table["method"].iloc[[0, -1]].tolist() == ["inpainting", "oracle"]
    assert table.columns.tolist() == ["method", "none", "camera-1", "receivers"]
    alarm = tables["Corrupted sensors detected, the threshold being set for 5 % false alarms"]
    assert alarm["fault"].tolist()[::2] == ["frozen", "noise", "swapped"]
    rates = ["detection_rate", "detection_rate_where_wrong", "false_alarm_rate", "auc"]
    assert alarm.columns.tolist()[-4:] == rates


@pytest.mark.parametrize("result", [*FIGURES, "air"])
def test_a_result_stands_alone_and_the_others_do_without_it(tmp_path, monkeypatch, result):
    # What takes long is to write them.
    monkeypatch.setattr(results, "save", lambda figure, folder, name: [folder / name])
    records = pd.DataFrame(everything(1))
    # As a run that never had the others would hold it, and as one that had this one left out.
    alone = records[records["result"] == result].dropna(axis="columns", how="all")
    for part in (alone, records[records["result"] != result]):
        drawn = {path.stem for path in draw_figures(part, tmp_path)}
        assert drawn == {name for key, name in FIGURES.items() if key in set(part["result"])}
        assert make_tables(part)


def test_records_without_their_axes_or_their_error_are_left_out(tmp_path):
    rows = [row(result, "inpainting", "localisation_error_m", 1.0) for result in FIGURES]
    rows += [row(result, "inpainting", "prior_share", 0.0, erasure_probability=0.1, num_receivers=3,
                 missing="none", fault="noise") for result in FIGURES]  # fmt: skip
    records = pd.DataFrame(rows)
    assert draw_figures(records, tmp_path) == []
    assert make_tables(records)
    assert make_tables(records[:0]) == draw_figures(records[:0], tmp_path) == []


def test_what_else_is_varied_is_told_apart(tmp_path):
    rows = [
        row("loss", "inpainting", "localisation_error_m", 0.5 + share + 0.1 * bits,
            codec=f"uniform-{bits}", erasure_probability=share)
        for share in (0.0, 0.5) for bits in (2, 4)
    ]  # fmt: skip
    table = dict(make_tables(pd.DataFrame(rows)))["Localisation error (m) by the share of packets lost"]
    assert table[["codec", "0"]].values.tolist() == [["uniform-2", "0.7"], ["uniform-4", "0.9"]]
    assert len(draw_figures(pd.DataFrame(rows), tmp_path)) == 2


def test_loss_is_compared_with_no_loss_of_the_same_seed():
    rows = [
        row("loss", "inpainting", "localisation_error_m", without * factor, seed, erasure_probability=share)
        for seed, without in enumerate((0.2, 0.4, 0.9))
        for share, factor in ((0.0, 1), (0.3, 1.2))
    ]
    table = dict(make_tables(pd.DataFrame(rows)))["Localisation error over that without loss"]
    # The errors differ by seed, the ratio doesn't.
    assert table.to_dict("records") == [{"method": "inpainting", "0": "1 ± 0", "0.3": "1.2 ± 0"}]
    without = pd.DataFrame([r for r in rows if r["erasure_probability"]])
    assert "Localisation error over that without loss" not in dict(make_tables(without))


def test_methods_are_compared_seed_by_seed_and_intervals_by_themselves():
    def table(gap: float) -> list[dict[str, object]]:
        rows = [
            row("missing", method, "localisation_error_m", error + 0.01 * seed, seed, missing="camera-1")
            for method, error in (("inpainting", 1.0), ("image-only", 1.0 + gap))
            for seed in range(3)
        ]
        return dict(make_tables(pd.DataFrame(rows)))[
            "inpainting over each other method, by missing sensors"
        ].to_dict("records")

    # Half-widths are t of two degrees of freedom times 0.01 / sqrt 3: 0.0248 each.
    half_width = 4.302653 * 0.01 / math.sqrt(3)
    (apart,) = table(2.1 * half_width)
    assert (apart["over"], apart["intervals of error"]) == ("image-only", "apart")
    assert table(1.9 * half_width)[0]["intervals of error"] == "overlap"
    ratios = np.array([(1 + 0.01 * s) / (1 + 2.1 * half_width + 0.01 * s) for s in range(3)])
    assert apart["error"].split(" ")[0] == f"{ratios.mean():.{len(apart['error'].split(' ')[0]) - 2}f}"


def test_either_camera_is_the_mean_of_one_and_the_other_of_the_same_seed():
    values = {("inpainting", 0): (1.0, 2.0), ("inpainting", 1): (3.0, 5.0), ("last-value", 0): (7.0, None)}
    rows = [
        {"result": "missing", "method": method, "seed": seed, "metric": "psnr_db", "missing": place,
         "value": value, "num_samples": 5}
        for (method, seed), pair in values.items()
        for place, value in zip(("camera-1", "camera-2"), pair, strict=True)
        if value is not None
    ]  # fmt: skip
    records = pd.DataFrame(rows)
    found = with_either_camera(records)
    added = found[len(records) :]
    assert added[["method", "seed", "missing", "value", "num_samples"]].to_numpy().tolist() == [
        ["inpainting", 0, "either camera", 1.5, 10], ["inpainting", 1, "either camera", 4.0, 10],
    ]  # fmt: skip
    assert found[: len(records)].equals(records)
    assert with_either_camera(records.drop(columns="missing")).equals(records.drop(columns="missing"))


def test_bits_at_an_error_by_hand():
    bits, error = np.array([800.0, 100, 400, 200]), np.array([0.25, 0.9, 0.3, 1.5])
    # 200 bits are worse than 100, and left out: half-way from 0.9 to 0.3 the bits are sqrt(100 x 400).
    assert bits_at_error(bits, error, 0.6) == (pytest.approx(200), "")
    assert bits_at_error(bits, error, 0.3) == (pytest.approx(400), "")
    assert bits_at_error(bits, error, 0.9) == (pytest.approx(100), "")
    assert bits_at_error(bits, error, 0.95) == (100, "<")
    assert bits_at_error(bits, error, 0.24) == (800, ">")
    # More bits that don't help are still bits that were tried.
    assert bits_at_error(np.array([100.0, 900]), np.array([0.5, 0.6]), 0.4) == (900, ">")
    assert bits_at_error(np.array([100.0]), np.array([0.5]), 0.5) == (100, "")


def rate(method: str, error: float, bits: float, seed: int = 0, **axes) -> list[dict[str, object]]:
    return [row("rate", method, "localisation_error_m", error, seed, **axes),
            row("rate", method, "bits_per_step", bits, seed, **axes)]  # fmt: skip


def test_bits_are_compared_on_the_curve_of_the_same_seed():
    rows = []
    for seed, factor in enumerate((1.0, 3.0)):
        rows += rate("jpeg", 0.8, 1000 * factor, seed, quality=5, downscale=4)
        rows += rate("jpeg", 0.4, 4000 * factor, seed, quality=20, downscale=2)
        rows += rate("inpainting", 0.6, 100 * factor, seed, codec="uniform-2")
        rows += rate("inpainting", 0.3 + seed, 200, seed, codec="uniform-4")
        rows += rate("inpainting", 0.39, 200 * factor, seed, codec="uniform-8")
        rows += rate("supervised", 0.9, 50, seed, codec="uniform-2")
    table = compare_at_equal_error(pd.DataFrame(rows))
    found = {(r["method"], r["codec"]): r["times the bits at this error"] for r in table.to_dict("records")}
    # 2000 and 6000 bits against 100 and 300: 20 times, whatever the seed.
    assert found["inpainting", "uniform-2"] == "20 ± 0"
    # Of one seed never, of the other with the fewest bits already.
    assert found["inpainting", "uniform-4"] == "> 20 in 1 seed; < 15 in 1 seed"
    # More than 4000 and 12000 bits: more than 20 times.
    assert found["inpainting", "uniform-8"] == "> 20"
    # Less than 1000 and 3000: less than 60 times in both.
    assert found["supervised", "uniform-2"] == "< 60"
    within = {(r["method"], r["codec"]): r["times the bits within 5 %"] for r in table.to_dict("records")}
    # 0.63 is 17 / 40 of the way from 0.8 to 0.4.
    assert within["inpainting", "uniform-2"] == f"{10 * 4 ** (17 / 40):.4g} ± 0"


def test_the_end_of_a_flat_curve_decides_at_an_error_and_not_within_five_per_cent():
    rows = []
    for seed in range(3):
        # A millimetre is worth five times the bits, and what the last seed wants takes more still.
        rows += rate("jpeg", 0.201, 10_000, seed, quality=60, downscale=1)
        rows += rate("jpeg", 0.2, 50_000, seed, quality=95, downscale=1)
        rows += rate("jpeg", 0.8, 5000, seed, quality=5, downscale=1)
        rows += rate("inpainting", (0.2, 0.2, 0.199)[seed], 500, seed, codec="uniform-4")
    (found,) = compare_at_equal_error(pd.DataFrame(rows)).to_dict("records")
    assert found["times the bits at this error"] == "100 ± 0 in 2 seeds; > 100 in 1 seed"
    times = 10 * 2 ** ((0.8 - np.array([0.21, 0.21, 1.05 * 0.199])) / (0.8 - 0.201))
    assert found["times the bits within 5 %"].startswith(f"{times.mean():.3f} ± ")
    assert found["against at this error"] == found["against within 5 %"] == "jpeg"


def test_the_cheaper_baseline_is_one_that_gets_there():
    found = {"jpeg": BitsNeeded(300, ""), "jpeg-cameras": BitsNeeded(200, ">")}
    assert cheaper(found) == ("jpeg", (300, ""))
    assert cheaper({**found, "jpeg-cameras": BitsNeeded(200, "<")}) == ("jpeg-cameras", (200, "<"))
    assert cheaper({**found, "jpeg": BitsNeeded(300, ">")}) == ("jpeg-cameras", (200, ">"))


def test_receivers_report_as_often_with_jpeg_frames_as_with_embeddings():
    rows = []
    for interval in (1, 4):
        rows += rate("inpainting", 0.5, 100, codec="uniform-2", receiver_interval=interval)
        rows += rate("jpeg", 0.5, 4000 / interval, quality=5, downscale=1, receiver_interval=interval)
    rows += rate("image-only", 0.5, 50, codec="uniform-2", receiver_interval=1)
    rows += rate("jpeg-cameras", 0.5, 2000, quality=5, downscale=1, receiver_interval=1)
    records = pd.DataFrame(rows)
    table = compare_at_equal_error(records)
    columns = ["method", "receiver_interval", "times the bits at this error", "against at this error"]
    assert table[columns].values.tolist() == [
        # Frames alone are the cheaper ones where CSI comes in every step.
        ["inpainting", 1, "20", "jpeg-cameras"],
        ["inpainting", 4, "10", "jpeg"],
        ["image-only", 1, "40", "jpeg-cameras"],
    ]
    # Of jpeg alone each interval has its own curve.
    table = compare_at_equal_error(records[records["method"] != "jpeg-cameras"])
    assert table["times the bits at this error"].tolist() == ["40", "10"]
    drawn = dict(make_tables(records))["Error by bits per step (header and payload)"]
    assert drawn[["method", "receiver_interval"]].values.tolist()[:2] == [
        ["inpainting", 1],
        ["inpainting", 4],
    ]


def test_scans_and_files_are_compared_apart_and_scans_alone_are_drawn(tmp_path, monkeypatch):
    rows = rate("inpainting", 0.5, 100, codec="uniform-2")
    scans = rate("jpeg", 0.5, 800, quality=5, downscale=1)
    rows += [each | {"container": "scan"} for each in scans]
    rows += rate("jpeg", 0.5, 1500, quality=5, downscale=1, container="file")
    columns = ["JPEG frames sent as", "times the bits at this error"]
    records = pd.DataFrame(rows)
    assert compare_at_equal_error(records)[columns].values.tolist() == [["scans", "8"], ["files", "15"]]
    # Records that don't tell it are of scans.
    found = compare_at_equal_error(pd.DataFrame([*rows[:2], *scans]))
    assert found[columns].values.tolist() == [["scans", "8"]]
    drawn = []

    def draw(figure, folder, name):
        handles, labels = figure.axes[0].get_legend_handles_labels()
        drawn.append(
            {label: handle[0].get_xdata().tolist() for handle, label in zip(handles, labels, strict=True)}
        )
        return []

    monkeypatch.setattr(results, "save", draw)
    draw_figures(records, tmp_path)
    draw_figures(records[records["container"] != "scan"], tmp_path)
    assert [sorted(lines) for lines in drawn] == [["inpainting", "jpeg"], ["inpainting", "jpeg files"]]
    assert (drawn[0]["jpeg"], drawn[1]["jpeg files"]) == ([800], [1500])


def test_a_method_is_compared_with_jpeg_frames_of_the_sensors_that_it_has():
    rows = [*rate("jpeg", 0.5, 800, quality=5, downscale=1), *rate("jpeg-cameras", 0.5, 1000, quality=5,
            downscale=1), *rate("inpainting", 0.5, 100, codec="uniform-2"),
            *rate("image-only", 0.5, 50, codec="uniform-2")]  # fmt: skip
    table = compare_at_equal_error(pd.DataFrame(rows)).set_index("method")
    against = {"inpainting": "jpeg", "image-only": "jpeg-cameras"}
    assert table["against at this error"].to_dict() == table["against within 5 %"].to_dict() == against
    assert table["times the bits at this error"].to_dict() == {"inpainting": "8", "image-only": "20"}


def test_without_jpeg_or_embeddings_nothing_is_compared():
    jpeg = rate("jpeg", 0.8, 1000, quality=5, downscale=4)
    ours = rate("inpainting", 0.6, 100, codec="uniform-2")
    for rows in (jpeg, ours, [*ours, *(r | {"seed": 1} for r in jpeg)]):
        assert compare_at_equal_error(pd.DataFrame(rows)).empty
        assert len(make_tables(pd.DataFrame(rows))) == 1
    assert len(compare_at_equal_error(pd.DataFrame([*ours, *jpeg]))) == 1
