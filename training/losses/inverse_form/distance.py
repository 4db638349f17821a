"""How far a transformation is from the identity. Both are 0 there, and differentiable there too."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from training.losses.inverse_form.transform import matrices

_REGULAR = 1e-7


def euclidean(parameters: Tensor) -> Tensor:
    """(N, 6) to (N,): the norm of the normalised parameters (reference D.1, "Euclidean")."""
    return torch.linalg.vector_norm(parameters, dim=1)


def geodesic(parameters: Tensor, residual_weight: float = 0.1) -> Tensor:
    """(N, 6) to (N,): the angle of the nearest rotation, and what the rotation leaves (reference D.1, "Geodesic").

    Homographies have no closed-form logarithm, so that the matrix θ is projected on SO(3) by its singular values,
    R = U diag(1, 1, det(UVᵀ)) Vᵀ, as in AETv2; then arccos((tr R - 1) / 2) + λ tr(DᵀD) with D = θ - R. The angle is
    taken by atan2, which equals the arccos but needs no clamp at the identity. The authors advise the Euclidean one.
    """
    return residual(matrices(parameters), residual_weight)


def residual(theta: Tensor, residual_weight: float) -> Tensor:
    """`geodesic` of matrices (N, 3, 3)."""
    rotation = nearest_rotation(theta)
    angle = torch.atan2(torch.linalg.vector_norm(_axis(rotation), dim=1), _trace(rotation) - 1.0)
    return angle + residual_weight * (theta - rotation).square().sum(dim=(1, 2))


def nearest_rotation(theta: Tensor) -> Tensor:
    """The rotations nearest to matrices (N, 3, 3), with a gradient where singular values coincide, as at the identity.

    The derivative of a singular value decomposition is not defined there; that of the rotation is: with P = Rᵀθ and
    dR = R Ω, Ω P + P Ω = Rᵀ dθ - dθᵀ R, whose solution is ω = (tr(P) I - P)⁻¹ v, v and ω the vectors of the skew
    matrices.
    """
    found = _NearestRotation.apply(theta)
    if not isinstance(found, Tensor):
        raise TypeError(f"expected a tensor, found {type(found).__name__}")
    return found


class _NearestRotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, theta: Tensor) -> Tensor:  # noqa: ANN401  torch's context has no type
        u, _, vt = torch.linalg.svd(theta)
        sign = torch.ones_like(theta[:, 0])
        sign[:, 2] = torch.linalg.det(u @ vt)
        rotation = u @ (sign[:, :, None] * vt)
        ctx.save_for_backward(theta, rotation)
        return rotation

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Tensor:  # noqa: ANN401
        theta, rotation = ctx.saved_tensors
        stretch = rotation.mT @ theta
        identity = torch.eye(3, dtype=theta.dtype, device=theta.device)
        # Singular only where a reflection's two smallest singular values coincide: no transformation of a boundary.
        system = _trace(stretch)[:, None, None] * identity - stretch + _REGULAR * identity
        turn = torch.linalg.solve(system, _axis(rotation.mT @ upstream))
        return rotation @ _skew(turn)


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=1, dim2=2).sum(dim=1)


def _axis(matrix: Tensor) -> Tensor:
    """Twice the vector of the skew part, (N, 3): of a rotation, 2 sin(angle) times its axis."""
    return torch.stack(
        (
            matrix[:, 2, 1] - matrix[:, 1, 2],
            matrix[:, 0, 2] - matrix[:, 2, 0],
            matrix[:, 1, 0] - matrix[:, 0, 1],
        ),
        dim=1,
    )


def _skew(vector: Tensor) -> Tensor:
    x, y, z = vector.unbind(dim=1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=1).view(-1, 3, 3)


DISTANCES: dict[str, Callable[[Tensor], Tensor]] = {"euclidean": euclidean, "geodesic": geodesic}
