"""What scenes cost, worked by hand, and CSI numbers that no receiver's own phase or mean disturbs."""

from math import log, log10, sqrt

import pytest
import torch

from scenarios.isac.features import CsiNormaliser, FrameNormaliser
from scenarios.isac.heads import Scene, SceneHead, scene_loss

NAN = float("nan")
# Two places and two cameras: pedestrian 1 alone is there, at (0, 0), hidden from camera 1.
TRUTH_M = torch.tensor([[[NAN, NAN], [0.0, 0.0]]])
VISIBLE = torch.tensor([[[NAN, NAN], [0.2, 0.9]]])
# Place 0 says (0, 0.3), place 1 says (0, 4), both are there with odds of 3 to 1.
SCENE = Scene(
    position_m=torch.tensor([[[0.0, 0.3], [0.0, 4.0]]]),
    presence=torch.full((1, 2), log(3)),
    occlusion=torch.tensor([[[log(4), 0.0], [0.0, log(9)]]]),
    count=torch.tensor([[0.0, log(2), 0.0]]),
)


def cost(probability: float) -> float:
    return -log(probability)


@pytest.mark.parametrize(
    ("matching", "position", "occlusion"),
    [
        # Place 1 is 4 m off; of its occlusion it says 1/2, and 9/10 where there is none.
        ("identity", sqrt(16 + 1e-6) / 2, (cost(1 / 2) + cost(1 / 10)) / 2),
        # Place 0 is 0.3 m off, and right with probability 4/5 and 1/2.
        ("best", sqrt(0.09 + 1e-6) / 2, (cost(4 / 5) + cost(1 / 2)) / 2),
    ],
)
def test_a_scene_s_cost_is_that_worked_by_hand(matching, position, occlusion):
    terms = scene_loss(SCENE, TRUTH_M, VISIBLE, torch.tensor(2.0), matching)
    # One place is right to say that somebody is there, the other isn't, whichever.
    presence, count = cost(3 / 4) + cost(1 / 4), cost(2 / 4)
    expected = {"position": position, "presence": presence, "occlusion": occlusion, "count": count}
    expected["total"] = position + 0.2 * (presence + occlusion + count)
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)


def test_places_go_to_pedestrians_whatever_the_order_of_either():
    generator = torch.Generator().manual_seed(2)
    scene = Scene(
        3 * torch.rand(20, 3, 2, generator=generator),
        torch.randn(20, 3, generator=generator),
        torch.randn(20, 3, 2, generator=generator),
        torch.randn(20, 4, generator=generator),
    )
    truth_m, visible = (
        3 * torch.rand(20, 3, 2, generator=generator),
        torch.rand(20, 3, 2, generator=generator),
    )
    truth_m[:7, 1], visible[:7, 1] = NAN, NAN
    scale_m = torch.tensor(1.0)
    best = scene_loss(scene, truth_m, visible, scale_m, "best")
    order = [2, 0, 1]
    turned = Scene(
        scene.position_m[:, order], scene.presence[:, order], scene.occlusion[:, order], scene.count
    )
    for again in (
        scene_loss(turned, truth_m, visible, scale_m, "best"),
        scene_loss(scene, truth_m[:, order], visible[:, order], scale_m, "best"),
    ):
        for name, term in best.items():
            torch.testing.assert_close(again[name], term, msg=name)
    same = scene_loss(scene, truth_m, visible, scale_m, "identity")
    assert float(same["position"]) > float(best["position"])
    assert not torch.isclose(scene_loss(turned, truth_m, visible, scale_m)["total"], same["total"])


def test_gradients_are_finite_where_nobody_is_and_nothing_is_known():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        head, z = SceneHead(6, 8, 2, 2), torch.randn(4, 3, 2)
    position_m, visible = torch.full((4, 2, 2), NAN), torch.full((4, 2, 2), NAN)
    terms = scene_loss(head(z), position_m, visible, torch.tensor(1.0))
    terms["total"].backward()
    assert float(terms["position"].detach()) == float(terms["occlusion"].detach()) == 0
    assert all(bool(weight.grad.isfinite().all()) for weight in head.parameters() if weight.grad is not None)


