"""The catalogue of codecs: their names, their configuration, and how one is made from it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from semcom.codecs.analog import AnalogCodec
from semcom.codecs.entropy import EntropyCodec
from semcom.codecs.entropy_model import FactorisedQuantiser
from semcom.codecs.finite_scalar import FiniteScalarQuantiser
from semcom.codecs.floating import Float16Codec, Float32Codec
from semcom.codecs.scalar import UniformQuantiser, UniformScalarCodec
from semcom.codecs.transform import TransformQuantiser
from semcom.codecs.vector import VectorQuantiser, product_structure, residual_structure

CODECS: dict[str, str] = {
    "float32": "each dimension as a 32-bit floating-point number, no loss",
    "float16": "each dimension as a 16-bit floating-point number",
    "uniform": "each dimension quantised uniformly over a fitted range, a fixed number of bits each",
    "entropy": "the same quantiser, its symbols range coded with fitted probabilities",
    "vq": "groups of dimensions as the nearest codeword of a learned codebook each, range coded",
    "rvq": "all dimensions together by codebooks in stages, each on what the last left over, range coded",
    "fsq": "each dimension bounded and rounded to a few levels, their number free, range coded",
    "factorised": "each dimension in learned steps, range coded under a learned entropy model",
    "klt": "the Karhunen-Loeve transform, its coefficients rounded to one step and range coded",
    "analog": "the dimensions as I and Q of symbols without a code, for the link analog",
}

AnyCodec = Float32Codec | Float16Codec | UniformScalarCodec | EntropyCodec | AnalogCodec

_WEIGHTABLE = ("entropy", "vq", "rvq", "fsq", "factorised", "klt", "analog")
_UP_TO_8_BITS = ("vq", "rvq", "fsq", "factorised")


class CodecConfig(BaseModel):
    """Which codec turns embeddings into bits, and how finely."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal[
        "float32", "float16", "uniform", "entropy", "vq", "rvq", "fsq", "factorised", "klt", "analog"
    ] = Field(default="uniform", description=f"the codec: {', '.join(CODECS)}")
    bits: int = Field(
        default=8,
        ge=1,
        le=16,
        description="bits per dimension: 1 to 16, with vq, rvq, fsq and factorised 1 to 8 "
        "(float32 and float16 ignore it)",
    )
    levels: int | None = Field(
        default=None, ge=2, le=256, description="levels per dimension of fsq, instead of 2^bits"
    )
    mean_bits: float | None = Field(
        default=None, gt=0, le=1e6, description="mean bits of a whole embedding with klt, instead of bits"
    )
    weighting: Literal["none", "task"] = Field(
        default="none", description="errors of the embedding count alike, or as much as the task suffers"
    )

    num_symbols: int | None = Field(
        default=None, ge=1, le=4096, description="complex symbols of analog, instead of half the dimensions"
    )
    training_snr_db: float | None = Field(
        default=None, ge=-30, le=60, description="Es/N0 that analog is trained for, instead of a linear map"
    )

    @model_validator(mode="after")
    def _check(self) -> CodecConfig:
        if self.kind in _UP_TO_8_BITS and self.bits > 8:
            raise ValueError(f"bits = {self.bits} is too much for {self.kind}: it takes 1 to 8")
        if self.levels is not None and self.kind != "fsq":
            raise ValueError(f"levels = {self.levels} does not belong to {self.kind}: it is for fsq")
        if self.mean_bits is not None and self.kind != "klt":
            raise ValueError(f"mean_bits = {self.mean_bits:g} does not belong to {self.kind}: it is for klt")
        for name in ("num_symbols", "training_snr_db"):
            if getattr(self, name) is not None and self.kind != "analog":
                raise ValueError(
                    f"{name} = {getattr(self, name)} does not belong to {self.kind}: it is for analog"
                )
        if self.weighting != "none" and self.kind not in _WEIGHTABLE:
            raise ValueError(f"weighting = task is not for {self.kind}: it takes {', '.join(_WEIGHTABLE)}")
        return self


def make_codec(config: CodecConfig, embedding_dim: int) -> AnyCodec:
    """Returns the codec of `config` for embeddings [N, D]; all but the floating ones still want `fit`."""
    dim, bits, weighted = embedding_dim, config.bits, config.weighting == "task"
    match config.kind:
        case "float32":
            return Float32Codec(dim)
        case "float16":
            return Float16Codec(dim)
        case "uniform":
            return UniformScalarCodec(dim, bits)
        case "entropy":
            return EntropyCodec("entropy", 4, dim, UniformQuantiser(dim, bits), weighted=weighted)
        case "vq":
            quantiser = VectorQuantiser(dim, *product_structure(dim, bits))
            return EntropyCodec("vq", 5, dim, quantiser, weighted=weighted)
        case "rvq":
            quantiser = VectorQuantiser(dim, *residual_structure(dim, bits))
            return EntropyCodec("rvq", 6, dim, quantiser, weighted=weighted)
        case "fsq":
            levels = FiniteScalarQuantiser(dim, config.levels or 1 << bits, shared_out=weighted)
            return EntropyCodec("fsq", 7, dim, levels, weighted=weighted)
        case "factorised":
            return EntropyCodec("factorised", 8, dim, FactorisedQuantiser(dim, bits), weighted=weighted)
        case "klt":
            transform = TransformQuantiser(dim, config.mean_bits or float(bits * dim))
            return EntropyCodec("klt", 10, dim, transform, weighted=weighted)
        case "analog":
            return AnalogCodec(dim, config.num_symbols, config.training_snr_db, weighted=weighted)
