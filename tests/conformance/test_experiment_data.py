"""The stage of an experiment that makes data: when it is shown, and how far it is said to be."""

from contextlib import contextmanager
from pathlib import Path

import charting_setups
import pytest

from nodes.cluster import Cluster
from scenarios.charting import scenario as charting
from scenarios.charting.config import TINY
from scenarios.charting.scenario import SCENARIO
from scenarios.experiment import _prepare
from semcom.contracts import SemcomError


class Noted:
    """A progress that keeps what it was told: a list [name, total, the counts added]."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int, list[int]]] = []

    @contextmanager
    def stage(self, name, total):
        added: list[int] = []
        self.stages.append((name, total, added))
        yield added.append

    def warn(self, text):
        raise AssertionError(text)


@pytest.mark.parametrize(
    ("missing", "added"),
    [
        ((), None),
        ((0, 1), [1, 1, 1, 1, 1, 1]),
        # Seed 1 is there: the three parts of it count when all is done.
        ((0,), [1, 1, 1, 3]),
        # Seed 0 is there: its parts count with the first one of seed 1.
        ((1,), [4, 1, 1]),
    ],
)
def test_the_stage_is_shown_where_there_is_something_to_make_and_comes_to_its_end(
    monkeypatch, missing, added
):
    asked = []

    def obtain(scene, seed, cluster, on_progress):
        asked.append(seed)
        for done in range(1, 4) if seed in missing else ():
            on_progress(done, 3)
        return Path("nowhere")

    monkeypatch.setattr(charting, "obtain_dataset", obtain)
    progress = Noted()
    _prepare(SCENARIO, TINY, [0, 1], Cluster(), progress)
    assert asked == [0, 1]
    assert progress.stages == ([] if added is None else [("data", 6, added)])


def test_recorded_data_are_read_and_found_to_suffice_without_a_stage():
    progress, config = Noted(), charting_setups.config()
    _prepare(SCENARIO, config, [0, 1], Cluster(), progress)
    assert not progress.stages
    far = config.model_copy(
        update={"evaluation": config.evaluation.model_copy(update={"look_aheads_s": (9.0,)})}
    )
    with pytest.raises(SemcomError, match=r"evaluation.look_aheads_s up to 9 s \(45 positions\)"):
        _prepare(SCENARIO, far, [0], Cluster(), progress)
