"""Alignment: embeddings of JEPAs that grew apart, brought into one frame by orthogonal Procrustes.

Two JEPAs trained apart on the same world end in latent spaces that differ by about a linear isometry
(Social-JEPA, arXiv 2603.02263), which is why averaging their weights fails. The embeddings that both give to
a common set of anchors tell the isometry; folded into the layers on either side of the embedding it leaves
each model's predictions as they were. Embeddings are rows: a rotation R takes z to z R.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from semcom.contracts import SemcomError

# How many times the rounding of the anchors' own numbers a direction has to stand out to count.
_ROUNDINGS = 10


@dataclass(frozen=True)
class Alignment:
    """z_to = scale (z_from - shift_from) R + shift_to, with R orthogonal.

    rotation: R float64 [D, D]. scale above 0. shift_from, shift_to: float64 [D]. residual: the share of the
    variance of the anchors' z_to that is not explained (see unexplained_share), NaN for what was not fitted:
    an inverse or a composition. reflections: whether R was allowed a determinant of -1.
    """

    rotation: torch.Tensor
    scale: float
    shift_from: torch.Tensor
    shift_to: torch.Tensor
    residual: float
    reflections: bool

    @property
    def embedding_dim(self) -> int:
        """D, the dimensions of the embeddings on both sides."""
        return len(self.shift_from)

    def apply(self, z: torch.Tensor) -> torch.Tensor:
        """Maps embeddings [..., D] to the other frame, in their own dtype."""
        if z.shape[-1:] != self.shift_from.shape:
            raise SemcomError(
                f"embeddings {list(z.shape)} for an alignment of {self.embedding_dim} dimensions: "
                "use the one fitted for this model"
            )
        return self.scale * (z - self.shift_from.to(z)) @ self.rotation.to(z) + self.shift_to.to(z)

    def unexplained_share(self, z_from: torch.Tensor, z_to: torch.Tensor) -> float:
        """|z_to - apply(z_from)|^2 / |z_to - shift_to|^2 over rows [N, D]: 0 perfect, 1 as the mean alone."""
        target = z_to.detach().double()
        error = (target - self.apply(z_from.detach().double())).square().sum()
        return float(error / (target - self.shift_to.to(target)).square().sum())

    def inverse(self) -> Alignment:
        """Returns the way back: inverse().apply(apply(z)) is z."""
        return Alignment(
            self.rotation.T, 1 / self.scale, self.shift_to, self.shift_from, math.nan, self.reflections
        )

    def then(self, after: Alignment) -> Alignment:
        """Returns this alignment followed by another one: z to after.apply(apply(z))."""
        return Alignment(
            self.rotation @ after.rotation,
            self.scale * after.scale,
            self.shift_from,
            after.apply(self.shift_to),
            math.nan,
            self.reflections or after.reflections,
        )


def align(
    z_from: torch.Tensor,
    z_to: torch.Tensor,
    *,
    centered: bool = True,
    scaled: bool = False,
    reflections: bool = True,
) -> Alignment:
    """Fits the isometry between two models' embeddings of the same N anchors, [N, D] each.

    Least |s A R - B|^2 with A, B the two less their means (centered), s = 1 unless scaled: U S V^T = A^T B
    gives R = U V^T, and s = tr S / |A|^2. Without reflections the last column of U changes sign where R would
    be one, and with it the last of S. Source: Schoenemann 1966 (Psychometrika 31(1)); for s and rotations
    only Umeyama 1991 (IEEE TPAMI 13(4)).

    With noise of deviation e in z_to's entries the rotation errs by E |R_hat - R|^2 = sum_(i != j) e^2 /
    (l_i + l_j) to first order, l the eigenvalues of A^T A: about D (D - 1) e^2 / 2 N v for N anchors that
    vary by v in every direction. So N is best many times D.

    Raises SemcomError for embeddings that are not finite or not [N, D] alike, for fewer anchors than
    dimensions (and one more if centered), and where the anchors leave a direction open.
    """
    z_from, z_to = z_from.detach(), z_to.detach()
    if z_from.shape != z_to.shape:
        raise SemcomError(
            f"z_from is {list(z_from.shape)} and z_to {list(z_to.shape)}: embed the same anchors by both, in "
            "as many dimensions"
        )
    shift_from, a = prepare_anchors(z_from, "z_from", centered)
    shift_to, b = prepare_anchors(z_to, "z_to", centered)
    rotation, values = nearest_rotation(a.T @ b, reflections)
    tiny = len(values) * torch.finfo(a.dtype).eps * float(a.norm() * b.norm())
    rank = int((values.abs() > tiny).sum())
    if rank < len(values):
        raise SemcomError(
            f"z_from and z_to have {rank} of {len(values)} directions in common: give anchors that both "
            "models embed alike, and more of them"
        )
    scale = float(values.sum() / a.square().sum()) if scaled else 1.0
    if scale <= 0:
        raise SemcomError("z_from and z_to are opposite to each other: allow reflections, or leave the scale")
    fitted = Alignment(rotation, scale, shift_from, shift_to, math.nan, reflections)
    return replace(fitted, residual=fitted.unexplained_share(z_from, z_to))


def prepare_anchors(z: torch.Tensor, who: str, centered: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the mean [D] of anchors z [N, D], 0 if not centered, and what is left; float64, on the CPU.

    Raises SemcomError, whose line begins with `who`, for anchors that don't fix a rotation.
    """
    if z.dim() != 2:
        raise SemcomError(f"{who}: anchors {list(z.shape)} are no embeddings [N, D]: flatten them to rows")
    num, dim = z.shape
    if num < dim + centered:
        raise SemcomError(
            f"{who}: {num} anchors for {dim} dimensions don't fix a rotation: give at least {dim + centered}"
        )
    if not bool(torch.isfinite(z).all()):
        wrong = int((~torch.isfinite(z)).any(dim=1).nonzero()[0])
        raise SemcomError(f"{who}: the embedding of anchor {wrong} is not finite: leave this model out")
    rows = z.cpu().double()
    mean = rows.mean(dim=0) if centered else torch.zeros(dim, dtype=torch.float64)
    rest = rows - mean
    rounding = torch.finfo(z.dtype).eps * float(rows.norm())
    rank = int((torch.linalg.svdvals(rest) > _ROUNDINGS * rounding).sum())
    if rank < dim:
        raise SemcomError(
            f"{who}: the anchors span {rank} of {dim} dimensions and leave the rotation open: give more "
            "varied ones, or look whether the model has collapsed"
        )
    return mean, rest


