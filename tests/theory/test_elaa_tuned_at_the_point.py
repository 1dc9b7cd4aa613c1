"""What is tuned for an operating point is tuned on what arrives there: lost reports, shrunk paths."""

import pytest
import torch

from analysis.estimation import nmse_db
from channels.links.erasure import ErasureConfig
from nodes.cluster import Cluster
from scenarios.contracts import Point
from scenarios.elaa.bench import Bench
from scenarios.elaa.cells import Setting, make_shared
from scenarios.elaa.data import Cell
from scenarios.elaa.feedback_bench import FeedbackBench
from scenarios.elaa.hybrid import HybridEstimator, PathCombiner, StackedHybrid
from scenarios.elaa.jobs import COMBINER, TUNED, Trained
from scenarios.elaa.measures import Question, answer
from scenarios.elaa.models import CsiModel
from scenarios.elaa.patches import Patches
from scenarios.elaa.presets import TINY
from semcom.codecs.names import codec_config

NOISY_DB = 5.0


def untrained() -> dict[str, torch.Tensor]:
    """Weights of a hybrid as they are drawn, but for the share of the network's own estimate: a half."""
    patches = Patches(TINY.array, TINY.model.patch_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        modules = {
            TUNED: CsiModel(TINY.model, patches),
            COMBINER: PathCombiner(TINY.model, patches.num_patches),
        }
    torch.nn.init.zeros_(modules[COMBINER].mixing.bias)
    return {prefix + key: t for prefix, module in modules.items() for key, t in module.state_dict().items()}


@pytest.mark.parametrize(("result", "target_snr_db"), [("estimate", None), ("noisy", NOISY_DB)])
def test_a_hybrid_is_measured_as_far_as_validation_bears_it_out(result, target_snr_db):
    told = TINY.evaluation.model_copy(update={"noisy_targets_snr_db": NOISY_DB})
    point = Point(result, "hybrid", 0, {"visible_share": 0.5, "snr_db": 10.0})
    config, weights = TINY.model_copy(update={"evaluation": told}), {"elaa-jepa": untrained()}
    rows = answer(Question(config, (point,), weights))[0]
    found = next(row.value for row in rows if row.metric == "nmse_db")
    bench = Bench(TINY.array, TINY.visibility, TINY.data, Cell(0.5, 10.0), 0, target_snr_db)
    hybrid = Trained(TINY.model, TINY.array, weights["elaa-jepa"], "a test").estimator(COMBINER)
    assert isinstance(hybrid, HybridEstimator)
    alone = nmse_db(bench.test.h.numpy(), hybrid.estimate(bench.asked, bench.paths).numpy())
    assert found == pytest.approx(nmse_db(bench.test.h.numpy(), bench.stacked(hybrid).numpy()), abs=1e-4)
    # A half of a network that knows nothing costs decibels.
    assert found < alone - 1


def test_a_hybrid_of_noisy_targets_is_tuned_on_noisy_channels_whichever_result_asks():
    noisy = TINY.examples.model_copy(update={"target_snr_db": NOISY_DB})
    config, weights = TINY.model_copy(update={"examples": noisy}), {"elaa-jepa": untrained()}
    at = {"visible_share": 0.5, "snr_db": 10.0}
    points = tuple(Point("estimate", method, 0, at) for method in ("hybrid", "nomp-shrink"))
    found = [row.value for rows in answer(Question(config, points, weights)) for row in rows[:1]]
    hybrid = Trained(TINY.model, TINY.array, weights["elaa-jepa"], "a test").estimator(COMBINER)
    assert isinstance(hybrid, HybridEstimator)
    clean, told = (
        Bench(TINY.array, TINY.visibility, TINY.data, Cell(0.5, 10.0), 0, t) for t in (None, NOISY_DB)
    )
    truth = clean.test.h.numpy()
    expected = (
        nmse_db(truth, told.stacked(hybrid).numpy()),
        nmse_db(truth, clean.estimate("nomp-shrink").numpy()),
    )
    assert found == pytest.approx(expected, abs=1e-4)
    assert abs(nmse_db(truth, clean.stacked(hybrid).numpy()) - found[0]) > 1e-3


def test_reports_are_fused_by_a_hybrid_that_is_believed_as_far_as_it_is_right():
    lost = ErasureConfig(probability=0.3)
    setting = Setting("jepa-tokens-hybrid", 0, codec_config("uniform-4"), lost)
    shared = make_shared(TINY, [setting], {setting: {"jepa-tokens": untrained()}}, Cluster())
    estimator = shared[setting.key]["fuse"].estimate.estimator
    assert isinstance(estimator, StackedHybrid)
    assert (estimator.change.factor < 0.5).all()


def test_an_estimator_of_reports_that_are_lost_is_tuned_with_lost_ones():
    factors = []
    for probability in (0.0, 0.5):
        setting = Setting("raw-nomp", 0, codec_config("uniform-4"), ErasureConfig(probability=probability))
        fuse = make_shared(TINY, [setting], {}, Cluster())[setting.key]["fuse"]
        factors.append(fuse.estimate.estimator.shrink.factor)
    assert not torch.equal(*factors)


def test_paths_are_fed_back_with_gains_that_are_shrunk():
    bench = Bench(TINY.array, TINY.visibility, TINY.data, Cell(0.5, 10.0), 0)
    coded = FeedbackBench(bench, TINY, {})
    wanted, found = coded._known_estimate, bench.known_paths.field()
    away = (coded._known_paths.channels(bench.line) - wanted).abs().square().sum()
    assert away < 0.98 * (found - wanted).abs().square().sum()
