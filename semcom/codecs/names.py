"""Codecs by name, as records and settings tell them apart: uniform-8, fsq-6levels, rvq-2-task."""

from __future__ import annotations

import re

import numpy as np

from semcom.codecs.catalogue import CodecConfig
from semcom.contracts import SemcomError


def codec_name(codec: CodecConfig) -> str:
    """Names a codec as records do: uniform-8, float16, fsq-6levels, rvq-2-task, analog-5symbols-at10dB."""
    words: list[str] = [codec.kind]
    if codec.levels is not None:
        words.append(f"{codec.levels}levels")
    elif codec.kind not in _WITHOUT_BITS and codec.mean_bits is None:
        words.append(str(codec.bits))
    if codec.mean_bits is not None:
        words.append(f"{_digits(codec.mean_bits)}mean")
    if codec.num_symbols is not None:
        words.append(f"{codec.num_symbols}symbols")
    if codec.training_snr_db is not None:
        words.append(f"at{_digits(codec.training_snr_db)}dB")
    if codec.weighting == "task":
        words.append("task")
    return "-".join(words)


def _digits(value: float) -> str:
    """All digits of a number, without an exponent: two codecs that differ have two names."""
    return np.format_float_positional(value, trim="-")


_WITHOUT_BITS = ("float32", "float16", "analog")
_CODEC_NAME = re.compile(
    r"(?P<kind>float32|float16|[a-z]+)(-(?P<bits>\d+))?(-(?P<levels>\d+)levels)?(-(?P<mean_bits>\d+(\.\d+)?)mean)?"
    r"(-(?P<num_symbols>\d+)symbols)?"
    r"(-at(?P<training_snr_db>-?\d+(\.\d+)?)dB)?(?P<task>-task)?"
)


def codec_config(name: str) -> CodecConfig:
    """Reads a codec's name back. Raises SemcomError for one that there is not."""
    try:
        parts = _CODEC_NAME.fullmatch(name)
        if parts is None:
            raise ValueError
        numbers = {
            key: parts[key] for key in ("bits", "levels", "mean_bits", "num_symbols", "training_snr_db")
        }
        given = {key: float(value) if "." in value else int(value) for key, value in numbers.items() if value}
        weighting = "task" if parts["task"] else "none"
        codec = CodecConfig.model_validate({"kind": parts["kind"], "weighting": weighting, **given})
        if codec_name(codec) != name:
            raise ValueError
        return codec
    except ValueError as error:
        raise SemcomError(
            f"codec {name!r} is unknown: write float32, float16, uniform-BITS, entropy-BITS (1 to 16), "
            "vq-BITS, rvq-BITS, fsq-BITS, factorised-BITS (1 to 8), klt-BITS, fsq-Nlevels, klt-Nmean, "
            "analog, analog-Nsymbols or analog-atSNRdB; -task behind all but the first three"
        ) from error
