"""The trainings of the sensing scenario: encoders, the cross-modal predictor, heads and decoders."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from scenarios.isac.data import SensingData
from scenarios.isac.heads import SceneHead
from scenarios.isac.mixing import Draw
from scenarios.isac.models import NUM_CALIBRATION, ModelConfig, SensingModel
from scenarios.isac.score import score_model
from scenarios.isac.task import Log, Task, TrainingInputs, embed_all
from semcom.diagnostics import rank_me
from semcom.distances import DISTANCES
from semcom.masks import mask_patches
from semcom.regularizers import SigReg, VicReg
from semcom.rng import Streams
from semcom.set_jepa import SetJepa
from semcom.set_predictor import fill_in, newest
from semcom.targets import EmaTarget
from semcom.train import CENTRAL, Trainer
from semcom.weight_average import WeightAverage

MODELS = ("inpainting", "supervised", "image-only")
"""All that are trained; those that take longest come first, so that workers end together."""
_SHOWN_EVERY = 4


def make_model(config: ModelConfig, data: SensingData, name: str) -> SensingModel:
    """Builds one of MODELS for the shapes of a data set, with PyTorch's starting weights."""
    train = data.train
    return SensingModel(
        config,
        (train.frame.shape[-2], train.frame.shape[-1]),
        data.num_cameras,
        0 if name == "image-only" else data.num_receivers,
        train.csi.shape[-1],
        train.position_m.shape[2],
        with_fusion=name == "inpainting",
    )


def train_model(
    name: str, seed: int, data: SensingData, inputs: TrainingInputs, trainer: Trainer = CENTRAL
) -> tuple[SensingModel, Log]:
    """Trains one of MODELS from scratch; returns it with its log and diagnostics on validation data."""
    streams = Streams(seed)
    train = replace(
        data.train,
        frame=trainer.gather("observation", data.train.frame),
        csi=trainer.gather("observation", data.train.csi),
    )
    with torch.random.fork_rng(devices=[]):
        # torch.nn draws its starting weights from the process-wide generator.
        torch.manual_seed(trainer.starting_seed(streams.seed(f"weights-{name}")))
        model = make_model(inputs.model, data, name)
        generator = streams.torch_generator(f"train-{name}")
        model.frames.calibrate(train.frame.flatten(0, 1))
        model.csi.calibrate(train.csi.flatten(0, 1)[:, : model.num_receivers])
        model.head.calibrate(train.position_m)
        if name == "inpainting":
            model.fusion_head.calibrate(train.position_m)
            model.fill_head.calibrate(train.position_m)
        task = Task(model, inputs.training, train, streams, generator, trainer)
        log = _train_supervised(task) if name == "supervised" else _train_jepa(task)
        if name == "inpainting":
            log += _train_fusion(task) + _train_fill_head(task)
    model.eval().requires_grad_(False)
    z = task.z.flatten(0, 1)
    rows = torch.linspace(0, len(z) - 1, NUM_CALIBRATION).round().long()
    model.calibration.copy_(z[rows])
    model.mean.copy_(z.mean(dim=0))
    held_out = embed_all(model, data.validation).flatten(0, 1)
    row = {f"rank_me_{s}": rank_me(held_out[:, s, : model.dim_of(s)]) for s in range(model.num_sensors)}
    score = score_model(model, data.test) if name == "inpainting" else []
    return model, [*log, {"stage": "validation", "step": 0, **row}, *score]


def _train_jepa(task: Task) -> Log:
    log = _train_encoders(task)
    task.encoder.eval().requires_grad_(False)
    log += _train_predictor(task)
    log += _train_head(task)
    return log + _train_decoder(task)


