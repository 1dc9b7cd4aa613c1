"""What the stages of a training are given, and that each learns what it is for."""

import isac_setups
import pytest
import torch
from isac_setups import task

from scenarios.isac import training
from scenarios.isac.mixing import Draw
from scenarios.isac.task import Task, embed_all
from semcom.targets import EmaTarget

NUM_STEPS = isac_setups.config().data.room.num_steps


def with_embeddings(made: Task, z: torch.Tensor) -> Task:
    """Puts embeddings [U, T, S, D] in the place of those that the encoders would make."""
    made.z = z * made.model.predictor.real
    made.deviation = torch.zeros(z.shape[2:])
    return made


def numbered(made: Task) -> torch.Tensor:
    """Embeddings that tell the step's number over all sequences."""
    num = made.train.num_sequences
    number = torch.arange(num * NUM_STEPS, dtype=torch.float32).unflatten(0, (num, NUM_STEPS))
    return number[..., None, None].expand(-1, -1, made.model.num_sensors, made.model.embedding_dim)


def test_windows_run_back_from_a_step_and_stop_at_its_sequence_s_beginning():
    made = task()
    context, newest, draw = with_embeddings(made, numbered(made)).windows(400)
    first, rows = context[:, :, 0, 0], draw.rows
    assert torch.equal(newest, context[:, 0])
    assert not len(draw.mixed)
    assert torch.equal(first[:, 0], rows.float())
    begins = rows % NUM_STEPS == 0
    # The tiny preset's windows have two steps.
    assert torch.equal(first[~begins, 1], rows[~begins] - 1.0)
    assert 0 < int(begins.sum()) < 400
    assert bool(context[begins, 1].isnan().all())
    assert set(rows.tolist()) == set(range(made.train.num_sequences * NUM_STEPS))


@pytest.mark.parametrize("num_lags", [1, 2])
def test_nothing_is_hidden_from_the_share_of_rows_that_are_to_be_whole(num_lags):
    num, share = 20_000, 0.4
    # The other rows miss everything, at least in the present step.
    made = task(whole_share=share, modality_probability=1.0, link_probability=1.0)
    hidden = made.hidden(num, num_lags)
    assert hidden.shape == (num, num_lags, made.model.num_sensors)
    whole = float((~hidden.flatten(1).any(dim=1)).float().mean())
    sigma = (share * (1 - share) / num) ** 0.5
    assert abs(whole - share) < 4.5 * sigma
    assert abs(whole - 1.05 * share) > 4.5 * sigma  # the power check


def test_what_is_broken_stays_so_up_to_the_present_step():
    made = task(whole_share=0.0, modality_probability=1.0, link_probability=0.001)
    hidden = made.hidden(2000, 2)
    # Newest first: who was gone a step ago is gone now.
    assert bool((hidden[:, 0] | ~hidden[:, 1]).float().mean() > 0.999)
    assert bool(hidden[:, 0].all())
    assert 0.4 < float(hidden[:, 1].all(dim=1).float().mean()) < 0.6


@pytest.mark.parametrize(("share", "unlike"), [(0.0, 0.0), (1.0, 1.0)])
def test_encoders_see_jpeg_in_the_share_of_frames_that_is_asked_for(share, unlike):
    made = task(jpeg_share=share)
    draw = made.scenes.draw(20)
    other = (made.scenes.content_seen(draw) != made.scenes.content(draw)).flatten(2).any(dim=2)
    assert float(other.float().mean()) == unlike


def test_labels_are_those_of_the_very_rows_and_of_camera_and_pedestrian():
    made = task()
    rows = torch.tensor([3, 17])
    position_m = made.train.position_m.flatten(0, 1)[rows]
    there = ~position_m.isnan().any(dim=-1)
    scene = made.model.read(torch.zeros(2, made.model.num_sensors, made.model.embedding_dim))
    visible = made.train.visible_share.flatten(0, 1)[rows].transpose(1, 2)  # [n, P, C]
    told = torch.where(visible < 0.5, 20.0, -20.0)
    exact = type(scene)(
        torch.where(there[..., None], position_m, 0), torch.where(there, 20.0, -20.0), told,
        20.0 * torch.nn.functional.one_hot(there.sum(dim=1), there.shape[1] + 1),
    )  # fmt: skip
    terms = made.scene_loss(exact, Draw.alone(rows))
    assert float(terms["total"]) < 0.01
    assert float(made.scene_loss(exact, Draw.alone(rows + 1))["total"]) > 0.01


def test_receivers_are_asked_for_places_in_any_order_and_asked_alone(monkeypatch):
    made = task()
    head, draw = training._receivers_head(made), made.scenes.draw(30)
    z = torch.randn(30, made.model.num_sensors, made.model.embedding_dim)
    loss = float(training._receivers_loss(made, head, z, draw).detach())
    position_m, visible = made.scenes.labels(draw)
    with_cameras = z.clone()
    with_cameras[:, : made.model.num_cameras] = 0
    assert float(training._receivers_loss(made, head, with_cameras, draw).detach()) == loss
    monkeypatch.setattr(made.scenes, "labels", lambda draw: (position_m.flip(1), visible.flip(1)))
    assert float(training._receivers_loss(made, head, z, draw).detach()) == pytest.approx(loss, rel=1e-5)


