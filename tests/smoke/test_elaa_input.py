"""What elaa can't do: one line that names it, before anything is trained and before a folder is made."""

import pytest
import torch
from elaa_setups import NOTHING, SHORT, only

from channels.near_field import NearFieldConfig, response
from scenarios.cli import main
from scenarios.elaa.dictionaries import polar_bytes, polar_dictionary
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.observations import observe
from scenarios.elaa.presets import TINY
from scenarios.elaa.scenario import SCENARIO
from semcom.contracts import SemcomError


def refusal(arguments: list[str], capfd) -> str:
    """Runs it and returns the one line that it is refused with."""
    assert main(arguments) == 2
    printed = capfd.readouterr()
    assert printed.err.count("\n") == 1
    assert "training" not in printed.out
    return printed.err


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("evaluation.methods=[kalman]",), "evaluation.methods holds 'kalman': it takes ls, lmmse"),
        (("evaluation.unknown_methods=[x]",), "evaluation.unknown_methods holds 'x': it takes"),
        (("evaluation.size_methods=[x]",), "evaluation.size_methods holds 'x': it takes ls"),
        (("evaluation.noisy_methods=[ls]",), "evaluation.noisy_methods holds 'ls': it takes"),
        (("evaluation.forecasters=[x]",), "evaluation.forecasters holds 'x': it takes last-value"),
        (("evaluation.band_methods=[ls]",), "evaluation.band_methods holds 'ls': it takes ls-band"),
        (("evaluation.feedbacks=[x]",), "evaluation.feedbacks holds 'x': it takes klt"),
        (("evaluation.air_methods=[x]",), "evaluation.air_methods holds 'x': it takes raw-nomp"),
        (("evaluation.air_codecs=[uniform-99]",), "evaluation.air_codecs: codec 'uniform-99' is unknown"),
        (("evaluation.methods=[ls,ls]",), "evaluation.methods holds 'ls' twice"),
        (("evaluation.shares=[0.5,0.5]",), "evaluation.shares holds 0.5 twice"),
        (NOTHING, "evaluation asks for nothing"),
        (only("evaluation.methods=[ls]", "evaluation.shares=[]"), "evaluation asks for nothing"),
        # No visible element.
        (("evaluation.shares=[0]",), "evaluation.shares = [0] is out of range"),
        (("evaluation.shares=[0.1]",), "share = 0.1 of 4 sub-arrays leaves no visible element"),
        (("evaluation.air_share=0.1",), "evaluation.air_share: visibility.share = 0.1 of 4 sub-arrays"),
        (("training_shares=[0.1]",), "leaves no visible element"),
        (("training_shares=[0.25]",), "training_shares, at 32 elements: share = 0.25 of 2 sub-arrays"),
        (("evaluation.array_sizes=[40]",), "evaluation.array_sizes: model.patch_size = 16: patches don't"),
        (("bottleneck.last_step=3",), "bottleneck.last_step = 3 is not below bottleneck.first_step = 3"),
        (("model.dim=17", "model.num_heads=1"), "model.dim = 17 is odd"),
        (("evaluation.size_share=0.2",), "evaluation.size_share: visibility.share = 0.2 of 2 sub-arrays"),
        (("evaluation.shares=[0.3]",), "4 sub-arrays can't be visible to that share: take 0.25"),
        (("visibility=full",), "visibility.kind = full hides nothing"),
        (("visibility=blocker", "evaluation.shares=[0.5,0.25]"), "they are all alike: keep one"),
        (("visibility=blocker", "visibility.max_away_m=6"), "puts the blocker behind a user"),
        (("visibility=markov", "visibility.mean_visible=1", "evaluation.shares=[0.75]"),
         "makes hidden runs shorter than a column"),
        # Users in an element's reactive near field, beside the array, or on their way behind it.
        (("array.min_distance_m=0.004",), "within the reactive near field"),
        (("array.max_angle_deg=90",), "array.max_angle_deg = 90 is out of range"),
        (("array.min_distance_m=0.02", "array.interval_s=0.01"), "or behind it: raise"),
        # Infinite and unlikely SNRs.
        (("evaluation.snrs_db=[.inf]",), "evaluation.snrs_db = [Infinity] is out of range"),
        (("snr_db=.nan",), "snr_db"),
        (("examples.min_snr_db=30",), "examples.min_snr_db = 30 is above examples.max_snr_db = 25"),
        # Too large for memory.
        (("array.num_elements=1024",), "for 1,024 elements takes 4.0 GB, above 2.0 GB"),
        (only("array.num_elements=1024", "evaluation.unknown_methods=[nomp]"), "whose mask is detected"),
        (only("array.num_elements=1024", "evaluation.forecasters=[s-omp]"), "evaluation.forecasters needs"),
        (("evaluation.num_subcarriers=1",), "evaluation.num_subcarriers = 1 is out of range"),
        (only("evaluation.band_methods=[p-somp]", "evaluation.num_subcarriers=256", "array.num_elements=256"),
         "p-somp in evaluation.band_methods: evaluation.num_subcarriers = 256 dictionaries"),
        (only("evaluation.band_methods=[nomp-each]", "array.bandwidth_hz=2e10"), "angles are ambiguous"),
        (only("evaluation.band_methods=[ls-band]", "array.bandwidth_hz=9e10"), "reaches below 0 Hz"),
        (only("evaluation.band_methods=[elaa-jepa-band]", "evaluation.num_subcarriers=256",
              "examples.num_examples=32000"), "elaa-jepa-band in evaluation.band_methods: eval"),
        (only("evaluation.band_methods=[ls-band]", "evaluation.band_shares=[0.3]"), "evaluation.band_shares"),
        (("evaluation.array_sizes=[1024]", "evaluation.size_methods=[polar-omp]"), "size_methods needs"),
        (("array.spacing_wavelengths=0.6",), "spacing of 0.6 wavelengths: angles to 0.87"),
        (("array.num_elements=1",), "array.num_elements = 1: a part of an array takes two"),
        # Sizes that don't go together.
        (("array.num_rows=2",), "so take 1"),
        (("array.num_snapshots=2",), "array.num_subcarriers and array.num_snapshots have to be 1"),
        (("subarray_size=24",), "subarray_size = 24 doesn't divide array.num_elements = 64"),
        (("visibility.subarray_size=24",), "visibility.subarray_size = 24 doesn't divide 64 elements"),
        (("model.patch_size=48",), "model.patch_size = 48: patches don't fill an array of 1 rows and 64"),
        (("model.num_heads=3",), "model.dim = 16 can't be divided among model.num_heads = 3"),
        (("visibility=markov", "array.num_elements=40", "model.patch_size=8", "subarray_size=8"),
         "masks are detected by sub-arrays of 16, which don't divide"),
        (("data.num_test=1",), "data.num_test = 1 is out of range"),
        # Reports.
        (("link=analog",), "link analog and codec analog are not offered by elaa"),
        (("evaluation.air_codecs=[klt-4-task]",), "errors weighted by a task"),
        (("link=nr", "grid.uplink_share=0.0001"), "holds no uplink slot"),
        (("evaluation.feedback_bits=[8]",), "evaluation.feedback_bits = [8] is out of range"),
    ],
)  # fmt: skip
def test_a_refused_setting_is_one_line_and_leaves_no_folder(settings, told, tmp_path, capfd):
    line = refusal(["run", "elaa", *SHORT, "--out", str(tmp_path / "run"), *settings], capfd)
    assert told in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("evaluation.methods=[]",), "evaluation.methods is empty"),
        (("visible_share=0.3",), "visible_share holds 0.3"),
    ],
)
def test_a_sweep_that_can_t_be_done_is_refused(settings, told, tmp_path, capfd):
    command = ["sweep", "elaa", "--axis", "snr_db=0,10", *SHORT, "--out", str(tmp_path / "run"), *settings]
    assert told in refusal(command, capfd)
    assert not (tmp_path / "run").exists()


