"""Terms by which a field becomes a thing: where density begins, and what it is held to (DreamFusion, Poole et al. 2023;
Magic3D, Lin et al. 2023). Knows no nerfstudio.

    blob(x)      strength (1 - |x| / radius)                           added to the density before its activation
    opacity      mean sqrt(a^2 + 0.01)                                 as little as possible is in the way
    entropy      mean -(a log2 a + (1 - a) log2 (1 - a))               rays are stopped, or not
    orientation  mean_rays sum_samples w max(0, n d)^2                 no surface looks away from the camera

a  how much of a ray is stopped, 0 to 1      w  weight of a sample in its ray      n  normal there      d  direction
"""

from jaxtyping import Float
from torch import Tensor


def blob(x: Float[Tensor, "*n 3"], *, strength: float, radius: float) -> Float[Tensor, "*n"]:
    """Largest in the middle, negative outside of `radius`."""
    return strength * (1 - x.norm(dim=-1) / radius)


def opacity(a: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    """0.1 for empty rays, about 1 for full ones."""
    return (a.square() + 0.01).sqrt().mean()


def entropy(a: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    """0 where all rays are empty or full, 1 where all are half."""
    a = a.clamp(1e-5, 1 - 1e-5)
    return -(a * a.log2() + (1 - a) * (1 - a).log2()).mean()


def orientation(
    weights: Float[Tensor, "r s"], normals: Float[Tensor, "r s 3"], directions: Float[Tensor, "r s 3"]
) -> Float[Tensor, ""]:
    """0 where all normals look against their rays. No gradient goes to `weights`."""
    away = (normals * directions).sum(-1).clamp_min(0)
    return (weights.detach() * away.square()).sum(-1).mean()
