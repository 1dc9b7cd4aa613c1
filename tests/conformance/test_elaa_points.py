"""Operating points of the array scenario: which there are, and that they say what plain calls say."""

import numpy as np
import pytest
import torch

from analysis.estimation import nmse_db
from channels.links.erasure import ErasureConfig
from channels.links.nr import NrConfig
from nodes.cluster import Cluster
from scenarios.contracts import Point
from scenarios.elaa.bench import Bench
from scenarios.elaa.cells import air_bench, resolve
from scenarios.elaa.data import Cell, draw_part, draw_sample
from scenarios.elaa.linear import tune_lmmse
from scenarios.elaa.measures import group
from scenarios.elaa.presets import TINY
from scenarios.elaa.scenario import SCENARIO
from semcom.contracts import Record, SemcomError

CELL = {"visible_share": 0.5, "snr_db": 10.0}
FED_BACK = {"visible_share": 1.0, "snr_db": 20.0}


def values(points: list[Point]) -> list[dict[str, float]]:
    records = SCENARIO.simulate(TINY, points, {}, Cluster())
    return [{row.metric: row.value for row in rows} for rows in records]


def test_parts_of_a_seed_s_data_share_no_channel_and_seeds_none():
    drawn = [
        draw_part(TINY.array, part, 8, seed) for part in ("training", "validation", "test") for seed in (0, 1)
    ]
    flat = torch.cat(drawn).flatten(1)
    assert len({row.numpy().tobytes() for row in flat}) == len(flat)


def test_channels_are_the_same_at_every_point_and_masks_at_every_snr():
    one, other = (
        draw_sample(TINY.array, TINY.visibility, TINY.data, "test", Cell(0.5, snr), 0) for snr in (0, 20)
    )
    assert torch.equal(one.h, other.h)
    assert torch.equal(one.visible, other.visible)
    assert not torch.equal(one.observed.y, other.observed.y)
    whole = draw_sample(TINY.array, TINY.visibility, TINY.data, "test", Cell(1.0, 0.0), 0)
    assert torch.equal(whole.h, one.h)
    assert bool(whole.visible.all())
    assert one.visible.float().mean() == 0.5


def test_an_unknown_mask_hides_what_is_hidden_and_tells_nobody():
    sample = draw_sample(TINY.array, TINY.visibility, TINY.data, "test", Cell(0.5, 30.0, mask_known=False), 0)
    assert bool(sample.observed.visible.all())
    power = sample.observed.y.abs().square()
    assert power[~sample.visible].mean() < 0.01 < 0.3 < power[sample.visible].mean()
    bench = Bench(TINY.array, TINY.visibility, TINY.data, Cell(0.5, 30.0, mask_known=False), 0)
    assert (bench.asked.visible == bench.test.visible).float().mean() > 0.95


def test_records_are_the_metrics_of_the_estimates():
    points = [Point("estimate", method, 0, CELL) for method in ("ls", "nomp-shrink")]
    bench = Bench(TINY.array, TINY.visibility, TINY.data, Cell(0.5, 10.0), 0)
    for point, found in zip(points, values(points), strict=True):
        assert found["nmse_db"] == nmse_db(bench.test.h.numpy(), bench.estimate(point.method).numpy())
    assert values(points[::-1]) == values(points)[::-1]


def test_a_method_s_records_do_not_hang_on_which_others_are_asked():
    alone = values([Point("estimate", "nomp", 0, CELL)])
    assert alone[0] == values([Point("estimate", name, 0, CELL) for name in ("lmmse", "nomp", "ls")])[1]


def test_reports_without_loss_are_what_the_sub_arrays_see_and_losses_cost():
    at = {"codec": "uniform-6", **CELL}
    rate, lost = values(
        [Point("rate", "raw-ls", 0, at), Point("loss", "raw-ls", 0, at | {"erasure_probability": 1.0})]
    )
    bench = air_bench(TINY, 0)
    seen = nmse_db(bench.test.h.numpy(), bench.asked.y.numpy())
    assert rate["nmse_db"] == pytest.approx(seen, abs=0.1)
    # Of a user nobody hears the estimate is 0, whose error is the channel.
    assert lost["nmse_db"] == pytest.approx(0, abs=1e-6)
    num_sub_arrays = TINY.array.num_elements // TINY.subarray_size
    sees = bench.asked.visible.unflatten(1, (num_sub_arrays, -1)).any(dim=2).float().sum(dim=1).mean()
    assert rate["header_bits"] == lost["header_bits"] == pytest.approx(64 * float(sees))
    assert rate["payload_bits"] == pytest.approx(float(sees) * 2 * TINY.subarray_size * 6)


def test_a_point_s_axes_say_what_the_configuration_leaves_open():
    told = TINY.model_copy(update={"link": NrConfig()})
    assert resolve(told, Point("rate", "raw-ls", 0, {"codec": "uniform-2"})).link == ErasureConfig(
        probability=0.0
    )
    loss = resolve(told, Point("loss", "raw-ls", 0, {"codec": "uniform-2", "erasure_probability": 0.25}))
    assert loss.link == ErasureConfig(probability=0.25)
    assert resolve(told, Point("air", "raw-ls", 3)).link == NrConfig()