def _train_encoders(task: Task) -> Log:
    """JEPA on single steps: modalities, links and patches are hidden, embeddings of the whole predicted."""
    model, config = task.model, task.config
    regularizer = (
        VicReg(config.variance_weight, config.covariance_weight)
        if config.regularizer == "vicreg"
        else SigReg(config.sigreg_weight, num_slices=128)
    )
    target = EmaTarget(task.encoder, config.ema_momentum, config.ema_momentum)
    jepa = SetJepa(
        task.encoder,
        model.predictor,
        regularizer,
        DISTANCES[config.distance],
        [model.dim_of(sensor) for sensor in range(model.num_sensors)],
        target=target,
    )
    receivers_head = _receivers_head(task)
    module = nn.ModuleList((jepa, model.head, receivers_head))

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        draw = task.scenes.draw(config.batch_size, config.mix_share)
        content, numbers = task.scenes.content_seen(draw), task.scenes.numbers_seen(draw)
        hidden = task.hidden(config.batch_size)[:, 0]
        patches = mask_patches(
            config.batch_size * model.num_cameras,
            *model.decoder.size,
            config.patch_px,
            config.patch_share,
            generator,
        )
        seen = content
        if config.patch_share:
            seen = torch.where(patches.unflatten(0, content.shape[:2])[:, :, None], 0, content)
        wanted = hidden.clone()
        if config.patch_share:
            wanted[:, : model.num_cameras] = True
        terms, z, predicted = jepa.loss((seen, numbers), (content, numbers), ~hidden, wanted, generator)
        if config.label_weight:
            # Heads learn from what the predictor makes of hidden sensors, and the predictor not from heads.
            completed = torch.where(hidden[..., None], predicted.detach(), z)
            labels = task.scene_loss(model.read(completed), draw)
            terms |= {name: term for name, term in labels.items() if name != "total"}
            terms["receivers"] = _receivers_loss(task, receivers_head, z, draw)
            told = labels["total"] + terms["receivers"]
            terms["total"] = terms["total"] + config.label_weight * told
        return terms

    log = task.fit(
        "encoders", module, batch_loss, config.num_steps, jepa.update_target, on_device=task.encoder
    )
    # The average of the last steps' weights does better on what it has not seen than the last of them.
    task.encoder.load_state_dict(target.encoder.state_dict())
    return log


def _receivers_head(task: Task) -> nn.Module:
    """Heads for the receivers' embeddings alone, which teach their encoders and are then left behind."""
    model = task.model
    if not model.num_receivers:
        return nn.Identity()
    head = SceneHead(
        model.num_receivers * model.embedding_dim,
        model.config.head_dim,
        model.head.num_pedestrians,
        model.num_cameras,
    )
    head.calibrate(task.train.position_m)
    return head


def _receivers_loss(task: Task, head: nn.Module, z: torch.Tensor, draw: Draw) -> torch.Tensor:
    """The error of what receivers alone tell of z [n, S, D]: where people are, in whatever order.

    Radio hardly knows who is who. Asked for the place of a certain person, it would learn the middle of all.
    """
    if not task.model.num_receivers:
        return z.new_zeros(())
    return task.scene_loss(head(z[:, task.model.num_cameras :]), draw, "best")["total"]


def _train_predictor(task: Task) -> Log:
    """Trains the predictor on, on windows of embeddings that no longer change."""
    model, config = task.model, task.config
    variance, real = task.z.flatten(0, 1).var(dim=0).clamp_min(1e-6), model.predictor.real

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        context, newest_z, _ = task.windows(config.num_windows)
        hidden = task.hidden(len(context), context.shape[1]) | context[..., 0].isnan()
        predicted = model.predictor(context, ~hidden)
        error = (predicted - newest_z).square() / variance * real
        wanted = hidden[:, 0]
        total = (error.sum(dim=-1) / real.sum(dim=-1) * wanted).sum() / wanted.sum().clamp_min(1)
        return {"total": total}

    return task.fit("predictor", model.predictor, batch_loss, config.num_steps_predictor)


def _train_head(task: Task) -> Log:
    """Trains the heads on, on sets of embeddings that the predictor has completed."""
    model, config = task.model, task.config

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        context, _, draw = task.windows(2 * config.num_windows)
        arrived = ~(task.hidden(len(context), context.shape[1]) | context[..., 0].isnan())
        with torch.no_grad():
            completed = fill_in(context, arrived, model.predictor(context, arrived))
        return task.scene_loss(model.read(completed), draw)

    return task.fit("head", model.head, batch_loss, config.num_steps_head)


