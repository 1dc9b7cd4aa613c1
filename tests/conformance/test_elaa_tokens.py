"""A learned central unit: what it makes of embeddings that arrive, and of those that don't."""

import pickle
from functools import cache

import numpy as np
import pytest
import torch
from elaa_setups import ARRAY, MODEL, PATCH_SIZE, PATCHES

from channels.near_field import draw_channels
from channels.visibility import VISIBLE_ABOVE, BlockVisibility, draw_visibility
from scenarios.elaa.cells import EstimateAtTheCentre
from scenarios.elaa.config import ElaaConfig
from scenarios.elaa.fronthaul import over_the_fronthaul
from scenarios.elaa.hybrid import PathCombiner
from scenarios.elaa.jobs import COMBINER, FROZEN, TUNED, Trained
from scenarios.elaa.local_wave import embed_wave, rebuild_wave
from scenarios.elaa.methods import FusingReceiver, Patch, PatchFusion, SubArraySender, channels_of
from scenarios.elaa.models import CsiModel
from scenarios.elaa.observations import Observed, observe
from scenarios.elaa.reports import report_of
from scenarios.elaa.scenario import training_job
from semcom.codecs.catalogue import make_codec
from semcom.codecs.names import codec_config
from semcom.contracts import FittedCodec
from semcom.rng import Streams

NUM_USERS, NUM_PARTS = 6, PATCHES.num_patches
SHARE = 0.5


def heard(num: int = NUM_USERS) -> tuple[torch.Tensor, Observed]:
    draw = torch.Generator().manual_seed(2)
    h = draw_channels(ARRAY, num, draw).h[:, 0, 0]
    visibility = BlockVisibility(share=SHARE, subarray_size=PATCH_SIZE)
    visible = draw_visibility(visibility, ARRAY, num, draw) > VISIBLE_ABOVE
    return h, observe(h, visible, 10.0, draw)


@cache
def trained() -> Trained:
    """Weights as they are drawn: what is told here holds for any."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = {TUNED: CsiModel(MODEL, PATCHES), FROZEN: CsiModel(MODEL, PATCHES)}
        modules = parts | {COMBINER: PathCombiner(MODEL, PATCHES.num_patches)}
    tensors = {
        prefix + key: t for prefix, module in modules.items() for key, t in module.state_dict().items()
    }
    return Trained(MODEL, ARRAY, tensors, "a test")


def fuse_of(prefix: str, observed: Observed) -> PatchFusion:
    centre = EstimateAtTheCentre(trained().estimator(prefix), observed.visible, observed.noise_var)
    return PatchFusion(rebuild_wave, centre)


def tokens_of(observed: Observed) -> tuple[torch.Tensor, torch.Tensor]:
    """All sub-arrays' embeddings [B, L, D], and which of them see anything, [B, L]."""
    y, seen = (part.unflatten(1, (NUM_PARTS, -1)) for part in (observed.y, observed.visible))
    noise_var = observed.noise_var.repeat_interleave(NUM_PARTS)
    tokens = embed_wave(Patch(y.flatten(0, 1), seen.flatten(0, 1), noise_var, torch.arange(len(noise_var))))
    return tokens.unflatten(0, (-1, NUM_PARTS)), seen.any(dim=2)


@pytest.mark.parametrize("prefix", [TUNED, COMBINER])
def test_a_central_unit_estimates_each_user_s_whole_array_whatever_the_others(prefix):
    _, observed = heard()
    tokens, arrived = tokens_of(observed)
    arrived[4, :-3] = False
    arrived[5] = False
    h_hat = fuse_of(prefix, observed)(tokens, arrived)
    assert h_hat.shape == (NUM_USERS, ARRAY.num_elements)
    assert torch.isfinite(torch.view_as_real(h_hat)).all()
    # A user of whom nothing arrived has a channel of zeros.
    assert float(h_hat[5].abs().max()) == 0
    assert bool((h_hat[:4].abs().amax(dim=1) > 0).all())
    some = observed[2:4]
    # NOMP's iterations carry a sum's last digits on.
    tolerance = {"atol": 2e-3, "rtol": 0.0} if prefix == COMBINER else {}
    torch.testing.assert_close(fuse_of(prefix, some)(tokens[2:4], arrived[2:4]), h_hat[2:4], **tolerance)