def test_a_sweep_is_not_refused_for_what_it_does_not_compute():
    # The masks of a run that are detected would need a dictionary that is too large.
    told = TINY.evaluation.model_copy(update={"methods": ("ls", "nomp")})
    large = NearFieldConfig(num_elements=1024)
    config = TINY.model_copy(update={"array": large, "evaluation": told})
    with pytest.raises(SemcomError, match="polar dictionary"):
        SCENARIO.points(config, (0,))
    assert [point.method for point in SCENARIO.sweep_points(config, (0,))] == ["ls", "nomp"]


def test_calls_refuse_what_the_command_line_does():
    """No visible element, users too near or behind, an SNR of infinity, a dictionary beyond memory."""
    array = NearFieldConfig(num_elements=15)
    h = response(array, torch.tensor([10.0]), torch.tensor([0.1]))
    generator, whole = torch.Generator().manual_seed(0), torch.ones(1, 15, dtype=torch.bool)
    with pytest.raises(SemcomError, match="no visible element"):
        observe(h, ~whole, 10.0, generator)
    with pytest.raises(SemcomError, match="SNR of a pilot has to be finite"):
        observe(h, whole, torch.inf, generator)
    with pytest.raises(SemcomError, match="reactive near field"):
        response(array, torch.tensor([0.001]), torch.tensor([0.0]))
    with pytest.raises(SemcomError, match="behind the array"):
        response(array, torch.tensor([10.0]), torch.tensor([2.0]))
    line = LineArray.of(array)
    with pytest.raises(SemcomError, match="a smaller oversampling"):
        polar_dictionary(line, max_bytes=polar_bytes(line) - 1)
    assert polar_dictionary(line, max_bytes=polar_bytes(line)).atoms.nbytes == polar_bytes(line)
