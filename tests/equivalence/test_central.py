"""Central training on raw data that went up: the same weights, and every bit of the data counted."""

import math

import numpy as np
import pytest
import torch
from federated_setups import make_stage, weights

from channels.links.erasure import ErasureConfig, ErasureLink
from channels.links.ideal import IdealConfig, IdealLink
from nodes.training.air import Air
from nodes.training.central import CentralConfig, CountedCentral
from nodes.training.collaboration import (
    CollaborationConfig,
    check_collaboration,
    collaborative_settings,
    make_trainer,
)
from nodes.training.raw import LosslessRaw, QuantisedRaw, RawCoder
from nodes.transfer import TransferConfig, transfer
from semcom.contracts import SemcomError
from semcom.rng import Streams
from semcom.train import CENTRAL, Central

IDEAL = IdealLink(IdealConfig())


def counted(link=IDEAL, num_clients=3, scratch=None, **told):
    config = CentralConfig.model_validate(told)
    return CountedCentral(config, num_clients, Air(link, link, step_s=0.01), Streams(0), scratch)


def data(dtype, *shape):
    generator = torch.Generator().manual_seed(5)
    if dtype == torch.uint8:
        return torch.randint(0, 256, shape, generator=generator).to(dtype)
    return torch.randn(shape, dtype=dtype, generator=generator)


@pytest.mark.parametrize(
    ("dtype", "bits"), [(torch.uint8, 8), (torch.float32, 32), (torch.complex64, 64)], ids=str
)
def test_lossless_data_come_back_bit_for_bit_and_are_counted(dtype, bits):
    seen = data(dtype, 7, 5, 11)
    if dtype == torch.float32:
        seen[2, 3, 4] = math.nan
    trainer = counted(num_clients=3)
    arrived = trainer.gather("observation", seen)
    assert arrived.dtype == dtype
    assert arrived.numpy().tobytes() == seen.numpy().tobytes()
    # Runs of 3, 2 and 2 samples; each fits one segment, of 64 bits of header and 32 of number.
    segments = sum(math.ceil(num * 55 * bits / 8 / 1500) for num in (3, 2, 2))
    assert trainer.ledger.bits_up == 7 * 55 * bits + 96 * segments
    assert (trainer.ledger.bits_down, trainer.ledger.rounds, trainer.ledger.num_steps) == (0, 1, 0)
    before = trainer.ledger.bits_up
    assert trainer.gather("embedding", seen) is seen
    assert trainer.ledger.bits_up == before
    trainer.gather("condition", seen)
    assert trainer.ledger.bits_up == 2 * before


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_quantised_data_are_half_a_step_off_at_most(dtype):
    """The step of a block is its largest magnitude over 127 with 8 bits; a block is one sample here."""
    seen = data(dtype, 6, 20, 16) * torch.logspace(-3, 3, 6)[:, None, None]
    arrived = counted(raw={"kind": "quantised"}).gather("observation", seen)
    one, other = (torch.view_as_real(x) if x.is_complex() else x for x in (seen, arrived))
    step = one.flatten(1).abs().amax(dim=1) / 127
    off = (one - other).flatten(1).abs().amax(dim=1) / step
    assert bool((off <= 0.5001).all())
    assert bool((off > 0.4).all())
    with pytest.raises(SemcomError, match="NaN or infinity"):
        counted(raw={"kind": "quantised"}).gather("observation", seen * math.nan)