@pytest.mark.parametrize("prefix", [TUNED, COMBINER])
def test_what_did_not_arrive_does_not_count_and_what_did_does(prefix):
    _, observed = heard()
    tokens, sends = tokens_of(observed)
    fuse = fuse_of(prefix, observed)
    lost = sends & (sends.cumsum(dim=1) == 1)
    arrived = sends & ~lost
    h_hat = fuse(tokens, arrived)
    changed = torch.where(arrived[:, :, None], tokens, 3.0)
    assert torch.equal(fuse(changed, arrived), h_hat)
    assert not torch.allclose(fuse(tokens, sends), h_hat)


@pytest.mark.parametrize("prefix", [TUNED, COMBINER])
def test_both_sides_can_be_pickled(prefix):
    _, observed = heard()
    tokens, sends = tokens_of(observed)
    fuse = fuse_of(prefix, observed)
    assert torch.equal(pickle.loads(pickle.dumps(fuse))(tokens, sends), fuse(tokens, sends))
    assert pickle.loads(pickle.dumps(embed_wave)) is embed_wave


@pytest.mark.parametrize("name", ["uniform-4", "klt-24mean", "fsq-2", "float16"])
def test_what_the_central_unit_estimates_from_is_what_codecs_say_without_packets(name):
    """forward(z) equals decode(encode(z)), and the fusion makes the same of both."""
    _, observed = heard()
    tokens, sends = tokens_of(observed)
    codec = make_codec(codec_config(name), report_of("jepa-tokens").dim(PATCH_SIZE))
    if isinstance(codec, FittedCodec):
        codec.fit(tokens[sends])
    codec = codec.eval()
    sender, fuse = SubArraySender(embed_wave, codec, 1), fuse_of(TUNED, observed)
    receiver = FusingReceiver(fuse, codec, 1, NUM_USERS, NUM_PARTS)
    y, seen = (part.unflatten(1, (NUM_PARTS, -1)).flatten(0, 1) for part in (observed.y, observed.visible))
    noise_var = observed.noise_var.repeat_interleave(NUM_PARTS)
    rows, payloads = sender.encode(
        0, np.arange(len(y)), Patch(y, seen, noise_var, torch.arange(len(y)) % NUM_PARTS)
    )
    # Sub-arrays that see nothing keep silent.
    assert rows.tolist() == sends.flatten().nonzero()[:, 0].tolist()
    receiver.update(0, rows, payloads)
    through = channels_of(receiver.command(0), NUM_PARTS)
    rounded = torch.zeros_like(tokens)
    rounded[sends] = codec(tokens[sends])
    torch.testing.assert_close(through, fuse(rounded, sends))


def test_training_examples_lose_reports_but_never_all_and_know_their_errors():
    _, observed = heard(400)
    got = over_the_fronthaul(observed, PATCH_SIZE, Streams(0))
    assert not (got.visible & ~observed.visible).any()
    assert float(got.y[~got.visible].abs().max()) == 0
    parts, sent = (each.visible.unflatten(1, (NUM_PARTS, -1)).any(dim=2) for each in (got, observed))
    assert parts.any(dim=1).all()
    # Half of the channels lose 0 to 40 %.
    assert float((sent & ~parts).sum() / sent.sum()) == pytest.approx(0.1, abs=0.03)
    error = ((got.y - observed.y).abs().square() * got.visible).sum(dim=1) / got.visible.sum(dim=1)
    told = got.noise_var - observed.noise_var
    assert len(told.unique()) > 8
    coarse = told > told.median()
    for rows in (coarse, ~coarse):
        assert float(error[rows].mean()) == pytest.approx(float(told[rows].mean()), rel=0.2)
    again = over_the_fronthaul(observed, PATCH_SIZE, Streams(0))
    assert torch.equal(again.y, got.y)
    assert not torch.equal(over_the_fronthaul(observed, PATCH_SIZE, Streams(1)).visible, got.visible)


def test_its_weights_depend_on_the_sub_arrays_that_report_and_others_do_not():
    told = ElaaConfig()
    other = told.model_copy(update={"subarray_size": 32})
    keys = [
        {training_job(config, name, 0).key for config in (told, other)} for name in ("jepa-tokens", "mae")
    ]
    assert [len(each) for each in keys] == [2, 1]
