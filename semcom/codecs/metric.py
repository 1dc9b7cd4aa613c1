"""The space in which a codec measures its error: that of the embedding, or one weighted by the task."""

from __future__ import annotations

import torch
from torch import nn

from semcom.contracts import SemcomError

# Of the mean eigenvalue: no direction of the embedding is quite without weight.
_LEAST_SHARE = 1e-3


class ErrorMetric(nn.Module):
    """Maps z to y so that |y - y_hat|^2 = (z - z_hat)^T W (z - z_hat), with uncorrelated dimensions.

    W [D, D] says how much the task suffers from errors. With W = V diag(m) V^T and C the covariance of
    z, y = z T, T = V diag(m)^(1/2) Q, where the columns of Q are the eigenvectors of
    diag(m)^(1/2) V^T C V diag(m)^(1/2), the smallest first: the Karhunen-Loeve transform under a weighted
    error (Li et al. 1999, IEEE Trans. Signal Process. 47(4), for a diagonal W). Without a weight y = z.
    Rows are mapped by sums of fixed order, so that a row's result does not depend on its batch.
    """

    forward_matrix: torch.Tensor
    inverse_matrix: torch.Tensor

    def __init__(self, embedding_dim: int, *, weighted: bool) -> None:
        super().__init__()
        self.weighted = weighted
        if weighted:
            unknown = torch.full((embedding_dim, embedding_dim), torch.nan, dtype=torch.float64)
            self.register_buffer("forward_matrix", unknown)
            self.register_buffer("inverse_matrix", unknown.clone())

    def fit(self, z: torch.Tensor, weight: torch.Tensor | None) -> None:
        """Sets the map from embeddings z [N, D] and the weight W [D, D], symmetric, not negative.

        Raises SemcomError for a weight that is missing, not due, of another shape or not finite.
        """
        if not self.weighted:
            if weight is not None:
                raise SemcomError("this codec measures errors without a weight: make it with one or drop it")
            return
        shape = tuple(self.forward_matrix.shape)
        if weight is None or tuple(weight.shape) != shape or not bool(weight.isfinite().all()):
            found = "none" if weight is None else f"{tuple(weight.shape)}, finite or not"
            raise SemcomError(
                f"this codec needs a finite weight {shape} of the errors, and was given {found}"
            )
        values, vectors = torch.linalg.eigh(weight.detach().double().cpu())
        values = values.clamp(min=0)
        least = _LEAST_SHARE * values.mean()
        root = (values + (least if least > 0 else 1.0)).sqrt()
        mapped = (z.detach().double().cpu() @ vectors) * root
        _, rotation = torch.linalg.eigh(torch.cov(mapped.T, correction=0).reshape(shape))
        # An eigenvector's sign is arbitrary; fix it, so that the same embeddings always give the same map.
        rotation = rotation * torch.sign(rotation.gather(0, rotation.abs().argmax(dim=0, keepdim=True)))
        self.forward_matrix.copy_((vectors * root) @ rotation)
        self.inverse_matrix.copy_(rotation.T @ (vectors / root).T)

    def apply_to(self, z: torch.Tensor) -> torch.Tensor:
        """Maps z [N, D] to y [N, D]; float32."""
        return _rows_times(z, self.forward_matrix) if self.weighted else z

    def invert(self, y: torch.Tensor) -> torch.Tensor:
        """Maps y [N, D] back to z [N, D]; float32."""
        return _rows_times(y, self.inverse_matrix) if self.weighted else y


def _rows_times(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Multiplies rows [N, I] by a matrix [I, O] without BLAS, whose order of summation depends on N."""
    total = torch.zeros(len(rows), matrix.shape[1], dtype=torch.float64, device=rows.device)
    for column, line in zip(rows.double().unbind(dim=1), matrix, strict=True):
        total = total + column[:, None] * line
    return total.float()
