"""Camera frames as JPEG, files or what of them both ends don't know: what embeddings are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from io import BytesIO
from typing import Literal, NoReturn

import numpy as np
from PIL import Image

from scenarios.isac.jpeg_scan import HuffmanTable, check_scan, transcode
from scenarios.isac.memo import Memo
from semcom.contracts import SemcomError

DOWNSCALES = (1, 2, 4)

Container = Literal["scan", "file"]

_TABLES_FOLLOW = b"\xff\xc4"
_STANDARD_TABLES = b"\xff\xda"
"""JPEG's own markers of Huffman tables and of a scan: no scan begins so, since 255 is followed by 0 there."""
_TABLE_KINDS = (0x00, 0x10, 0x01, 0x11)
"""DC and AC of luma, DC and AC of chroma, as libjpeg numbers and orders them."""
_END = b"\xff\xd9"
_START_OF_SCAN = 0xDA
_UNIT_PX = 16
_MOST_ROWS_PX = 65_500
_MOST_BYTES_OF_A_BLOCK = 2 * 209
"""27 bits of DC and 63 times 26 of AC, each byte perhaps followed by a stuffed zero."""
_MOST_BYTES_OF_TABLES = 2 + 4 * (16 + 256)
_MOST_BYTES_OF_SEGMENTS = 4 * (5 + 16 + 256)
_NUM_KEPT = 256
"""Cells step together, and so the frames of one step come again at once: those of as many rooms are known."""


