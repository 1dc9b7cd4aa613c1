"""The devices' part of a model as bytes, with the optimiser's moments of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from nodes.training.updates import Float32Update, UpdateCodec, UpdateCodecConfig

Tensors = Mapping[str, torch.Tensor]
MOMENTS = "moments."
"""How the names of moments begin, beside those of the part's own tensors."""
_SECOND = "exp_avg_sq"
_LEAST_SHARE = 1 / 254


class PartCoder:
    """Sends a part whole to who holds nothing like it, and to others what changed, through a codec.

    Second moments v divide a step by their root. They travel as roots, which differ less in size, and with a
    codec that rounds none comes out below 1/254 of its tensor's largest: a root that is rounded to 0 would
    make a step without bound.
    """

    def __init__(self, config: UpdateCodecConfig) -> None:
        self._config, self._is_exact = config, isinstance(config, Float32Update)
        self._codecs: dict[tuple[bool, tuple[str, ...]], UpdateCodec] = {}

    def encode(self, tensors: Tensors, held: Tensors | None, generator: torch.Generator) -> bytes:
        """Returns the bytes of a part; held: what its receiver is known to hold."""
        codec = self._codec(tensors, held)
        reference = tensors if held is None or held.keys() != tensors.keys() else held
        sent, known = self._to_roots(tensors), self._to_roots(reference)
        return codec.encode(sent, known, codec.initial_memory(), generator)[0]

    def decode(self, payload: bytes, held: Tensors | None, like: Tensors) -> dict[str, torch.Tensor]:
        """Returns the part that a payload holds; like: tensors of its names and shapes."""
        codec = self._codec(like, held)
        reference = like if held is None or held.keys() != like.keys() else held
        return self._from_roots(codec.decode(payload, self._to_roots(reference)))

    def _codec(self, tensors: Tensors, held: Tensors | None) -> UpdateCodec:
        is_whole = held is None or held.keys() != tensors.keys()
        key = (is_whole, tuple(tensors))
        if key not in self._codecs:
            self._codecs[key] = UpdateCodec(Float32Update() if is_whole else self._config, tensors)
        return self._codecs[key]

    def _to_roots(self, tensors: Tensors) -> dict[str, torch.Tensor]:
        if self._is_exact:
            return dict(tensors)
        return {name: t.sqrt() if name.endswith(_SECOND) else t for name, t in tensors.items()}

    def _from_roots(self, tensors: Tensors) -> dict[str, torch.Tensor]:
        if self._is_exact:
            return dict(tensors)
        return {
            name: t.clamp_min(_LEAST_SHARE * t.max()).square() if name.endswith(_SECOND) else t
            for name, t in tensors.items()
        }