def test_encoders_end_as_the_average_that_followed_them(monkeypatch):
    made = task("image-only", ema_momentum=0.5)
    before = {name: tensor.clone() for name, tensor in made.encoder.camera.named_parameters()}
    targets = []

    def watched(*arguments):
        targets.append(EmaTarget(*arguments))
        return targets[0]

    monkeypatch.setattr(training, "EmaTarget", watched)
    training._train_encoders(made)
    average = dict(targets[0].encoder.camera.named_parameters())
    for name, tensor in made.encoder.camera.named_parameters():
        assert torch.equal(tensor, average[name]), name
        assert not torch.equal(tensor, before[name]), name


def test_labels_teach_encoders_and_heads_and_not_the_predictor(monkeypatch):
    made, losses = task("inpainting", modality_probability=1.0, whole_share=0.0), []

    def kept(stage, module, batch_loss, *rest, on_device):
        losses.append(batch_loss)
        return []

    monkeypatch.setattr(made, "fit", kept)
    training._train_encoders(made)
    terms = losses[0](0, torch.Generator().manual_seed(0))
    terms["position"].backward()

    def is_taught(module: torch.nn.Module) -> bool:
        return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())

    assert is_taught(made.model.head)
    assert not is_taught(made.model.predictor)
    losses[0](0, torch.Generator().manual_seed(0))["prediction"].backward()
    assert is_taught(made.model.predictor)  # the power check


def test_the_predictor_learns_what_is_hidden_from_what_is_there_in_the_same_step():
    made = task(num_steps_predictor=400, learning_rate=2e-2, link_probability=0.9, num_windows=64)
    generator = torch.Generator().manual_seed(1)
    num, dim = made.train.num_sequences, made.model.embedding_dim
    # All sensors see the same number, another one in each step.
    seen = torch.randn(num, NUM_STEPS, 1, 1, generator=generator)
    training._train_predictor(with_embeddings(made, seen.expand(-1, -1, made.model.num_sensors, dim)))
    context, newest, _ = made.windows(500)
    arrived = torch.ones(context.shape[:-1], dtype=torch.bool)
    arrived[context[..., 0].isnan()] = False
    arrived[:, :, 0] = False
    with torch.no_grad():
        predicted = made.model.predictor(context, arrived)[:, 0, 0]
    error = float((predicted - newest[:, 0, 0]).square().mean() / seen.var())
    assert error < 0.2  # the mean alone would err by 1


def test_the_decoder_shows_each_camera_s_own_frame():
    """Embeddings tell nothing but the camera: what is shown is that camera's mean frame."""
    made = task("image-only", num_steps_decoder=150, learning_rate=1e-2)
    z = torch.zeros(made.train.num_sequences, NUM_STEPS, 2, made.model.embedding_dim)
    z[:, :, 0, 0] = 1
    # The second camera sees another content than the first one, wherever people are.
    made.scenes._frame = made.scenes._frame.clone()
    made.scenes._frame[:, 1] = (made.scenes._frame[:, 1].int() + 60).clamp(0, 255).to(torch.uint8)
    training._train_decoder(with_embeddings(made, z))
    steps = Draw.alone(torch.arange(made.train.num_sequences * NUM_STEPS))
    content = made.scenes.content(steps).mean(dim=(0, 2, 3, 4))
    with torch.no_grad():
        shown = made.model.decoder(z[0, 0, :, : made.model.config.camera_dim]).mean(dim=(1, 2, 3))
    assert float(content[1] - content[0]) > 1
    torch.testing.assert_close(shown, content, atol=0.3, rtol=0)


def test_heads_for_simple_fills_meet_zeros_means_and_last_values_alike(monkeypatch):
    made, losses, read = task("inpainting", whole_share=0.0), [], []

    def kept(stage, module, batch_loss, *rest):
        losses.append(batch_loss)
        return []

    z = 1 + numbered(made)
    monkeypatch.setattr(with_embeddings(made, z), "fit", kept)
    training._train_fill_head(made)
    read_filled = made.model.read_filled
    monkeypatch.setattr(made.model, "read_filled", lambda filled: read.append(filled) or read_filled(filled))
    for step in range(20):
        losses[0](step, torch.Generator().manual_seed(step))
    # All sensors of a row have its step's number; a last value is that of the step before.
    found = torch.cat(read)[:, :, 0]
    is_zero, is_mean = found == 0, (found - float(z.mean())).abs() < 1e-3
    is_last = (found[:, :, None] - found[:, None] == 1).any(dim=1)
    zeros, means, lasts = (float(kind.float().mean()) for kind in (is_zero, is_mean, is_last))
    assert zeros > 0.1
    # Before anything was heard, the last value is the mean too.
    assert zeros < 1.2 * means
    assert means < 2.2 * zeros
    assert lasts > 0.02


def test_a_model_keeps_mean_and_samples_of_its_training_embeddings():
    model, data = isac_setups.model(), isac_setups.data()
    z = embed_all(model, data.train).flatten(0, 1)
    torch.testing.assert_close(model.mean, z.mean(dim=0), atol=1e-5, rtol=1e-4)
    assert bool((model.mean[:, : model.config.receiver_dim].abs() > 1e-6).any(dim=1).all())
    torch.testing.assert_close(model.calibration[[0, -1]], z[[0, -1]], atol=1e-5, rtol=1e-4)
