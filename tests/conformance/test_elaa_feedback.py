"""What every kind of channel feedback keeps to: real bytes that say what is decoded, and no others taken."""

import pickle

import elaa_feedback_setups as setups
import pytest
import torch

from analysis.estimation import nmse_db
from scenarios.elaa.feedback_codebook import BeamBits, BeamFeedback, fit_beam_feedback
from scenarios.elaa.feedback_path_fit import fit_path_codec
from scenarios.elaa.feedback_paths import Paths
from scenarios.elaa.feedback_transform import fit_dechirped_klt_feedback, fit_klt_feedback
from semcom.contracts import SemcomError


@pytest.fixture(params=setups.KINDS, scope="module")
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def feedback(kind):
    return setups.fitted(kind)


@pytest.fixture(scope="module")
def fresh(kind):
    """What is encoded, of channels that nothing was fitted to, and the channels."""
    h, paths = setups.draw(150, "test")
    return (paths if kind == "paths" else h), h


def rows(what, chosen):
    if isinstance(what, Paths):
        return Paths(what.gain[chosen], what.sine[chosen], what.inverse_m[chosen])
    return what[chosen]


def test_what_is_decoded_is_what_the_codec_says_without_bytes(feedback, fresh):
    what, h = fresh
    payloads = feedback.encode(what)
    received = feedback.decode(payloads)
    assert all(type(payload) is bytes for payload in payloads)
    assert (received.shape, received.dtype) == (h.shape, torch.complex64)
    assert torch.equal(torch.view_as_real(received), torch.view_as_real(feedback(what)))
    assert feedback.encode(what) == payloads
    assert feedback.decode([]).shape == (0, setups.CONFIG.num_elements)


def test_rows_are_independent(feedback, fresh):
    what, _ = fresh
    payloads = feedback.encode(what)
    assert [feedback.encode(rows(what, slice(i, i + 1)))[0] for i in range(20)] == payloads[:20]
    alone = torch.cat([feedback.decode([payload]) for payload in payloads[:20]])
    torch.testing.assert_close(alone, feedback.decode(payloads)[:20], atol=1e-6, rtol=0)


def test_it_spends_what_it_is_given_on_channels_that_it_has_not_seen(kind, feedback, fresh):
    sizes = torch.tensor([8.0 * len(payload) for payload in feedback.encode(fresh[0])])
    if kind == "beams":
        assert sizes.unique().tolist() == [feedback.payload_bits()]
        assert setups.MEAN_BITS - 8 < feedback.payload_bits() <= setups.MEAN_BITS
        return
    deviation = float(sizes.std()) / len(sizes) ** 0.5
    # Fitted to some hundreds of channels itself, hence the second term.
    assert abs(float(sizes.mean()) - setups.MEAN_BITS) < 4.5 * deviation + 0.05 * setups.MEAN_BITS
    spare = sizes - feedback.entropy_bits(fresh[0])
    assert spare.mean() == pytest.approx(2.5, abs=1.5)


def test_it_tells_the_channel_and_another_codec_of_its_kind_does_as_well(feedback, fresh):
    what, h = fresh
    assert nmse_db(h, feedback(what)) < -1
    copy = pickle.loads(pickle.dumps(feedback))
    assert copy.encode(what) == feedback.encode(what)


def test_a_payload_that_it_never_makes_is_refused(feedback, fresh):
    payload = feedback.encode(fresh[0])[0]
    for wrong in (payload + b"\0", payload + b"\x55" * 40):
        with pytest.raises(SemcomError, match="payload 1"):
            feedback.decode([payload, wrong])


def test_channels_that_are_no_numbers_are_refused(kind, feedback):
    h, paths = setups.draw(3, "test")
    if kind == "paths":
        wrong = Paths(paths.gain, paths.sine * torch.nan, paths.inverse_m)
    else:
        wrong = h * torch.tensor([[1.0], [torch.nan], [1.0]])
    with pytest.raises(SemcomError, match="NaN"):
        feedback.encode(wrong)


def test_a_channel_of_nothing_is_fed_back(kind, feedback):
    h, paths = setups.draw(2, "test")
    nothing = Paths(0 * paths.gain, paths.sine, paths.inverse_m) if kind == "paths" else 0 * h
    received = feedback.decode(feedback.encode(nothing))
    assert torch.isfinite(torch.view_as_real(received)).all()
    if kind == "paths":
        assert received.abs().max() == 0


def test_too_few_bits_or_channels_are_refused():
    h, paths = setups.draw(20, "train")
    for fit in (
        lambda: fit_klt_feedback(h, 2.0),
        lambda: fit_dechirped_klt_feedback(setups.ARRAY, h, 5.0),
        lambda: fit_path_codec(setups.ARRAY, paths, 2.0),
        lambda: fit_beam_feedback(h, 8),
    ):
        with pytest.raises(SemcomError, match="too few"):
            fit()
    with pytest.raises(SemcomError, match="3 channels"):
        fit_klt_feedback(h[:3], 40.0)
    with pytest.raises(SemcomError, match="without any"):
        fit_path_codec(setups.ARRAY, Paths(0 * paths.gain, paths.sine, paths.inverse_m), 40.0)
    with pytest.raises(SemcomError, match="alike"):
        setups.fitted("paths").encode(Paths(paths.gain, paths.sine[:, :1], paths.inverse_m))
    with pytest.raises(SemcomError, match="num_beams 33"):
        BeamFeedback(32, BeamBits(33, 3, 3))
    with pytest.raises(SemcomError, match="no levels yet"):
        BeamFeedback(32, BeamBits(3, 3, 3)).encode(h)
    with pytest.raises(SemcomError, match=r"complex \[N, 32\]"):
        setups.fitted("beams").encode(h[:, :30])
