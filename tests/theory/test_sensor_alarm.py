"""The alarm's scores are as computed by hand, its thresholds keep their rate, and faults are as named."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from analysis.alarms import detection_at
from scenarios.isac.alarm import (
    Alarm,
    AlarmConfig,
    Evidence,
    Gaussian,
    Healthy,
    calm_scores,
    expect,
    look,
    past_windows,
    run_surprise,
    running_average,
    spoil,
)
from scenarios.isac.models import CAMERA, RECEIVER
from scenarios.isac.verdict import COMBINED, calm_combined, combined, surprise
from semcom.contracts import SemcomError

PLAIN = AlarmConfig(memory=0, shrinkage=1e-3, num_neighbours=1)


@dataclass
class Sizes:
    num_lags: int


class PlainModel:
    """Two cameras and two receivers of which each is predicted as the sum of what is known of all steps."""

    config, num_sensors, modality = Sizes(num_lags=2), 4, (CAMERA, CAMERA, RECEIVER, RECEIVER)

    def dim_of(self, sensor: int) -> int:
        return 1

    def predictor(self, context: torch.Tensor, arrived: torch.Tensor) -> torch.Tensor:
        known = torch.where(arrived[..., None], context, 0)
        return known.sum(dim=(1, 2))[:, None].expand(-1, self.num_sensors, 1)


def gaussian(num_sequences: int, num_steps: int, dim: int, seed: int) -> torch.Tensor:
    """Correlated numbers of uneven deviations about a mean that is not zero, [U, T, 1, D]."""
    mix = torch.eye(dim) + 0.3 * torch.randn(dim, dim, generator=torch.Generator().manual_seed(99))
    z = torch.randn(num_sequences, num_steps, 1, dim, generator=torch.Generator().manual_seed(seed))
    return 3.0 + z @ mix.T


def view_of(z: torch.Tensor) -> Evidence:
    """What is seen of a kind's only sensor that is predicted as zero."""
    nobody = torch.zeros(*z.shape[:2], 2, 0, z.shape[2])
    return Evidence(z, torch.zeros_like(z), nobody, nobody)


def healthy_of(z: torch.Tensor, trained: torch.Tensor) -> Healthy:
    view = view_of(z)
    return Healthy(view, view.pairs, trained)


def test_the_energy_of_a_gaussian_has_mean_one():
    dim, num = 4, 20_000
    density = Gaussian.fit(gaussian(num, 5, dim, 1).flatten(0, 2), 1e-3)
    fresh = gaussian(num, 1, dim, 2)
    sigma = (2 / (dim * num)) ** 0.5  # of the mean of chi-square variables of `dim` degrees over dim
    assert abs(float(density.energy(fresh).mean()) - 1) < 4.5 * sigma
    # The power check: deviations 2.5 % larger have 5 % more energy.
    larger = 3.0 + 1.025 * (fresh - 3.0)
    assert abs(float(density.energy(larger).mean()) - 1) > 4.5 * sigma


def test_novelty_is_the_mean_distance_to_the_next_training_embeddings():
    trained = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0], [2.0, 3.0], [2.0, -3.0]])
    deviation = trained.std(dim=0)
    z = torch.tensor([[[0.0, 0.0], [2.0, 4.0]], [[1.0, 0.0], [4.0, 0.0]]])
    alarm = Alarm.fit(PLAIN.model_copy(update={"num_neighbours": 2}), healthy_of(z, trained))
    one_x, one_y = 1 / float(deviation[0]), 1 / float(deviation[1])
    expected = torch.tensor([[one_x, (one_y + 4 * one_y) / 2], [one_x, one_x]])
    torch.testing.assert_close(alarm.scores(view_of(z))["novelty"], expected)


def test_averages_forget():
    score = torch.tensor([[4.0, 0.0, 8.0, 8.0]])
    torch.testing.assert_close(running_average(score, 0.5), torch.tensor([[4.0, 2.0, 5.0, 6.5]]))
    torch.testing.assert_close(running_average(score, 0), score)


def test_repeats_add_up_in_a_row_by_how_seldom_a_healthy_sensor_makes_them():
    # Of the three 0 two are sent again, of the two 9 none: the last 9 of a sequence has no next step.
    healthy = torch.tensor([[0.0, 0.0, 0.0, 9.0], [9.0, 3.0, 9.0, 3.0]])[..., None]
    common, rare = -torch.tensor([2.5 / 4, 0.5 / 3]).log()
    z = torch.tensor([[0.0, 0.0, 0.0, 1.0, 0.0], [3.0, 9.0, 9.0, 9.0, 9.0]])[..., None]
    found = run_surprise(z[:1], healthy, 3)
    torch.testing.assert_close(found, torch.tensor([[0, common, 2 * common, 0, 0]]))
    found = run_surprise(z[1:], healthy, 2)
    torch.testing.assert_close(found, torch.tensor([[0, 0, rare, 2 * rare, 3 * rare]]))


