"""Classifier-free guidance: several predictions of one model, with more or less of its condition, into one.

e_null, e_00  prediction without any condition       e_I0  given the source image, no text
e_text        given the text                         e_IT  given the source image and the text
"""

from jaxtyping import Float
from torch import Tensor


def text_guidance(
    e_null: Float[Tensor, "n c h w"], e_text: Float[Tensor, "n c h w"], w: float
) -> Float[Tensor, "n c h w"]:
    """e_null + w (e_text - e_null), for a text-to-image prior. `w` = 1 is the plain prediction, 7.5 is usual."""
    return e_null + w * (e_text - e_null)


def instruct_guidance(
    e_00: Float[Tensor, "n c h w"],
    e_I0: Float[Tensor, "n c h w"],
    e_IT: Float[Tensor, "n c h w"],
    *,
    s_text: float,
    s_image: float,
) -> Float[Tensor, "n c h w"]:
    """e_00 + s_image (e_I0 - e_00) + s_text (e_IT - e_I0), for an instruction editor (InstructPix2Pix, eq. 3).

    The source prediction of CSD-Edit carries no text: it is this formula with e_IT = e_I0, whatever `s_text`,
    so it costs two evaluations of the model and not three.
    """
    return e_00 + s_image * (e_I0 - e_00) + s_text * (e_IT - e_I0)