@pytest.mark.parametrize(
    "result", ["estimate", "unknown", "size", "ahead", "band", "feedback", "rate", "loss"]
)
def test_every_result_has_every_method_that_it_is_asked_for(result):
    told = TINY.evaluation
    asked = {
        "estimate": told.methods, "unknown": told.unknown_methods, "size": told.size_methods,
        "ahead": told.forecasters, "band": told.band_methods, "feedback": told.feedbacks,
        "rate": told.air_methods, "loss": told.air_methods,
    }  # fmt: skip
    assert {point.method for point in SCENARIO.points(TINY, (0,)) if point.result == result} == set(
        asked[result]
    )


def test_forecasts_grow_worse_with_the_look_ahead_and_see_no_future():
    methods = ("last-value", "wiener", "s-omp")
    at = {"visible_share": 0.5, "snr_db": 10.0}
    now, later = (
        values([Point("ahead", name, 0, {"look_ahead": ahead, **at}) for name in methods]) for ahead in (0, 1)
    )
    assert later[0]["nmse_db"] > now[0]["nmse_db"] + 1


def test_a_feedback_s_bits_are_those_of_its_payloads():
    rows: list[list[Record]] = SCENARIO.simulate(
        TINY, [Point("feedback", "dft-codebook", 0, {"bits": 64, **FED_BACK})], {}, Cluster()
    )
    spent = {row.metric: row.value for row in rows[0]}["payload_bits"]
    assert spent <= 64
    assert np.isclose(spent % 8, 0)


def test_numbers_of_bits_share_a_bench_and_change_nothing():
    """NOMP runs once for all of a share's numbers of bits; other shares are other benches."""
    points = [
        Point("feedback", "dft-codebook", 0, {"bits": bits, **FED_BACK, "visible_share": share})
        for share in (1.0, 0.5)
        for bits in (64, 32)
    ]
    assert group(points) == [[0, 1], [2, 3]]
    together = values(points)
    assert values(points[1:2]) == together[1:2]
    assert together[0]["nmse_db"] < together[1]["nmse_db"]
    assert together[0]["nmse_db"] < together[2]["nmse_db"]


@pytest.mark.parametrize(
    ("result", "method", "axes"),
    [
        ("estimate", "ls", {"visible_share": 0.5, "snr_db": 10.0}),
        ("unknown", "lmmse", {"visible_share": 0.5, "snr_db": 10.0}),
        ("sweep", "ls", {}),
        ("size", "ls", {"num_elements": 32, "visible_share": 0.5, "snr_db": 10.0}),
        ("ahead", "last-value", {"look_ahead": 1, "visible_share": 0.5, "snr_db": 10.0}),
        ("band", "ls-band", {"visible_share": 0.5, "snr_db": 10.0}),
        ("rate", "raw-ls", {"codec": "uniform-4", "visible_share": 0.5, "snr_db": 10.0}),
        ("feedback", "dft-codebook", {"bits": 64, "visible_share": 1.0, "snr_db": 20.0}),
    ],
)
def test_estimates_have_all_test_channels_and_other_results_fewer(result, method, axes):
    """Asked for more than there are test channels, the others have as many as estimates."""
    for others, expected in ((3, 3), (50, 6)):
        data = TINY.data.model_copy(update={"num_test": 6, "num_test_others": others})
        told = TINY.model_copy(update={"data": data})
        rows = SCENARIO.simulate(told, [Point(result, method, 0, axes)], {}, Cluster())[0]
        (num,) = {row.num_samples for row in rows if row.metric == "nmse_db"}
        assert num == (6 if result in ("estimate", "unknown", "sweep") else expected)


def test_an_unknown_estimator_is_refused():
    with pytest.raises(SemcomError, match="no estimator is called kalman"):
        Bench(TINY.array, TINY.visibility, TINY.data, Cell(0.5, 10.0), 0).estimate("kalman")


def test_the_central_unit_takes_no_hidden_element_for_an_observation_of_zero():
    """A report of the whole array, a quarter of it hidden, is worth what four of its parts are."""
    point = Point("rate", "raw-nomp", 0, {"codec": "uniform-8", **CELL})
    tiny = TINY.model_copy(update={"data": TINY.data.model_copy(update={"num_test": 64})})
    whole = tiny.model_copy(update={"subarray_size": 64})
    parts, at_once = (
        {row.metric: row.value for row in SCENARIO.simulate(told, [point], {}, Cluster())[0]}
        for told in (tiny, whole)
    )
    # Of zeros that count it would be some -5 dB.
    assert at_once["nmse_db"] == pytest.approx(parts["nmse_db"], abs=1.5)
    assert at_once["header_bits"] == 64


def test_the_covariance_is_that_of_all_training_channels():
    told = TINY.data.model_copy(update={"num_training": 5000})
    bench = Bench(TINY.array, TINY.visibility, told, Cell(0.5, 10.0), 0)
    training = draw_part(TINY.array, "training", 5000, 0)[:, -1]
    expected = tune_lmmse(training, bench.known, bench.validation.h).estimate(bench.asked)
    assert torch.equal(bench.estimate("lmmse"), expected)
