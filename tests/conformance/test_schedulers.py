"""Every scheduler keeps within the step's resources, and each of them has its rule."""

import pickle

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from nodes.schedulers import (
    SCHEDULERS,
    AgeConfig,
    AgeScheduler,
    MaxSnrConfig,
    PeriodicConfig,
    RoundRobinConfig,
    Scheduler,
    SchedulerConfig,
    fill,
    make_scheduler,
)
from semcom.contracts import SemcomError

NUM_DEVICES = 50
SHARED = [name for name in SCHEDULERS if name != "periodic"]

every_scheduler = pytest.mark.parametrize("name", SCHEDULERS)
every_shared_scheduler = pytest.mark.parametrize("name", SHARED)


def scheduler_of(name: str, num_devices: int = NUM_DEVICES, **settings: float) -> Scheduler:
    return make_scheduler(
        TypeAdapter(SchedulerConfig).validate_python({"kind": name, **settings}), num_devices
    )


def grants(scheduler: Scheduler, num_steps: int, share: np.ndarray | None = None) -> list[np.ndarray]:
    """Runs a scheduler in a world where everything that is granted arrives, over a changing radio."""
    rng = np.random.default_rng(3)
    age = np.zeros(NUM_DEVICES, dtype=np.int64)
    granted = []
    for step in range(num_steps):
        of_step = rng.uniform(0.01, 0.4, NUM_DEVICES) if share is None else share
        sinr = rng.exponential(10, (NUM_DEVICES, 4)).astype(np.float32)
        granted.append(scheduler.grant(step, age, of_step, sinr))
        age += 1
        age[granted[-1]] = 0
        if share is None and scheduler.shares_resources:
            assert of_step[granted[-1]].sum() <= 1 + 1e-12
            # Nobody who was left out would have fitted.
            rest = np.setdiff1d(np.arange(NUM_DEVICES), granted[-1])
            assert (of_step[rest] > 1 - of_step[granted[-1]].sum() - 1e-12).all()
    return granted


@every_scheduler
def test_grants_are_distinct_devices_and_repeatable(name):
    some = grants(scheduler_of(name), 60)
    for granted, again in zip(some, grants(scheduler_of(name), 60), strict=True):
        assert granted.dtype == np.int64
        assert len(set(granted.tolist())) == len(granted)
        assert ((granted >= 0) & (granted < NUM_DEVICES)).all()
        np.testing.assert_array_equal(granted, again)


@every_scheduler
def test_a_pickled_scheduler_goes_on_as_if_nothing_had_happened(name):
    one = scheduler_of(name)
    grants(one, 5)
    other = pickle.loads(pickle.dumps(one))
    age, share = np.arange(NUM_DEVICES), np.full(NUM_DEVICES, 0.2)
    sinr = np.random.default_rng(4).exponential(10, (NUM_DEVICES, 4))
    for step in range(5, 20):
        np.testing.assert_array_equal(one.grant(step, age, share, sinr), other.grant(step, age, share, sinr))


@pytest.mark.parametrize("name", ["round-robin", "age"])
def test_equal_devices_are_served_equally_often(name):
    granted = grants(scheduler_of(name), 100, np.full(NUM_DEVICES, 0.2))
    assert {len(some) for some in granted} == {5}
    np.testing.assert_array_equal(np.bincount(np.concatenate(granted), minlength=NUM_DEVICES), 10)


@every_shared_scheduler
def test_a_device_rests_for_the_minimum_interval(name):
    granted = grants(scheduler_of(name, min_interval_steps=4), 41, np.full(NUM_DEVICES, 0.01))
    for device in range(NUM_DEVICES):
        steps = [step for step, some in enumerate(granted) if device in some]
        assert steps == list(range(0, 41, 4))


@every_shared_scheduler
def test_a_device_that_can_send_nothing_holds_up_nobody(name):
    share = np.full(NUM_DEVICES, 0.02)
    share[7] = np.inf
    for granted in grants(scheduler_of(name), 3, share):
        assert sorted(granted.tolist()) == [k for k in range(NUM_DEVICES) if k != 7]


@every_shared_scheduler
def test_everyone_is_granted_on_a_link_that_is_not_shared(name):
    for granted in grants(scheduler_of(name), 3, np.zeros(NUM_DEVICES)):
        assert len(granted) == NUM_DEVICES


