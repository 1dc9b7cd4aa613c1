"""JPEG frames without headers: they come back as Pillow decodes whole files, and nothing else is read."""

import pickle
from functools import cache
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from scenarios.isac import jpeg
from scenarios.isac.jpeg import JpegCodec
from scenarios.isac.jpeg_scan import HuffmanTable
from scenarios.isac.memo import Memo
from semcom.contracts import SemcomError

HEIGHT, WIDTH = 40, 52
"""No multiples of 16: the last units reach over the edges."""


def room_frames(num: int, seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Walls in shades, two upright bodies, and some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    frames = np.empty((num, height, width, 3))
    for frame in frames:
        frame[:] = np.stack([0.55 + 0.3 * x - 0.2 * y, 0.5 + 0.25 * x - 0.15 * y, 0.45 + 0.2 * x], axis=-1)
        for colour in ((0.75, 0.16, 0.14), (0.13, 0.42, 0.72)):
            centre_x, centre_y = rng.uniform(0.15, 0.85), rng.uniform(0.4, 0.6)
            frame[((x - centre_x) / 0.06) ** 2 + ((y - centre_y) / 0.3) ** 2 < 1] = colour
        frame += 0.01 * rng.normal(size=frame.shape)
    return (255 * frames.clip(0, 1)).round().astype(np.uint8)


def whole_file(frame: np.ndarray, quality: int, optimize: bool = False) -> bytes:
    buffer = BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality, subsampling="4:2:0", optimize=optimize)
    return buffer.getvalue()


@cache
def fitted(quality: int = 20, downscale: int = 1) -> JpegCodec:
    codec = JpegCodec(HEIGHT, WIDTH, quality, downscale)
    codec.fit(room_frames(60, seed=1))
    return codec


@pytest.mark.parametrize("quality", [1, 10, 60, 95, 100])
def test_frames_come_back_as_pillow_decodes_the_whole_file(quality):
    frames = room_frames(6, seed=0)
    frames[4] = np.random.default_rng(0).integers(0, 256, frames[4].shape)
    frames[5] = 200
    expected = [np.asarray(Image.open(BytesIO(whole_file(frame, quality)))) for frame in frames]
    for codec in (JpegCodec(HEIGHT, WIDTH, quality), fitted(quality)):
        payloads = codec.encode(frames)
        np.testing.assert_array_equal(codec.decode(payloads), expected)
        assert max(map(len, payloads)) <= codec.max_payload_bytes()
        # The headers alone, and the tables of libjpeg's, are more than 300 bytes.
        assert all(
            len(payload) <= len(whole_file(frame, quality, optimize)) - 300 + 200 * optimize
            for payload, frame in zip(payloads, frames, strict=True)
            for optimize in (False, True)
        )


def kinds(payloads: list[bytes]) -> list[str]:
    names = {b"\xff\xc4": "own", b"\xff\xda": "standard"}
    return [names.get(payload[:2], "shared") for payload in payloads]


def test_each_frame_takes_the_tables_that_make_it_shortest():
    noise = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3), dtype=np.uint8)
    assert kinds(JpegCodec(96, 96, 95).encode(noise)) == ["own"]
    frames, codec = room_frames(8, seed=0), fitted()
    plain = JpegCodec(HEIGHT, WIDTH, 20).encode(frames)
    ours = codec.encode(frames)
    assert kinds(ours).count("shared") >= 6
    assert all(len(a) <= len(b) + 2 for a, b in zip(ours, plain, strict=True))
    assert sum(map(len, ours)) < 0.93 * sum(map(len, plain))
    # Tables that lack a symbol can't be used, and the standard's are shorter than tables sent along.
    bare = JpegCodec(HEIGHT, WIDTH, 20)
    bare.fit(np.full((2, HEIGHT, WIDTH, 3), 128, np.uint8))
    assert bare.encode(frames[:1]) == [b"\xff\xda" + plain[0]]
    np.testing.assert_array_equal(bare.decode(bare.encode(frames[:1])), codec.decode(ours[:1]))


def test_tables_are_those_of_the_frames_fitted_on():
    frames = room_frames(1, 3, 48, 52)
    codec = JpegCodec(48, 52, 60)
    codec.fit(frames)
    # Of one frame: its own optimised file, without its headers.
    file = whole_file(frames[0], 60, optimize=True)
    header = file.index(b"\xff\xda")
    assert codec.encode(frames) == [file[header + 14 : -2]]
    again = JpegCodec(48, 52, 60)
    again.fit(frames)
    np.testing.assert_array_equal(again.decode(codec.encode(frames)), codec.decode(codec.encode(frames)))