class JpegCodec:
    """Baseline JPEG with 4:2:0 of frames of one size, sent as files or only as far as they differ.

    container = "file": a payload is a JFIF file, as a camera writes it and any viewer shows it; its Huffman
    tables are its own where that makes it smaller than the standard's do.
    container = "scan": the same pixels from fewer bytes. Both ends know size, quality and layout, and with
    them the headers and quantisation tables; the Huffman tables too, which are those of the standard's annex
    K or, after `fit`, those of other frames. A payload is the scan of Huffman codes alone. Where the
    standard's tables, or the frame's own sent before it, make fewer bytes, these are taken, and a marker
    says so.
    Frames may be shrunk before by `downscale` (Lanczos) and are then enlarged after (bicubic), which at few
    bits is the better use of them; a file holds the shrunk frame. What the last frames became and which of
    the last payloads were sound is remembered, so that the same ones again cost little.
    quality: 1 to 100, as in libjpeg. Raises SemcomError for settings out of range.
    Source: ITU-T T.81; its annex B.4 has the abbreviated formats. ITU-T T.871 (JFIF).
    """

    def __init__(
        self, height_px: int, width_px: int, quality: int, downscale: int = 1, container: Container = "scan"
    ) -> None:
        if not 1 <= quality <= 100:
            raise SemcomError(f"quality = {quality} is out of range: JPEG takes 1 to 100")
        if downscale not in DOWNSCALES:
            raise SemcomError(f"downscale = {downscale}: give one of {', '.join(map(str, DOWNSCALES))}")
        self.height_px, self.width_px = height_px, width_px
        self.quality, self.downscale, self.container = quality, downscale, container
        self.coded_size_px = (-(-width_px // downscale), -(-height_px // downscale))
        """Width and height of what is coded."""
        columns, rows = (-(-extent // _UNIT_PX) for extent in self.coded_size_px)
        self._num_units = columns * rows
        blank = self._compress(Image.new("RGB", self.coded_size_px), optimize=False)
        self._before, tables, self._after, _ = _split(blank)
        self._standard = self._shared = _parsed(tables)
        self._payloads: Memo[bytes] = Memo(_NUM_KEPT)
        self._files: Memo[bytes] = Memo(_NUM_KEPT)

    def max_payload_bytes(self) -> int:
        """No payload is longer."""
        scan = 6 * self._num_units * _MOST_BYTES_OF_A_BLOCK
        if self.container == "scan":
            return _MOST_BYTES_OF_TABLES + scan
        return len(self._before) + _MOST_BYTES_OF_SEGMENTS + len(self._after) + scan + len(_END)

    def fit(self, frames: np.ndarray) -> None:
        """Makes the shared Huffman tables those that are best for these frames, all together.

        They are libjpeg's own for one image of the frames below one another, DC starting anew with each; of
        more than it can be high, as many evenly spaced ones. Files share no tables: theirs stay as they are.
        Raises SemcomError as `encode` does, and for no frames.
        """
        self._check(frames)
        if not len(frames):
            raise SemcomError("Huffman tables can't be fitted on no frames: give at least one")
        height_px = -(-self.coded_size_px[1] // _UNIT_PX) * _UNIT_PX
        rows = np.linspace(0, len(frames) - 1, min(len(frames), _MOST_ROWS_PX // height_px)).round()
        fill = ((0, height_px - self.coded_size_px[1]), (0, 0), (0, 0))
        coded = [np.pad(np.asarray(self._shrink(frames[int(row)])), fill, mode="edge") for row in rows]
        image = Image.fromarray(np.concatenate(coded))
        file = self._compress(image, optimize=True, restart_marker_rows=height_px // _UNIT_PX)
        self._shared = _parsed(_split(file)[1])
        self._payloads, self._files = Memo(_NUM_KEPT), Memo(_NUM_KEPT)

    def encode(self, frames: np.ndarray) -> list[bytes]:
        """Codes frames, uint8 [n, height_px, width_px, 3]; raises SemcomError for another shape or type."""
        self._check(frames)
        return [self._payloads.answer(frame.tobytes(), partial(self._encode_one, frame)) for frame in frames]

    def decode(self, payloads: Sequence[bytes]) -> np.ndarray:
        """Returns the frames of payloads, uint8 [n, height_px, width_px, 3].

        Raises SemcomError naming the first payload that `encode` can't have made: cut off, too long, or
        not Huffman codes of a frame of this size.
        """
        frames = np.empty((len(payloads), self.height_px, self.width_px, 3), np.uint8)
        for number, (frame, payload) in enumerate(zip(frames, payloads, strict=True)):
            file = self._files.answer(payload, partial(self._to_file, number, payload))
            with Image.open(BytesIO(file), formats=["JPEG"]) as image:
                frame[:] = np.asarray(self._enlarge(image))
        return frames

    def _encode_one(self, frame: np.ndarray) -> bytes:
        image = self._shrink(frame)
        files = [self._compress(image, optimize) for optimize in (False, True)]
        if self.container == "file":
            return min(files, key=len)
        *_, standard = _split(files[0])
        _, tables, _, own = _split(files[1])
        shared = transcode(standard, self._standard, self._shared, self._num_units)
        choices = [
            _STANDARD_TABLES + standard,
            _TABLES_FOLLOW + b"".join(table[1:] for table in tables) + own,
        ]
        if shared is not None and len(shared) <= min(map(len, choices)):
            # What was just written need not be checked when it comes back.
            self._files.answer(shared, lambda: self._joined(self._shared, shared))
            return shared
        return min(choices, key=len)

    def _to_file(self, number: int, payload: bytes) -> bytes:
        """Makes a payload that is sound a JPEG file."""
        tables, scan = self._read(number, payload)
        if problem := check_scan(scan, tables, self._num_units):
            self._refuse(number, payload, problem)
        return self._joined(tables, scan)

    def _joined(self, tables: Sequence[HuffmanTable], scan: bytes) -> bytes:
        return b"".join([self._before, _to_segments(tables), self._after, scan, _END])

    def _check(self, frames: np.ndarray) -> None:
        shape = (self.height_px, self.width_px, 3)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != shape:
            raise SemcomError(
                f"frames of shape {frames.shape} and type {frames.dtype}: this codec takes uint8 "
                f"[n, {self.height_px}, {self.width_px}, 3]"
            )

    def _shrink(self, frame: np.ndarray) -> Image.Image:
        image = Image.fromarray(frame)
        if self.downscale == 1:
            return image
        return image.resize(self.coded_size_px, Image.Resampling.LANCZOS)

    def _compress(self, image: Image.Image, optimize: bool, restart_marker_rows: int = 0) -> bytes:
        buffer = BytesIO()
        image.save(
            buffer, "JPEG", quality=self.quality, subsampling="4:2:0", optimize=optimize,
            restart_marker_rows=restart_marker_rows,
        )  # fmt: skip
        return buffer.getvalue()

    def _enlarge(self, image: Image.Image) -> Image.Image:
        if self.downscale == 1:
            return image
        return image.resize((self.width_px, self.height_px), Image.Resampling.BICUBIC)

    def _read(self, number: int, payload: bytes) -> tuple[tuple[HuffmanTable, ...], bytes]:
        """Tables and scan of a payload."""
        if len(payload) > self.max_payload_bytes():
            self._refuse(number, payload, f"it makes at most {self.max_payload_bytes()}")
        if self.container == "file":
            return self._read_file(number, payload)
        if payload.startswith(_STANDARD_TABLES):
            return self._standard, payload[len(_STANDARD_TABLES) :]
        if not payload.startswith(_TABLES_FOLLOW):
            return self._shared, payload
        tables, rest = [], payload[len(_TABLES_FOLLOW) :]
        for kind in _TABLE_KINDS:
            length = 16 + sum(rest[:16])
            try:
                tables.append(HuffmanTable(rest[:16], rest[16:length], is_dc=kind < 0x10))
            except SemcomError as error:
                self._refuse(number, payload, str(error))
            rest = rest[length:]
        return tuple(tables), rest

    def _read_file(self, number: int, payload: bytes) -> tuple[tuple[HuffmanTable, ...], bytes]:
        """Tables and scan of a file; all else in it is as in any other file of this codec."""
        if not payload.startswith(self._before):
            self._refuse(number, payload, "it begins with another header")
        tables, rest = [], payload[len(self._before) :]
        for kind in _TABLE_KINDS:
            length = int.from_bytes(rest[2:4], "big")
            if rest[:2] != _TABLES_FOLLOW or rest[4:5] != bytes([kind]):
                self._refuse(number, payload, "a Huffman table is missing")
            try:
                tables.append(HuffmanTable(rest[5:21], rest[21 : 2 + length], is_dc=kind < 0x10))
            except SemcomError as error:
                self._refuse(number, payload, str(error))
            rest = rest[2 + length :]
        if not rest.startswith(self._after) or not rest.endswith(_END):
            self._refuse(number, payload, "its scan has no header or no end")
        return tuple(tables), rest[len(self._after) : -len(_END)]

    def _refuse(self, number: int, payload: bytes, problem: str) -> NoReturn:
        width, height = self.coded_size_px
        raise SemcomError(
            f"payload {number} has {len(payload)} bytes that are no JPEG {self.container} of "
            f"{height} x {width} pixels: {problem}"
        )


def through_jpeg(frames: np.ndarray, quality: Sequence[int], downscale: Sequence[int]) -> np.ndarray:
    """What JPEG leaves of frames, uint8 [n, height, width, 3], each at its quality and shrunk before."""
    shown = np.empty_like(frames)
    height, width = frames.shape[1:3]
    for row, (frame, level, factor) in enumerate(zip(frames, quality, downscale, strict=True)):
        buffer, image = BytesIO(), Image.fromarray(frame)
        if factor > 1:
            image = image.resize((-(-width // factor), -(-height // factor)), Image.Resampling.LANCZOS)
        image.save(buffer, "JPEG", quality=level, subsampling="4:2:0")
        with Image.open(buffer, formats=["JPEG"]) as coded:
            full = coded if factor == 1 else coded.resize((width, height), Image.Resampling.BICUBIC)
            shown[row] = np.asarray(full)
    return shown


def _split(data: bytes) -> tuple[bytes, list[bytes], bytes, bytes]:
    """Splits a JPEG file: what precedes its Huffman tables, these, the header of its scan, and the scan.

    A table begins with its kind. Raises SemcomError for others than the four, in their order.
    """
    at, before, tables = 2, data[:2], []
    while (marker := data[at + 1]) != _START_OF_SCAN:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at : at + 2] == _TABLES_FOLLOW:
            tables.append(data[at + 4 : end])
        else:
            before += data[at:end]
        at = end
    kinds = tuple(table[0] for table in tables)
    if kinds != _TABLE_KINDS or marker != _START_OF_SCAN or not data.endswith(_END):
        raise SemcomError(
            f"the JPEG library writes Huffman tables {kinds}, not {_TABLE_KINDS}: use libjpeg-turbo"
        )
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return before, tables, data[at:end], data[end : -len(_END)]


def _parsed(tables: Sequence[bytes]) -> tuple[HuffmanTable, ...]:
    return tuple(HuffmanTable(table[1:17], table[17:], is_dc=table[0] < 0x10) for table in tables)


def _to_segments(tables: Sequence[HuffmanTable]) -> bytes:
    segments = []
    for kind, table in zip(_TABLE_KINDS, tables, strict=True):
        content = bytes([kind]) + table.counts + table.symbols
        segments.append(_TABLES_FOLLOW + (2 + len(content)).to_bytes(2, "big") + content)
    return b"".join(segments)