def test_fill_skips_who_does_not_fit_and_goes_on():
    share = np.array([0.5, 0.4, 0.3, 0.1, 0.05, 2.0])
    assert fill(np.array([5, 0, 1, 2, 3, 4]), share).tolist() == [0, 1, 3]
    assert fill(np.array([2, 4, 1, 0, 3]), share).tolist() == [2, 4, 1, 3]
    assert fill(np.array([5]), share).tolist() == []
    assert fill(np.arange(10), np.full(10, 0.1)).tolist() == list(range(10))  # 10 x 0.1 rounds


def test_periodic_in_phase_and_staggered():
    age = np.zeros(5)
    together = make_scheduler(PeriodicConfig(interval_steps=3), 5)
    assert [together.grant(t, age, None, None).tolist() for t in range(4)] == [
        [0, 1, 2, 3, 4],
        [],
        [],
        [0, 1, 2, 3, 4],
    ]
    staggered = make_scheduler(PeriodicConfig(interval_steps=3, staggered=True), 5)
    assert [staggered.grant(t, age, None, None).tolist() for t in range(4)] == [[0, 3], [1, 4], [2], [0, 3]]


def test_round_robin_by_hand():
    scheduler = make_scheduler(RoundRobinConfig(), 4)
    share = np.array([0.6, 0.6, 0.4, 0.4])
    # 0 leaves room for 2; 1 is then the oldest and leaves room for 3; then 0 and 2 are (0 by its number).
    assert [scheduler.grant(t, np.zeros(4), share, None).tolist() for t in range(3)] == [
        [0, 2],
        [1, 3],
        [0, 2],
    ]


def test_max_snr_by_hand():
    sinr = np.array([[1.0, 3.0], [9.0, 1.0], [4.0, 4.0], [0.1, 0.1]])
    share = np.array([0.4, 0.5, 0.6, 0.5])
    granted = make_scheduler(MaxSnrConfig(), 4).grant(0, np.zeros(4), share, sinr)
    assert granted.tolist() == [1, 0]  # means 2, 5, 4, 0.1; device 2 no longer fits beside device 1
    with pytest.raises(SemcomError, match="max-snr scheduler needs a channel"):
        make_scheduler(MaxSnrConfig(), 4).grant(0, np.zeros(4), share, None)


def test_age_by_hand():
    scheduler = make_scheduler(AgeConfig(max_mean_age_steps=1.5, penalty_weight=2), 3)
    assert isinstance(scheduler, AgeScheduler)
    share = np.array([0.5, 0.25, 1.0])
    # Q = 0; w = 2 x 1 = 2 each; w / r = 4, 8, 2.
    assert scheduler.grant(0, np.array([0, 0, 0]), share, None).tolist() == [1, 0]
    # Ages 0, 0, 1 miss no bound: Q = 0; w = 2, 2, 4; w / r = 4, 8, 4.
    assert scheduler.grant(1, np.array([0, 0, 1]), share, None).tolist() == [1, 0]
    np.testing.assert_array_equal(scheduler.queue, [0, 0, 0])
    # Ages 0, 0, 2: Q_2 = 2 - 1.5; w = 2, 2, 2.5 x 3; w / r = 4, 8, 7.5: 1 first, then 2 does not fit.
    assert scheduler.grant(2, np.array([0, 0, 2]), share, None).tolist() == [1, 0]
    np.testing.assert_array_equal(scheduler.queue, [0, 0, 0.5])
    # Ages 0, 0, 3: Q_2 = 0.5 + 3 - 1.5 = 2; w_2 / r_2 = 4 x 4 = 16.
    assert scheduler.grant(3, np.array([0, 0, 3]), share, None).tolist() == [2]
    np.testing.assert_array_equal(scheduler.queue, [0, 0, 2])
    # Ages 1, 1, 0: Q_2 = 2 + 0 - 1.5 = 0.5; w / r = 2 x 2 / 0.5 = 8, 16, 2.5.
    assert scheduler.grant(4, np.array([1, 1, 0]), share, None).tolist() == [1, 0]
    np.testing.assert_array_equal(scheduler.queue, [0, 0, 0.5])


def test_the_catalogue_names_every_configuration():
    for name, text in SCHEDULERS.items():
        assert TypeAdapter(SchedulerConfig).validate_python({"kind": name}).kind == name
        assert "\n" not in text
    with pytest.raises(ValidationError):
        TypeAdapter(SchedulerConfig).validate_python({"kind": "fifo"})
    with pytest.raises(ValidationError):
        PeriodicConfig(interval_steps=0)
