"""Classifier-free guidance (Ho and Salimans, 2022): predictions with and without a condition, extrapolated to one.

e_null, e_00  prediction without any condition       e_I0  given the source image, no text
e_text        given the text                         e_IT  given the source image and the text
"""

from csd3d.engine.types import Latents


def text_guidance(e_null: Latents, e_text: Latents, w: float) -> Latents:
    """e_null + w (e_text - e_null), for a text-to-image prior. `w` = 1 is the plain prediction, 7.5 is usual."""
    return e_null + w * (e_text - e_null)


def instruct_guidance(e_00: Latents, e_I0: Latents, e_IT: Latents, *, s_text: float, s_image: float) -> Latents:
    """e_00 + s_image (e_I0 - e_00) + s_text (e_IT - e_I0), for an instruction editor (InstructPix2Pix, eq. 3).

    The source prediction of CSD-Edit carries no text: it is this formula with e_IT = e_I0, whatever `s_text`,
    so it costs two evaluations of the model and not three.
    """
    return e_00 + s_image * (e_I0 - e_00) + s_text * (e_IT - e_I0)