@pytest.mark.parametrize("downscale", [1, 2, 4])
def test_shrunk_frames_take_fewer_bytes_and_keep_their_size(downscale):
    frames, codec = room_frames(10, seed=0), fitted(60, downscale)
    payloads = codec.encode(frames)
    decoded = codec.decode(payloads)
    assert (decoded.shape, decoded.dtype) == (frames.shape, np.uint8)
    error = np.sqrt(np.mean((decoded / 255.0 - frames / 255.0) ** 2))
    assert error < {1: 0.05, 2: 0.09, 4: 0.14}[downscale]
    assert np.mean([len(p) for p in payloads]) < {1: 300, 2: 120, 4: 50}[downscale]
    assert codec.coded_size_px == {1: (52, 40), 2: (26, 20), 4: (13, 10)}[downscale]


@pytest.mark.parametrize(("quality", "step"), [(5, 1), (95, 157)])
def test_every_cut_and_every_byte_too_many_is_refused(quality, step):
    codec = fitted(quality)
    for payload in codec.encode(room_frames(2, seed=0)):
        for length in range(len(payload) - 1, -1, -step):
            with pytest.raises(SemcomError, match="payload 0 has"):
                codec.decode([payload[:length]])
        for more in (b"\0", b"\xff", b"\xff\0", b"\xff\xd9"):
            with pytest.raises(SemcomError, match="payload 1 has"):
                codec.decode([payload, payload + more])


def test_the_reason_of_a_refusal_is_told():
    codec = fitted()
    payload = codec.encode(room_frames(1, seed=0))[0]
    for data, text in (
        (payload[:-3], "it ends too early"),
        (payload + b"\0\1\2", "3 bytes follow its end"),
        (payload[:9] + b"\xff\xd9" + payload[9:], "there is a marker in it"),
        (b"\xff\xc4" + payload, "a Huffman table"),
    ):
        with pytest.raises(SemcomError, match=f"no JPEG scan of {HEIGHT} x {WIDTH} pixels: {text}"):
            codec.decode([data])
    # The last byte's lowest bit fills it, in all but one of eight payloads.
    refused = 0
    for payload in codec.encode(room_frames(16, seed=0)):
        try:
            codec.decode([payload[:-1] + bytes([payload[-1] ^ 1])])
        except SemcomError as error:
            refused += "its last byte is not filled with ones" in str(error)
    assert refused >= 8