def nearest_rotation(product: torch.Tensor, reflections: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the R of largest tr(R^T product), [..., D, D], and the values that sum up to it, [..., D].

    The values are singular ones; without reflections the last of them is negative where R would be one.
    """
    u, values, vh = torch.linalg.svd(product)
    if not reflections:
        sign = torch.linalg.det(u @ vh).sign()
        u = torch.cat((u[..., :-1], u[..., -1:] * sign[..., None, None]), dim=-1)
        values = torch.cat((values[..., :-1], values[..., -1:] * sign[..., None]), dim=-1)
    return u @ vh, values


@torch.no_grad()
def absorb(linear: nn.Linear, alignment: Alignment, *, shifted: bool = True) -> nn.Linear:
    """Returns a layer that gives what `linear` gives, aligned.

    W' = s R^T W, b' = s R^T (b - shift_from) + shift_to. For the last layer of an encoder, out_features = D;
    it takes the old one's place, with the same names, shapes and dtype (an optimiser has to be told of its
    weights). shifted=False leaves the shifts out: for a layer whose output is added to embeddings that are
    aligned already, such as a predictor's step, or the second of two that are summed.
    Raises SemcomError for another number of dimensions, and for a shift without a bias to take it.
    """
    _check_layer(linear, "out_features", linear.out_features == alignment.embedding_dim, alignment)
    turn = alignment.scale * alignment.rotation.T
    bias = turn @ _bias(linear)
    if shifted:
        bias = bias - turn @ alignment.shift_from.to(bias) + alignment.shift_to.to(bias)
    return _layer_like(linear, turn @ linear.weight.cpu().double(), bias)


@torch.no_grad()
def absorb_input(linear: nn.Linear, alignment: Alignment) -> nn.Linear:
    """Returns a layer that takes aligned embeddings and gives what `linear` gives for those before.

    W' = W R / s, b' = b + W shift_from - W' shift_to. For the first layer of a predictor or head, whose first
    D inputs are the embedding; what inputs follow, a condition, stay as they are. Raises as absorb does.
    """
    dim = alignment.embedding_dim
    _check_layer(linear, "in_features", linear.in_features >= dim, alignment)
    weight = linear.weight.cpu().double().clone()
    before = weight[:, :dim].clone()
    weight[:, :dim] = before @ alignment.rotation / alignment.scale
    bias = _bias(linear) + before @ alignment.shift_from - weight[:, :dim] @ alignment.shift_to
    return _layer_like(linear, weight, bias)


def _check_layer(linear: nn.Linear, name: str, fits: bool, alignment: Alignment) -> None:
    if not fits:
        raise SemcomError(
            f"a layer with {name} = {getattr(linear, name)} can't absorb an alignment of "
            f"{alignment.embedding_dim} dimensions: give it the layer next to the embedding"
        )


def _bias(linear: nn.Linear) -> torch.Tensor:
    if linear.bias is None:
        return torch.zeros(linear.out_features, dtype=torch.float64)
    return linear.bias.cpu().double()


def _layer_like(linear: nn.Linear, weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    if linear.bias is None and bool(bias.any()):
        raise SemcomError(
            "a layer without bias can't absorb an alignment's shift: fit it with centered=False, or give the "
            "layer a bias"
        )
    layer = copy.deepcopy(linear)
    layer.weight.copy_(weight)
    if layer.bias is not None:
        layer.bias.copy_(bias)
    return layer
