"""Data sets of a sensed room in HDF5: what is written is read, and what is wrong is said in one line."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from channels.sensing_dataset import read_sensing, write_sensing
from semcom.contracts import SemcomError

NUM_STEPS, NUM_CAMERAS, NUM_PEDESTRIANS = 6, 2, 3


def good_arrays() -> dict[str, np.ndarray]:
    """Two sequences of three steps: 2 cameras, 4 receivers of 5 subcarriers, up to 3 pedestrians."""
    rng = np.random.default_rng(3)
    position_m = rng.uniform(0, 4, size=(NUM_STEPS, NUM_PEDESTRIANS, 2)).astype(np.float32)
    position_m[:3, 2] = np.nan
    visible_share = rng.random((NUM_STEPS, NUM_CAMERAS, NUM_PEDESTRIANS)).astype(np.float32)
    visible_share[:3, :, 2] = np.nan
    return {
        "frame": rng.integers(0, 256, size=(NUM_STEPS, NUM_CAMERAS, 11, 13, 3), dtype=np.uint8),
        "csi": (rng.normal(size=(NUM_STEPS, 4, 5)) + 1j * rng.normal(size=(NUM_STEPS, 4, 5))).astype("c8"),
        "position_m": position_m,
        "visible_share": visible_share,
        "sequence": np.array([4, 4, 4, 1, 1, 1]),
        "time_s": np.array([0.0, 0.2, 0.4, 7.0, 7.2, 7.4]),
    }


def write_raw(path: Path, **arrays) -> None:
    with h5py.File(path, "w") as file:
        for name, data in arrays.items():
            if data is not None:
                file[name] = data


def with_other(**arrays):
    return lambda path: write_raw(path, **(good_arrays() | arrays))


def spoilt(name: str, place: tuple[int, ...], value: float):
    def write(path: Path) -> None:
        arrays = good_arrays()
        arrays[name][place] = value
        write_raw(path, **arrays)

    return write


def test_what_is_written_is_what_is_read(tmp_path):
    arrays = good_arrays()
    write_sensing(tmp_path / "a.h5", **arrays, carrier_hz=5e9, bandwidth_hz=80e6, description="an office")
    found = read_sensing(tmp_path / "a.h5")
    for name, data in arrays.items():
        np.testing.assert_array_equal(getattr(found, name), data)
        assert getattr(found, name).dtype == data.dtype
    assert (found.carrier_hz, found.bandwidth_hz, len(found)) == (5e9, 80e6, NUM_STEPS)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["description"] == "an office"
    assert [file.name for file in tmp_path.iterdir()] == ["a.h5"]
    written_again = {name: getattr(found, name) for name in arrays}
    write_sensing(tmp_path / "b.h5", **written_again)
    np.testing.assert_array_equal(read_sensing(tmp_path / "b.h5").csi, found.csi)


def test_what_is_optional_may_be_missing_and_other_types_are_read_alike(tmp_path):
    arrays = good_arrays()
    expected = arrays["csi"].astype(complex)
    write_raw(
        tmp_path / "a.h5",
        frame=arrays["frame"],
        csi=np.stack([expected.real, expected.imag], axis=-1),
        position_m=arrays["position_m"].astype(float),
        sequence=arrays["sequence"].astype(np.uint8),
        time_s=arrays["time_s"].astype(np.float32),
        temperature=np.ones(3),
    )
    found = read_sensing(tmp_path / "a.h5")
    np.testing.assert_array_equal(found.csi, arrays["csi"])
    np.testing.assert_array_equal(found.position_m, arrays["position_m"])
    np.testing.assert_allclose(found.time_s, arrays["time_s"], rtol=1e-6)
    assert (found.csi.dtype, found.position_m.dtype) == (np.complex64, np.float32)
    assert (found.sequence.dtype, found.time_s.dtype) == (np.int64, np.float64)
    assert found.visible_share is None
    assert found.carrier_hz is None
    assert found.bandwidth_hz is None


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_amplitudes_are_channels_of_phase_zero(tmp_path, dtype):
    amplitude = (100 * np.abs(good_arrays()["csi"])).astype(dtype)
    amplitude[2, 1] = 0  # heard nothing
    write_sensing(tmp_path / "a.h5", **(good_arrays() | {"csi": None, "csi_amplitude": amplitude}))
    found = read_sensing(tmp_path / "a.h5").csi
    assert found.dtype == np.complex64
    np.testing.assert_array_equal(found.real, amplitude)
    assert not found.imag.any()


def test_grey_frames_become_three_equal_colours(tmp_path):
    grey = good_arrays()["frame"][..., 0]
    write_sensing(tmp_path / "a.h5", **(good_arrays() | {"frame": grey}))
    found = read_sensing(tmp_path / "a.h5").frame
    assert found.shape == (NUM_STEPS, NUM_CAMERAS, 11, 13, 3)
    assert (found == grey[..., None]).all()


def test_what_a_file_says_of_who_is_not_there_is_not_read(tmp_path):
    arrays = good_arrays()
    arrays["visible_share"][0, 0, 2] = 0.5
    write_sensing(tmp_path / "a.h5", **arrays)
    assert np.isnan(read_sensing(tmp_path / "a.h5").visible_share[0, 0, 2])


@pytest.mark.parametrize("late_s", [0.039, -0.039])
def test_steps_may_be_a_little_uneven(tmp_path, late_s):
    arrays = good_arrays()
    arrays["time_s"][2] += late_s
    write_sensing(tmp_path / "a.h5", **arrays)
    arrays["time_s"][2] += 0.05 * late_s
    with pytest.raises(SemcomError, match=r"and 0\.2 s is the median"):
        write_sensing(tmp_path / "a.h5", **arrays)


def test_sequences_of_a_single_step_have_no_interval(tmp_path):
    arrays = good_arrays() | {"sequence": np.arange(NUM_STEPS), "time_s": np.zeros(NUM_STEPS)}
    write_sensing(tmp_path / "a.h5", **arrays)
    assert len(read_sensing(tmp_path / "a.h5")) == NUM_STEPS


def with_attribute(path: Path) -> None:
    write_raw(path, **good_arrays())
    with h5py.File(path, "a") as file:
        file.attrs["carrier_hz"] = "high"


def truncated(path: Path) -> None:
    write_raw(path, **good_arrays())
    path.write_bytes(path.read_bytes()[:3000])


CSI, FRAME, POSITION_M = (good_arrays()[name] for name in ("csi", "frame", "position_m"))
TIMES = np.array([0.0, 0.2, 0.4, 7.0, 7.2, 7.4])


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.write_text("not HDF5"), "can't be read as HDF5"),
        (truncated, "can't be read as HDF5"),
        (
            with_other(frame=None),
            "no dataset frame (it has csi, position_m, sequence, time_s, visible_share)",
        ),
        (with_other(position_m=None), "no dataset position_m (it has csi, frame"),
        (with_other(sequence=None), "no dataset sequence"),
        (with_other(time_s=None), "no dataset time_s"),
        (with_other(csi=None), "no dataset csi or csi_amplitude: store complex channels as csi, or"),
        (with_other(csi_amplitude=np.abs(CSI)), "has both csi and csi_amplitude: store complex channels"),
        (
            with_other(frame=FRAME / 255),
            "type float64 and shape (6, 2, 11, 13, 3): store uint8 from 0 to 255",
        ),
        (with_other(frame=FRAME[:, 0]), "shape (6, 11, 13, 3): store [steps, cameras, height, width, 3]"),
        (with_other(frame=FRAME[..., :2]), "shape (6, 2, 11, 13, 2): store [steps, cameras, height"),
        (with_other(frame=np.moveaxis(FRAME, -1, 2)), "shape (6, 2, 3, 11, 13): store [steps, cameras"),
        (with_other(frame=FRAME[:, :, :, :10]), "of 11 x 11 pixels at least: SSIM"),
        (with_other(frame=FRAME[:0]), "shape (0, 2, 11, 13, 3): store"),
        (with_other(csi=CSI[:, 0]), "csi has type complex64 and shape (6, 5): store [steps, receivers, sub"),
        (with_other(csi=np.abs(CSI)), "csi has type float32 and shape (6, 4, 5): store complex numbers, or"),
        (with_other(csi=np.ones((6, 4, 2))), "or amplitudes as csi_amplitude"),
        (with_other(csi=CSI[..., :0]), "shape (6, 4, 0): store [steps"),
        (with_other(csi=CSI[:5]), "csi has 5 rows, frame has 6: store one for each step"),
        (spoilt("csi", (4, 2, 1), np.nan), "csi holds NaN or infinity, first at [4, 2, 1]: mend"),
        (spoilt("csi", (0, 3, 4), np.inf), "csi holds NaN or infinity, first at [0, 3, 4]: mend"),
        (with_other(csi=1e60 * CSI.astype(complex)), "csi has values too large for single precision: scale"),
        (
            with_other(csi=None, csi_amplitude=CSI),
            "csi_amplitude has type complex64 and shape (6, 4, 5): sto",
        ),
        (
            with_other(csi=None, csi_amplitude=np.ones((6, 4))),
            "csi_amplitude has type float64 and shape (6, 4",
        ),
        (
            with_other(csi=None, csi_amplitude=np.where(np.arange(5) == 3, -1.0, np.ones((6, 4, 5)))),
            "csi_amplitude is negative, first at [0, 0, 3]: store amplitudes, not dB",
        ),
        (with_other(position_m=POSITION_M[:, 0]), "position_m has type float32 and shape (6, 2): store real"),
        (with_other(position_m=np.ones((6, 1, 3))), "shape (6, 1, 3): store real numbers [steps, pedestrian"),
        (with_other(position_m=POSITION_M[:4]), "position_m has 4 rows, frame has 6"),
        (
            with_other(position_m=np.ones((6, 4, 2))),
            "position_m has 4 pedestrians, and 3 are the most: leave",
        ),
        (spoilt("position_m", (5, 1, 0), np.nan), "infinite or half NaN, first at [5, 1, 0]: give both x"),
        (spoilt("position_m", (4, 0, 1), np.inf), "infinite or half NaN, first at [4, 0, 1]"),
        (with_other(position_m=np.full((6, 3, 2), np.nan)), "NaN throughout, so nobody is ever there: store"),
        (with_other(sequence=np.ones(6)), "sequence has type float64 and shape (6,): store whole numbers"),
        (with_other(sequence=np.arange(7)), "sequence has 7 rows, frame has 6"),
        (
            with_other(sequence=np.array([4, 4, 1, 1, 4, 4])),
            "sequence 4 goes on at step 4 after another one: store the steps of each together",
        ),
        (
            with_other(time_s=TIMES[:, None]),
            "time_s has type float64 and shape (6, 1): store real numbers [st",
        ),
        (with_other(time_s=TIMES[:5]), "time_s has 5 rows, frame has 6"),
        (spoilt("time_s", (2,), np.nan), "time_s holds NaN or infinity, first at [2]"),
        (
            spoilt("time_s", (5,), 7.1),
            "time_s doesn't run on in sequence 1: 7.1 s at step 5 after 7.2 s: store each sequence in",
        ),
        (
            spoilt("time_s", (4,), 7.0),
            "sequence 1 has time_s = 7 twice, at steps 3 and 4: remove one of them",
        ),
        (
            spoilt("time_s", (2,), 0.6),
            "steps 1 and 2 of sequence 4 0.4 s apart, and 0.2 s is the median: even them out, or begin",
        ),
        (with_other(visible_share=np.ones((6, 3, 3))), "[steps, 2 cameras, 3 pedestrians]"),
        (with_other(visible_share=np.ones((5, 2, 3))), "visible_share has 5 rows, frame has 6"),
        (spoilt("visible_share", (1, 1, 0), 1.5), "not from 0 to 1, first at [1, 1, 0], where somebody is"),
        (spoilt("visible_share", (3, 0, 2), np.nan), "not from 0 to 1, first at [3, 0, 2], where somebody"),
        (with_attribute, "attribute carrier_hz is 'high', no number above 0: mend or remove it"),
    ],
)
def test_a_file_that_is_no_data_set_is_refused_in_one_line(tmp_path, write, told):
    write(tmp_path / "a.h5")
    with pytest.raises(SemcomError) as caught:
        read_sensing(tmp_path / "a.h5", where="data.path")
    assert told in str(caught.value)
    assert str(caught.value).startswith(f"data.path = {tmp_path / 'a.h5'}")
    assert "\n" not in str(caught.value)


def test_arrays_that_could_not_be_read_are_not_written(tmp_path):
    with pytest.raises(SemcomError, match="csi has 5 rows, frame has 6"):
        write_sensing(tmp_path / "a.h5", **(good_arrays() | {"csi": CSI[:5]}))
    with pytest.raises(SemcomError, match="can't be written"):
        write_sensing(tmp_path / "not" / "there.h5", **good_arrays())
    assert not list(tmp_path.iterdir())
