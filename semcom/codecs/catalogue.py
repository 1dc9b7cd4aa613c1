"""The catalogue of codecs: their names, their configuration, and how one is made from it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from semcom.codecs.entropy import EntropyCodedScalarCodec
from semcom.codecs.floating import Float16Codec, Float32Codec
from semcom.codecs.scalar import UniformScalarCodec

CODECS: dict[str, str] = {
    "float32": "each dimension as a 32-bit floating-point number, no loss",
    "float16": "each dimension as a 16-bit floating-point number",
    "uniform": "each dimension quantised uniformly over a fitted range, a fixed number of bits each",
    "entropy": "the same quantiser, its symbols range coded with fitted probabilities",
}

AnyCodec = Float32Codec | Float16Codec | UniformScalarCodec | EntropyCodedScalarCodec


class CodecConfig(BaseModel):
    """Which codec turns embeddings into bits, and how finely."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["float32", "float16", "uniform", "entropy"] = Field(
        default="uniform", description="the codec: float32, float16, uniform or entropy"
    )
    bits: int = Field(
        default=8,
        ge=1,
        le=16,
        description="bits of the scalar quantiser per dimension, 1 to 16 (float32 and float16 ignore it)",
    )


def make_codec(config: CodecConfig, embedding_dim: int) -> AnyCodec:
    """Returns the codec of `config` for embeddings [N, D]; uniform and entropy still want `fit`."""
    match config.kind:
        case "float32":
            return Float32Codec(embedding_dim)
        case "float16":
            return Float16Codec(embedding_dim)
        case "uniform":
            return UniformScalarCodec(embedding_dim, config.bits)
        case "entropy":
            return EntropyCodedScalarCodec(embedding_dim, config.bits)