def _train_fusion(task: Task) -> Log:
    """Trains a second predictor, with heads of its own, on labels and on embeddings that no longer change.

    Both go on from where those of the JEPA ended, so that they are behind in nothing.
    """
    model, config = task.model, task.config
    model.fusion.load_state_dict(model.predictor.state_dict())
    model.fusion_head.load_state_dict(model.head.state_dict())

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        context, _, draw = task.windows(config.num_windows)
        arrived = ~(task.hidden(len(context), context.shape[1]) | context[..., 0].isnan())
        completed = fill_in(context, arrived, model.fusion(context, arrived))
        return task.scene_loss(model.read_fused(completed), draw)

    module = nn.ModuleList((model.fusion, model.fusion_head))
    return task.fit("fusion", module, batch_loss, config.num_steps_predictor)


def _train_fill_head(task: Task) -> Log:
    """Trains heads for what is filled without learning, from where the others ended: each fill as often."""
    model, config = task.model, task.config
    model.fill_head.load_state_dict(model.head.state_dict())
    mean = task.z.flatten(0, 1).mean(dim=0)

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        context, _, draw = task.windows(2 * config.num_windows)
        arrived = ~(task.hidden(len(context), context.shape[1]) | context[..., 0].isnan())
        last = newest(context, arrived, mean)
        choice = torch.randint(0, 3, (len(context), 1, 1), generator=generator)
        filled = torch.where(choice == 0, 0, torch.where(choice == 1, mean, last))
        return task.scene_loss(model.read_filled(fill_in(context, arrived, filled)), draw)

    return task.fit("fill-head", model.fill_head, batch_loss, config.num_steps_head)


def _train_decoder(task: Task) -> Log:
    """Trains the decoder to show the frames that embeddings were made of."""
    model, config = task.model, task.config
    z = task.z.flatten(0, 1)
    # What is shown is compared with the frames themselves, where the decoder is.
    task.trainer.gather("label", task.train.frame)

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        draw = task.scenes.draw(config.batch_size // 2)
        content = task.scenes.content(draw).flatten(0, 1)
        shown = model.decoder(z[draw.rows, : model.num_cameras, : model.config.camera_dim].flatten(0, 1))
        return {"total": (shown - content).square().mean()}

    return task.fit("decoder", model.decoder, batch_loss, config.num_steps_decoder)


def _train_supervised(task: Task) -> Log:
    """The same networks, trained end to end on positions and on the frames of hidden cameras."""
    model, config = task.model, task.config
    cameras = range(model.num_cameras)

    def terms_of(completed: torch.Tensor, draw: Draw) -> dict[str, torch.Tensor]:
        terms = task.scene_loss(model.read(completed), draw)
        # Enlarging is what takes time: a part of the batch shows its frames.
        part = completed[::_SHOWN_EVERY, cameras, : model.config.camera_dim].flatten(0, 1)
        content = task.scenes.content(draw.every(_SHOWN_EVERY)).flatten(0, 1)
        terms["pixels"] = (model.decoder(part) - content).square().mean()
        return terms | {"total": terms["total"] + config.pixel_weight * terms["pixels"]}

    def step_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        draw = task.scenes.draw(config.batch_size, config.mix_share)
        z = task.encoder((task.scenes.content_seen(draw), task.scenes.numbers_seen(draw)))
        arrived = ~task.hidden(config.batch_size)
        completed = fill_in(z[:, None], arrived, model.predictor(z[:, None], arrived))
        terms = terms_of(completed, draw)
        terms["receivers"] = _receivers_loss(task, receivers_head, z, draw)
        return terms | {"total": terms["total"] + terms["receivers"]}

    def window_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        context, _, draw = task.windows(config.num_windows)
        arrived = ~(task.hidden(len(context), context.shape[1]) | context[..., 0].isnan())
        completed = fill_in(context, arrived, model.predictor(context, arrived))
        return terms_of(completed, draw)

    averaged, receivers_head = WeightAverage(model), _receivers_head(task)
    module = nn.ModuleList((averaged, receivers_head))
    log = task.fit("encoders", module, step_loss, config.num_steps, averaged.update)
    averaged.adopt()
    task.encoder.eval().requires_grad_(False)
    # The decoder sees as many frames as that of the others, in the steps of the predictor.
    return log + task.fit("predictor", model, window_loss, config.num_steps_predictor)
