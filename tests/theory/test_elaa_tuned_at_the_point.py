"""What is tuned for an operating point is tuned on what arrives there: lost reports, shrunk paths."""

import torch

from channels.links.erasure import ErasureConfig
from nodes.cluster import Cluster
from scenarios.elaa.bench import Bench
from scenarios.elaa.cells import Setting, make_shared
from scenarios.elaa.data import Cell
from scenarios.elaa.feedback_bench import FeedbackBench
from scenarios.elaa.presets import TINY
from semcom.codecs.names import codec_config


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