def test_a_sensor_is_predicted_without_itself_and_its_kind_from_the_past():
    z = torch.randn(2, 3, 4, 1, generator=torch.Generator().manual_seed(4))
    model = PlainModel()
    expected = expect(model, z, [0, 1])
    found = look(model, z, 0, expected)
    past = torch.cat((torch.zeros(2, 1, 4, 1), z[:, :-1]), dim=1)
    torch.testing.assert_close(found.z, z[:, :, 0])
    torch.testing.assert_close(found.by_others, (z + past)[:, :, 1:].sum(dim=2))
    torch.testing.assert_close(found.pairs[:, :, :, 0], z[:, :, :2])
    without = past.sum(dim=2) + z[:, :, 2:].sum(dim=2)
    torch.testing.assert_close(found.expected, without[:, :, None, None].expand(-1, -1, 2, 1, -1))
    # Of the last receiver the first one is the other.
    torch.testing.assert_close(look(model, z, 3, expected).pairs[:, :, :, 0], z[:, :, [3, 2]])


def test_surprise_is_the_rank_among_calm_scores_and_goes_on_above_them():
    calm = torch.arange(9.0)[:, None]
    # At least as large as 4, 7 and 9 are five, two and none of nine. The largest is 8, the next one is 7.
    found = surprise(calm, torch.tensor([4.0, 7.0, 9.0]))
    beyond = torch.tensor([0.0, 0.0, (9.0 - 8) / (8 - 7)])
    torch.testing.assert_close(found, beyond - torch.tensor([0.6, 0.3, 0.1]).log())


def test_the_alarm_is_the_score_that_counts_most():
    calm = {name: torch.arange(9.0)[:, None] for name in COMBINED}
    usual = {name: torch.zeros(1, 1) for name in COMBINED}
    odd = sum(COMBINED[name] for name in ("energy", "novelty")) * -torch.tensor([[0.3]]).log()
    scores = usual | {name: torch.full((1, 1), 7.0) for name in ("energy", "novelty")}
    torch.testing.assert_close(combined(calm, scores), odd)
    torch.testing.assert_close(
        combined(calm, scores | {"repeats": torch.full((1, 1), 2.0)}), torch.tensor([[6.0]])
    )
    torch.testing.assert_close(
        combined(calm, scores | {"swap": torch.full((1, 1), 16.0)}), torch.tensor([[4.0]])
    )
    # The last of nine calm ones is above all others.
    beyond = torch.tensor(1.0) - torch.tensor(1 / 9).log()
    torch.testing.assert_close(calm_combined(calm)[8, 0], torch.maximum(beyond, torch.tensor(24.0)))
    alone = calm | {name: torch.zeros(9, 1) for name in ("repeats", "swap")}
    torch.testing.assert_close(calm_combined(alone)[8, 0], beyond)


def test_the_combined_score_keeps_its_rate():
    num, num_rounds, rate, generator = 39, 100, 0.05, torch.Generator().manual_seed(5)

    def drawn(num: int) -> dict[str, torch.Tensor]:
        return {name: torch.randn(num, 1, generator=generator) for name in COMBINED}

    together, alone = [], []
    for _ in range(num_rounds):
        calm, fresh = drawn(num), drawn(400)
        usual = combined(calm, fresh).flatten().numpy()
        threshold = calm_combined(calm).flatten().numpy()
        together.append(detection_at(threshold, usual, usual, rate).false_alarm_rate)
        highest = {name: score.flatten().sort().values[-2] for name, score in calm.items()}
        alone.append(
            float(
                torch.cat([fresh[name] > highest[name] for name in COMBINED], dim=1).any(dim=1).float().mean()
            )
        )
    # Of 39 + 1 that are exchangeable one is above the second largest of the others with probability 2 / 40.
    sigma = float(np.std(together)) / num_rounds**0.5
    assert abs(float(np.mean(together)) - rate) < 4.5 * sigma
    # The power check: thresholds of each score alone alarm in 1 - 0.95^4 = 18.5 % of the steps.
    assert abs(float(np.mean(alone)) - rate) > 4.5 * sigma


def test_windows_look_back_and_know_where_a_sequence_begins():
    window, known = past_windows(torch.arange(4.0)[None, :, None], 3)
    assert window[0, :, :, 0].tolist() == [[0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 2, 1]]
    assert known[0].tolist() == [[True, False, False], [True, True, False], [True] * 3, [True] * 3]


