"""What the links scenario reads off its curves: thresholds and distances, on curves worked by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from scenarios.catalogue import load_scenario
from scenarios.links.config import LinksConfig
from scenarios.links.results import distances, snr_at
from semcom.contracts import SemcomError

SNR_DB = np.arange(0.0, 6.0)


def waterfall(centre_db: float) -> np.ndarray:
    return norm.sf(SNR_DB - centre_db)


def curves(**centres_db: float) -> pd.DataFrame:
    return pd.concat(
        pd.DataFrame({"method": name.replace("_", "-"), "snr_db": SNR_DB, "value": waterfall(centre_db)})
        for name, centre_db in centres_db.items()
    )


def test_a_threshold_lies_between_the_points_around_it():
    assert snr_at(SNR_DB, waterfall(2.3), 0.5) == pytest.approx(2.3)
    assert snr_at(SNR_DB, waterfall(2.3), float(norm.sf(1.0))) == pytest.approx(3.3)
    assert np.isnan(snr_at(SNR_DB, waterfall(9.0), 0.1))
    # Points without failures or arrivals say nothing of where the curve goes.
    counted = np.array([1.0, 0.9, 0.5, 0.1, 0.0, 0.0])
    assert snr_at(SNR_DB, counted, 0.1) == pytest.approx(3.0)
    assert np.isnan(snr_at(SNR_DB, counted, 0.05))


def test_curves_a_given_shift_apart_are_that_far_apart():
    in_bler, in_db, in_either = distances(curves(nr=2.0, nr_bit=2.4), "nr-bit", "nr")
    assert in_db == pytest.approx(0.4)
    assert in_bler == pytest.approx(max(abs(waterfall(2.4) - waterfall(2.0))[1:5]))
    assert in_either > 1
    assert distances(curves(nr=2.0, nr_bit=2.29), "nr-bit", "nr")[2] < 1
    assert distances(curves(nr=2.0, nr_bit=2.0), "nr-bit", "nr") == pytest.approx((0, 0, 0))


def test_a_curve_that_is_wrong_altogether_is_not_near():
    good = curves(nr=2.0)
    for wrong in (1.0, 0.0):
        bad = pd.DataFrame({"method": "nr-bit", "snr_db": SNR_DB, "value": wrong})
        in_bler, in_db, in_either = distances(pd.concat([good, bad]), "nr-bit", "nr")
        assert in_bler > 0.8
        assert np.isnan(in_db)
        assert in_either > 10
    # Counts that rise and fall again: the same curve is no distance from itself.
    counted = [0.9, 0.5, 0.3, 0.4, 0.1, 0.02]
    twice = pd.concat(
        pd.DataFrame({"method": name, "snr_db": SNR_DB, "value": counted}) for name in ("nr", "nr-bit")
    )
    assert distances(twice, "nr-bit", "nr") == (0, 0, 0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mcs_table_2": (1,)}, "mcs_table_2.*take 2 to 27"),
        ({"mcs_table_1": (), "mcs_table_2": ()}, "name at least one MCS"),
        ({"methods": ()}, "methods is empty"),
        ({"packet_bytes": 4096}, "packet_bytes = 4096.*take at most"),
        ({"channels": ()}, "channels is empty"),
        ({"grid": {"num_data_symbols": 9}}, r"grid\.num_data_symbols"),
        ({"point": {"mcs_table": 2, "mcs_index": 1}}, "point.mcs_index"),
    ],
)
def test_what_can_not_be_measured_is_refused_before_anything_runs(settings, words):
    with pytest.raises(SemcomError, match=words):
        load_scenario("links").points(LinksConfig.model_validate(settings), (0,))