def csi_of(num: int, seed: int) -> torch.Tensor:
    """CSI of two receivers about a mean of their own, [N, 2, F], in a phase that is always the same."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.view_as_complex(torch.randn(2, 8, 2, generator=torch.Generator().manual_seed(77)))
    return mean + 0.2 * torch.view_as_complex(torch.randn(num, 2, 8, 2, generator=generator))


def turned(csi: torch.Tensor, seed: int) -> torch.Tensor:
    """The same with a phase of its own for each step and receiver."""
    phase = 2 * torch.pi * torch.rand(csi.shape[:2], generator=torch.Generator().manual_seed(seed))
    return csi * torch.polar(torch.ones_like(phase), phase)[..., None]


def test_no_common_phase_disturbs_the_numbers_of_csi():
    normalise = CsiNormaliser(2, 8, 16)
    normalise.calibrate(csi_of(500, 1))
    fresh = csi_of(50, 2)
    for receiver in (0, 1):
        expected = normalise(fresh[:, receiver], receiver)
        assert expected.shape == (50, normalise.output_dim)
        found = normalise(turned(fresh, 3)[:, receiver], receiver)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        # The power check: one subcarrier's phase alone does disturb them, and so does strength.
        bent = fresh[:, receiver].clone()
        bent[:, 3] *= 1j
        for other in (bent, 1.01 * fresh[:, receiver]):
            assert float((normalise(other, receiver) - expected).abs().amax(dim=1).min()) > 1e-2


def test_calibration_needs_no_common_phase_either_and_normalises():
    plain, blurred = CsiNormaliser(2, 8, 16), CsiNormaliser(2, 8, 16)
    train = csi_of(500, 1)
    plain.calibrate(train)
    blurred.calibrate(turned(train, 4))
    for receiver in (0, 1):
        # The mean is known but for a phase, which turns every number of a receiver alike.
        along = (plain.mean_csi[receiver].conj() * blurred.mean_csi[receiver]).sum()
        torch.testing.assert_close(
            blurred.mean_csi[receiver] * along.conj() / along.abs(),
            plain.mean_csi[receiver],
            atol=1e-4,
            rtol=1e-4,
        )
        numbers = plain(train[:, receiver], receiver)
        torch.testing.assert_close(numbers.mean(dim=0), torch.zeros(plain.output_dim), atol=1e-4, rtol=0)
        torch.testing.assert_close(numbers.std(dim=0), torch.ones(plain.output_dim), atol=1e-3, rtol=0)


def test_frames_are_shown_without_their_background_and_put_back_before_it():
    normalise = FrameNormaliser(2, 4, 5)
    frame = torch.randint(0, 256, (9, 2, 3, 4, 5), generator=torch.Generator().manual_seed(5)).to(torch.uint8)
    frame[:6] = frame[:1]
    normalise.calibrate(frame)
    assert torch.equal(normalise(frame[0, 1:], 1), torch.zeros(1, 3, 4, 5))
    for camera in (0, 1):
        back = normalise.frame_of(normalise(frame[:, camera], camera), camera)
        torch.testing.assert_close(back, frame[:, camera].float() / 255)


def test_csi_is_told_with_and_without_its_mean():
    normaliser = CsiNormaliser(1, 4, 3)
    normaliser.mean_csi.fill_(2j)
    # As the mean is, but for the phase: one tap of size 1, and a difference of nothing, -60 dB.
    numbers = normaliser(torch.full((1, 4), 2.0 + 0j, dtype=torch.complex64), 0)[0]
    assert numbers[0].item() == pytest.approx(log10(1.001), abs=1e-5)
    torch.testing.assert_close(numbers[3:], torch.full((3,), -3.0), atol=1e-3, rtol=0)
    # Twice the mean: the difference is the mean itself.
    numbers = normaliser(torch.full((1, 4), 4.0 + 0j, dtype=torch.complex64), 0)[0]
    assert numbers[0].item() == pytest.approx(log10(2.001), abs=1e-5)
    assert numbers[3].item() == pytest.approx(log10(1.001), abs=1e-5)


def test_positions_are_told_about_the_mean_in_deviations():
    head = SceneHead(2, 4, 1, 1)
    head.calibrate(torch.tensor([[[1.0, 10.0], [5.0, 10.0]], [[3.0, 16.0], [NAN, NAN]]]))
    with torch.no_grad():
        head.net[-1].weight.zero_()
        head.net[-1].bias[:2] = torch.tensor([1.0, -1.0])
    # Mean (3, 12), deviations 2 and sqrt(12).
    torch.testing.assert_close(head(torch.zeros(1, 1, 2)).position_m[0, 0], torch.tensor([5.0, 12 - 12**0.5]))