def test_a_threshold_keeps_its_rate_only_on_sequences_the_alarm_was_not_fitted_to():
    """Of few sequences of many dimensions, those fitted to look much calmer than new ones."""
    dim, rate = 24, 0.05
    config = PLAIN.model_copy(update={"shrinkage": 0.01})
    trained = gaussian(40, 5, dim, 3).flatten(0, 2)
    held, fresh = (healthy_of(gaussian(num, 5, dim, num)[:, :, 0], trained) for num in (20, 400))
    alarm = Alarm.fit(config, held)
    usual = alarm.scores(fresh.view)["energy"].flatten().numpy()
    found = {}
    for name, calm in (("others", calm_scores(config, held)), ("fitted", alarm.scores(held.view))):
        calmed = calm["energy"].flatten().numpy()
        found[name] = detection_at(calmed, usual, usual, rate).false_alarm_rate
    # A threshold from n scores has a rate of deviation sqrt(a (1 - a) / n).
    highest = rate + 4.5 * (rate * (1 - rate) / 100) ** 0.5
    assert found["others"] <= highest
    assert found["fitted"] > highest  # the power check
    with pytest.raises(SemcomError, match="2 sequences without faults"):
        calm_scores(config, held.of(torch.arange(20) < 1))


def test_a_frozen_sensor_is_told_at_once_where_healthy_ones_hardly_ever_repeat_themselves():
    z = torch.randint(16, (500, 2, 4), generator=torch.Generator().manual_seed(6)).float()
    calm, frozen = (run_surprise(sent, z, 50)[:, 1].numpy() for sent in (z, z[:, :1].expand(-1, 2, -1)))
    assert detection_at(calm, calm, frozen, 0.05).detection_rate == 1


def test_a_frozen_sensor_is_told_although_healthy_ones_repeat_themselves_where_nobody_is():
    """One view in four is empty and comes again always, with the same numbers; all others never do."""
    generator = torch.Generator().manual_seed(8)
    empty = torch.rand(500, 1, 1, generator=generator) < 0.25
    z = torch.where(empty, 0.0, torch.randn(500, 3, 4, generator=generator))
    frozen = z[:, :1].expand(-1, 3, -1)
    seen = ~empty.flatten().numpy()
    calm, scores = (run_surprise(sent, z, 10)[:, 1].numpy() for sent in (z, frozen))
    assert detection_at(calm, calm, scores[seen], 0.05).detection_rate == 1
    # The power check: counted alike, the repeats of the empty views hide those of all others.
    calm, scores = ((sent[:, 1] == sent[:, 0]).all(dim=-1).float().numpy() for sent in (z, frozen))
    assert detection_at(calm, calm, scores[seen], 0.05).detection_rate == 0


FIRST, SHAPE = 3, (4, 9, 3, 6, 5)


def spoiled(observed: torch.Tensor, fault: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    others = observed.flip(0)
    before = observed.clone()
    found = spoil(observed, others, fault, FIRST, torch.Generator().manual_seed(seed))
    # Up to the fault all is well, and what was given is left alone.
    assert torch.equal(observed, before)
    assert torch.equal(found[:, :FIRST], observed[:, :FIRST])
    assert (found.dtype, found.shape) == (observed.dtype, observed.shape)
    return found[:, FIRST:], others[:, FIRST:]


def frames(seed: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (120 + 20 * torch.randn(SHAPE, generator=generator)).round().clamp(0, 255).to(torch.uint8)


def csi(seed: int = 7) -> torch.Tensor:
    numbers = torch.randn((4, 9, 16, 2), generator=torch.Generator().manual_seed(seed))
    return 3 * torch.view_as_complex(numbers)


@pytest.mark.parametrize("observe", [frames, csi])
def test_what_is_frozen_repeats_and_what_is_swapped_is_the_other_s(observe):
    observed = observe()
    found, _ = spoiled(observed, "frozen")
    assert torch.equal(found, observed[:, FIRST - 1 : FIRST].expand_as(found))
    found, others = spoiled(observed, "swapped")
    assert torch.equal(found, others)


def test_noise_has_the_mean_and_the_deviation_of_what_it_replaces():
    found = spoiled(frames(), "noise")[0].double()
    num = found.numel()
    assert abs(float(found.mean()) - 120) < 4.5 * 20 * (2 / num) ** 0.5
    assert abs(float(found.mean()) - 124) > 4.5 * 20 * (2 / num) ** 0.5  # the power check
    assert abs(float(found.std()) - 20) < 4.5 * 20 / num**0.5
    assert abs(float(found.std()) - 24) > 4.5 * 20 / num**0.5
    found = spoiled(csi(), "noise")[0]
    power = found.abs().double().square()
    # 9 of each part: 18, of exponential distribution; what it is taken from is such a sample itself.
    sigma = 18 * (1 / power.numel() + 1 / csi().numel()) ** 0.5
    assert abs(float(power.mean()) - 18) < 4.5 * sigma
    assert abs(float(power.mean()) - 1.4 * 18) > 4.5 * sigma
    assert not torch.equal(found, spoiled(csi(), "noise", seed=1)[0])
