"""Data sets of channels in HDF5: what is written is read, and what is wrong is said in one line."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from channels.csi_dataset import read_dataset, split_at_jumps, write_dataset
from semcom.contracts import SemcomError

REAL_FILE = Path(__file__).parents[3] / "shared" / "data" / "quadriga_uma_los.h5"


def noise(*shape: int, seed: int = 1) -> np.ndarray:
    parts = np.random.default_rng(seed).normal(size=(*shape, 2)).astype(np.float32)
    return (parts[..., 0] + 1j * parts[..., 1]).astype(np.complex64)


def good_arrays(num: int = 6) -> dict[str, np.ndarray]:
    """Two trajectories of as many positions, 4 antennas, 3 subcarriers."""
    rng = np.random.default_rng(2)
    return {
        "csi": noise(num, 4, 3),
        "position_m": rng.normal(size=(num, 3)),
        "time_s": 0.1 * np.arange(num),
        "velocity_m_s": rng.normal(size=(num, 3)),
        "trajectory": np.arange(num) // (num // 2),
    }


def write_raw(path: Path, **arrays) -> None:
    with h5py.File(path, "w") as file:
        for name, data in arrays.items():
            if data is not None:
                file[name] = data


@pytest.mark.parametrize("shape", [(4, 3), (2, 2, 4, 3)])
def test_what_is_written_is_what_is_read(tmp_path, shape):
    arrays = good_arrays() | {"csi": noise(6, *shape)}
    write_dataset(tmp_path / "a.h5", **arrays, carrier_hz=2e9, bandwidth_hz=50e6, description="a hall")
    found = read_dataset(tmp_path / "a.h5")
    num_arrays = 1 if len(shape) == 2 else 2
    np.testing.assert_array_equal(found.csi, arrays["csi"].reshape(6, num_arrays, -1, 3))
    for name in ("position_m", "time_s", "velocity_m_s", "trajectory"):
        np.testing.assert_array_equal(getattr(found, name), arrays[name])
    assert (found.carrier_hz, found.bandwidth_hz, len(found)) == (2e9, 50e6, 6)
    assert (found.csi.dtype, found.position_m.dtype, found.trajectory.dtype) == (
        np.complex64,
        np.float64,
        np.int64,
    )
    assert [file.name for file in tmp_path.iterdir()] == ["a.h5"]


def test_a_data_set_that_was_read_can_be_written_again(tmp_path):
    write_dataset(tmp_path / "a.h5", noise(6, 2, 2, 4, 3), np.ones((6, 2)))
    first = read_dataset(tmp_path / "a.h5")
    write_dataset(tmp_path / "b.h5", first.csi, first.position_m, trajectory=first.trajectory)
    np.testing.assert_array_equal(read_dataset(tmp_path / "b.h5").csi, first.csi)


def test_real_and_imaginary_parts_and_two_coordinates_are_read_alike(tmp_path):
    csi, position_m = noise(5, 4, 3), np.arange(10).reshape(5, 2)
    write_raw(tmp_path / "a.h5", csi=np.stack([csi.real, csi.imag], axis=-1), position_m=position_m)
    found = read_dataset(tmp_path / "a.h5")
    np.testing.assert_array_equal(found.csi[:, 0], csi)
    np.testing.assert_array_equal(found.position_m[:, :2], position_m)
    assert not found.position_m[:, 2].any()
    assert found.time_s is None
    assert found.velocity_m_s is None
    assert not found.trajectory.any()


def test_a_bandwidth_may_stand_at_the_csi(tmp_path):
    write_raw(tmp_path / "a.h5", csi=noise(5, 4, 3), position_m=np.ones((5, 3)))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["csi"].attrs["bandwidth_hz"] = 20e6
    assert read_dataset(tmp_path / "a.h5").bandwidth_hz == 20e6


@pytest.mark.parametrize(
    ("time_s", "expected"),
    [
        ([0.0, 0.1, 0.2, 0.3], [0, 0, 0, 0]),
        # A gap of three intervals is no jump, a longer one is.
        ([0.0, 0.1, 0.2, 0.5, 0.6], [0, 0, 0, 0, 0]),
        ([0.0, 0.1, 0.2, 0.51, 0.61], [0, 0, 0, 1, 1]),
        # Time running back, or standing still.
        ([5.0, 5.1, 5.2, 0.0, 0.1, 0.2], [0, 0, 0, 1, 1, 1]),
        ([0.0, 0.1, 0.1, 0.2], [0, 0, 1, 1]),
        ([3.0], [0]),
        ([3.0, 2.0, 1.0], [0, 1, 2]),
    ],
)
def test_trajectories_are_told_apart_by_jumps_in_time(tmp_path, time_s, expected):
    assert split_at_jumps(np.array(time_s)).tolist() == expected
    num = len(time_s)
    write_raw(tmp_path / "a.h5", csi=noise(num, 4, 3), position_m=np.ones((num, 3)), time_s=time_s)
    found = read_dataset(tmp_path / "a.h5")
    assert found.trajectory.tolist() == expected
    assert found.velocity_m_s is None


def spoilt(name: str, place: tuple[int, ...], value: float):
    def write(path: Path) -> None:
        arrays = good_arrays()
        arrays[name][place] = value
        write_raw(path, **arrays)

    return write


def with_other(**arrays):
    return lambda path: write_raw(path, **(good_arrays() | arrays))


def with_attribute(path: Path) -> None:
    write_raw(path, **good_arrays())
    with h5py.File(path, "a") as file:
        file.attrs["bandwidth_hz"] = -5.0


def truncated(path: Path) -> None:
    write_raw(path, **good_arrays(200))
    path.write_bytes(path.read_bytes()[:4000])


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.mkdir(), "can't be read as HDF5"),
        (lambda path: path.write_text("not HDF5"), "can't be read as HDF5"),
        (truncated, "can't be read as HDF5"),
        (with_other(csi=None), "no dataset csi (it has position_m, time_s, trajectory, velocity_m_s)"),
        (with_other(position_m=None), "no dataset position_m (it has csi"),
        (lambda path: write_raw(path, **{"csi/h": np.ones(3)}), "no dataset csi (it has csi/h)"),
        (with_other(csi=noise(6, 4)), "csi has type complex64 and shape (6, 4): store [positions, antennas"),
        (with_other(csi=noise(6, 2, 4, 3)), "and shape (6, 2, 4, 3): store [positions, antennas"),
        (with_other(csi=noise(0, 4, 3)), "and shape (0, 4, 3): store"),
        (with_other(csi=np.ones((6, 4, 3))), "type float64 and shape (6, 4, 3): store complex"),
        (with_other(csi=np.ones((6, 4, 2), int)), "type int64 and shape (6, 4, 2): store complex"),
        (with_other(csi="a word"), "and shape (): store complex"),
        (spoilt("csi", (4, 2, 1), np.nan), "csi holds NaN or infinity, first at [4, 2, 1]: mend"),
        (spoilt("csi", (0, 0, 0), np.inf), "csi holds NaN or infinity, first at [0, 0, 0]: mend"),
        (with_other(csi=1e60 * noise(6, 4, 3).astype(complex)), "too large for single precision: scale"),
        (spoilt("csi", (3,), 0), "csi is zero throughout at position 3, which no path reaches: remove"),
        (with_other(position_m=np.ones((6, 4))), "position_m has type float64 and shape (6, 4): store real"),
        (with_other(position_m=np.ones((5, 3))), "position_m has 5 rows, csi has 6: store one for each"),
        (with_other(position_m=noise(6, 3)), "position_m has type complex64"),
        (spoilt("position_m", (5, 1), np.nan), "position_m holds NaN or infinity, first at [5, 1]"),
        (with_other(time_s=np.ones((6, 1))), "time_s has type float64 and shape (6, 1): store real numbers"),
        (with_other(time_s=np.arange(7)), "time_s has 7 rows, csi has 6"),
        (spoilt("time_s", (2,), np.inf), "time_s holds NaN or infinity, first at [2]"),
        (with_other(velocity_m_s=np.ones(6)), "velocity_m_s has type float64 and shape (6,): store real"),
        (with_other(velocity_m_s=np.ones((3, 2))), "velocity_m_s has 3 rows"),
        (spoilt("velocity_m_s", (1, 0), np.nan), "velocity_m_s holds NaN or infinity, first at [1, 0]"),
        (with_other(trajectory=np.ones(6)), "trajectory has type float64 and shape (6,): store whole"),
        (with_other(trajectory=np.arange(5)), "trajectory has 5 rows"),
        (
            with_other(trajectory=np.array([7, 7, 2, 2, 7, 7])),
            "trajectory 7 goes on at position 4 after another one: store the positions of each together",
        ),
        (
            with_other(time_s=np.array([0.0, 0.1, 0.2, 0.0, 0.2, 0.1])),
            "time_s doesn't run on in trajectory 1: 0.1 s at position 5 after 0.2 s: store each",
        ),
        (with_attribute, "attribute bandwidth_hz is"),
    ],
)
def test_a_file_that_is_no_data_set_is_refused_in_one_line(tmp_path, write, told):
    write(tmp_path / "a.h5")
    with pytest.raises(SemcomError) as caught:
        read_dataset(tmp_path / "a.h5", where="data.path")
    assert told in str(caught.value)
    assert str(caught.value).startswith(f"data.path = {tmp_path / 'a.h5'}")
    assert "\n" not in str(caught.value)


def test_arrays_that_could_not_be_read_are_not_written(tmp_path):
    with pytest.raises(SemcomError, match="position_m has 5 rows, csi has 6"):
        write_dataset(tmp_path / "a.h5", noise(6, 4, 3), np.ones((5, 3)))
    with pytest.raises(SemcomError, match="can't be written"):
        write_dataset(tmp_path / "not" / "there.h5", noise(6, 4, 3), np.ones((6, 3)))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not REAL_FILE.exists(), reason=f"{REAL_FILE} is not there: an optional measurement file")
def test_a_file_of_quadriga_is_a_data_set_without_time():
    found = read_dataset(REAL_FILE)
    assert found.csi.shape == (2048, 1, 32, 1)
    assert found.time_s is None
    assert found.velocity_m_s is None
    assert not found.trajectory.any()
    with h5py.File(REAL_FILE) as file:
        np.testing.assert_array_equal(found.csi[:, 0], file["csi"][()])
        np.testing.assert_array_equal(found.position_m, file["position_m"][()])