def test_quantised_pixels_are_exact_with_8_bits_and_coarse_with_fewer():
    seen = data(torch.uint8, 50, 3, 8, 8)
    exact = counted(raw={"kind": "quantised", "bits": 8}).gather("observation", seen)
    assert torch.equal(exact, seen)
    coarse = counted(raw={"kind": "quantised", "bits": 4}).gather("observation", seen)
    assert set(coarse.unique().tolist()) <= set(range(0, 256, 17))
    assert int((coarse.int() - seen.int()).abs().max()) == 8
    dark = counted(raw={"kind": "quantised"})
    dark.gather("observation", seen // 64)
    light = counted()
    light.gather("observation", seen // 64)
    # Four levels that are equally likely, in bytes, and what it costs to learn that.
    assert 0.25 < dark.ledger.bits_up / light.ledger.bits_up < 0.31


def test_what_is_decoded_does_not_hang_on_who_has_which_samples():
    seen = data(torch.complex64, 9, 4, 40)
    few, many = (counted(num_clients=n, raw={"kind": "quantised"}) for n in (2, 50))
    assert torch.equal(few.gather("observation", seen), many.gather("observation", seen))
    assert RawCoder(QuantisedRaw(), seen)._block == 320  # the last two dimensions, in real numbers
    with pytest.raises(SemcomError, match=r"float64.*convert"):
        RawCoder(LosslessRaw(), seen.real.double())


def test_an_ideal_link_reports_what_a_transfer_over_one_without_losses_does():
    payloads, config = [bytes(7000), b"", bytes(range(100))], TransferConfig(segment_bytes=300)
    quick, slow = (
        transfer(payloads, np.arange(3), link, None, Streams(0), config, step_s=0.02, name="up")
        for link in (IDEAL, ErasureLink(ErasureConfig(probability=0.0)))
    )
    assert quick.payloads == slow.payloads
    for name in vars(quick).keys() - {"payloads"}:
        np.testing.assert_array_equal(getattr(quick, name), getattr(slow, name), err_msg=name)


def test_lossy_links_send_again_and_a_client_that_can_t_deliver_is_named():
    seen = data(torch.float32, 6, 1000)
    told = {"transfer": {"segment_bytes": 400, "max_steps": 60}}
    half = counted(ErasureLink(ErasureConfig(probability=0.5)), **told)
    assert torch.equal(half.gather("observation", seen), seen)
    clean = counted(**told)
    clean.gather("observation", seen)
    assert 1.5 < half.ledger.bits_up / clean.ledger.bits_up < 2.5
    assert half.ledger.duration_s > clean.ledger.duration_s == 0.01
    never = counted(ErasureLink(ErasureConfig(probability=1.0)), **told)
    with pytest.raises(SemcomError, match=r"client 0: its raw observation data \(8000 bytes\).*60 steps"):
        never.gather("observation", seen)


def test_stages_are_those_of_central_training_and_their_time_is_kept(tmp_path):
    stage, other = make_stage(), make_stage()
    CENTRAL.fit(stage)
    trainer = counted(scratch=tmp_path)
    trainer.fit(other)
    assert all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(stage).items())
    assert trainer.ledger.wall_s > 0
    again = counted(scratch=tmp_path)
    again.fit(make_stage())
    assert again.ledger.wall_s == trainer.ledger.wall_s
    assert again.ledger.device_flops == 0


def test_only_what_is_lost_of_the_data_makes_another_training():
    plain = CollaborationConfig()
    lossy = CollaborationConfig.model_validate({"central": {"raw": {"kind": "quantised", "bits": 6}}})
    elsewhere = lossy.model_copy(update={"num_clients": 7})
    assert collaborative_settings(plain, "central") == {}
    assert collaborative_settings(lossy, "central") == collaborative_settings(elsewhere, "central") != {}
    assert collaborative_settings(plain, "federated") == collaborative_settings(lossy, "federated")
    assert make_trainer("central", plain, 0, None) == Central(None)
    assert isinstance(make_trainer("central", plain, 0, None, is_counted=True), CountedCentral)
    assert isinstance(make_trainer("central", lossy, 0, None), CountedCentral)
    analog = CollaborationConfig.model_validate({"link": {"kind": "analog"}})
    check_collaboration(analog, "central")
    with pytest.raises(SemcomError, match="analog"):
        check_collaboration(analog, "central", is_counted=True)