def test_the_decoder_survives_files_with_errors():
    rng, codec = np.random.default_rng(0), JpegCodec(HEIGHT, WIDTH, 20, container="file")
    files, refusals = codec.encode(room_frames(4, seed=0)), []
    for number in range(200):
        flipped = bytearray(files[number % 4])
        for bit in rng.integers(0, 8 * len(flipped), size=int(rng.integers(1, 4))):
            flipped[bit // 8] ^= 1 << (bit % 8)
        try:
            assert codec.decode([bytes(flipped)]).shape == (1, HEIGHT, WIDTH, 3)
        except SemcomError as error:
            refusals.append(str(error))
    assert 0 < len(refusals) < 200
    assert "\n" not in "".join(refusals)


def test_the_decoder_survives_whatever_arrives():
    rng, codec = np.random.default_rng(0), fitted()
    real = codec.encode(room_frames(20, seed=0))
    noise = rng.integers(0, 256, (2, HEIGHT, WIDTH, 3), dtype=np.uint8)
    real += JpegCodec(HEIGHT, WIDTH, 100).encode(noise)
    assert {"shared", "own"} <= set(kinds(real))
    real.append(b"\xff\xda" + real[0])
    outcomes, texts = [], ""
    for number in range(120):
        payload = real[number % len(real)]
        flipped = bytearray(payload)
        for bit in rng.integers(0, 8 * len(payload), size=int(rng.integers(1, 4))):
            flipped[bit // 8] ^= 1 << (bit % 8)
        tables = b"\xff\xc4" + rng.bytes(int(rng.integers(0, 300)))
        data = [rng.bytes(int(rng.integers(0, 400))), bytes(flipped), tables, b"\xff\xda" + payload][
            number % 4
        ]
        try:
            frames = codec.decode([data])
        except SemcomError as error:
            outcomes.append(False)
            texts += str(error)
            continue
        outcomes.append(True)
        assert frames.shape == (1, HEIGHT, WIDTH, 3)
    assert any(outcomes)
    assert not all(outcomes)
    assert "\n" not in texts
    for data in (bytes(1 << 20), b"\xff" * (1 << 20), b"\xff\x00" * (1 << 19)):
        with pytest.raises(SemcomError, match=f"payload 0 has {1 << 20} bytes .* at most"):
            codec.decode([data])


def test_rows_of_a_batch_are_independent_and_none_are_none():
    frames, codec = room_frames(8, seed=0), fitted()
    payloads = codec.encode(frames)
    assert [codec.encode(frames[n : n + 1])[0] for n in range(8)] == payloads
    np.testing.assert_array_equal(codec.decode(payloads[::-1]), codec.decode(payloads)[::-1])
    assert codec.encode(frames[:0]) == []
    assert codec.decode([]).shape == (0, HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(("quality", "downscale"), [(5, 1), (20, 2), (95, 1), (100, 4)])
def test_a_file_is_what_pillow_writes_and_shows_the_pixels_of_the_scan(quality, downscale):
    frames = room_frames(6, seed=0)
    frames[5] = np.random.default_rng(0).integers(0, 256, frames[5].shape)
    codec, scans = JpegCodec(HEIGHT, WIDTH, quality, downscale, "file"), fitted(quality, downscale)
    files, payloads = codec.encode(frames), scans.encode(frames)
    np.testing.assert_array_equal(codec.decode(files), scans.decode(payloads))
    for file, payload, frame in zip(files, payloads, frames, strict=True):
        with Image.open(BytesIO(file)) as image:
            image.load()
            assert (image.format, image.size) == ("JPEG", codec.coded_size_px)
            assert image.info["jfif"] == 257
        if downscale == 1:
            assert file == min((whole_file(frame, quality, optimize) for optimize in (False, True)), key=len)
        # Headers and quantisation tables, whatever Huffman tables there are.
        assert len(payload) + 200 < len(file) <= codec.max_payload_bytes()


def test_files_that_the_codec_cannot_have_made_are_refused():
    codec = JpegCodec(HEIGHT, WIDTH, 20, container="file")
    (file,) = codec.encode(room_frames(1, seed=0))
    for length in range(len(file)):
        with pytest.raises(SemcomError, match="payload 1 has"):
            codec.decode([file, file[:length]])
    end = file[:-2]
    other = whole_file(room_frames(1, seed=0)[0], 21)
    for data, text in (
        (b"", "it begins with another header"),
        (other, "it begins with another header"),
        (file.replace(b"\xff\xc4", b"\xff\xc5", 1), "a Huffman table is missing"),
        (file[:-9], "its scan has no header or no end"),
        (file + b"\0", "its scan has no header or no end"),
        (end[:-3] + b"\xff\xd9", "it ends too early"),
        (end + b"\0\1\2\xff\xd9", "3 bytes follow its end"),
        (end + b"\xff\xd9\xff\xd9", "there is a marker in it"),
        (file + bytes(1 << 20), f"it makes at most {codec.max_payload_bytes()}"),
    ):
        with pytest.raises(SemcomError, match=f"no JPEG file of {HEIGHT} x {WIDTH} pixels: {text}"):
            codec.decode([data])


def test_what_was_coded_before_is_not_coded_again(monkeypatch):
    frames, codec = room_frames(3, seed=5), JpegCodec(HEIGHT, WIDTH, 20)
    payloads = codec.encode(frames)
    decoded = codec.decode(payloads)

    def refuse(*_):
        raise AssertionError

    for name in ("transcode", "check_scan"):
        monkeypatch.setattr(jpeg, name, refuse)
    assert codec.encode(frames[::-1]) == payloads[::-1]
    np.testing.assert_array_equal(codec.decode(payloads[::-1]), decoded[::-1])
    # A copy knows nothing of it, and neither does one whose tables are others.
    copy = pickle.loads(pickle.dumps(codec))
    codec.fit(frames)
    for each in (copy, codec):
        for call in (lambda each=each: each.encode(frames), lambda each=each: each.decode(payloads)):
            with pytest.raises(AssertionError):
                call()


def test_a_memo_forgets_what_was_asked_longest_ago():
    asked = []

    def ask(question: bytes) -> int:
        def compute() -> int:
            asked.append(question)
            return len(asked)

        return memo.answer(question, compute)

    memo = Memo(2)
    assert [ask(question) for question in (b"a", b"b", b"a", b"c", b"a", b"b")] == [1, 2, 1, 3, 1, 4]
    assert asked == [b"a", b"b", b"c", b"b"]


@pytest.mark.parametrize(
    ("counts", "symbols", "text"),
    [
        (bytes(15), b"", "cut off"),
        (bytes([1] + [0] * 15), b"", "cut off"),
        (bytes([2] + [0] * 15), b"\0\1", "no prefix code"),
        (bytes([0, 2] + [0] * 14), b"\1\1", "no prefix code"),
        (bytes([0, 2] + [0] * 14), b"\1\14", "no 8-bit frame"),
    ],
)
def test_tables_that_are_none_are_refused(counts, symbols, text):
    with pytest.raises(SemcomError, match=text):
        HuffmanTable(counts, symbols, is_dc=True)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: JpegCodec(64, 96, 0), "quality = 0 is out of range"),
        (lambda: JpegCodec(64, 96, 101), "quality = 101 is out of range"),
        (lambda: JpegCodec(64, 96, 50, 3), "downscale = 3: give one of 1, 2, 4"),
        (lambda: fitted().encode(np.zeros((1, 64, 96, 3), np.uint8)), r"\(1, 64, 96, 3\)"),
        (lambda: fitted().encode(np.zeros((1, HEIGHT, WIDTH, 3))), "float64"),
        (lambda: JpegCodec(64, 96, 50).fit(np.zeros((0, 64, 96, 3), np.uint8)), "no frames"),
    ],
)
def test_bad_settings_and_frames_are_refused(call, text):
    with pytest.raises(SemcomError, match=text):
        call()
