"""Rows through the UNet of an instruction editor, for one picture in one step: what a method costs on any machine."""

from csd3d.engine.guidance import evaluated, instruct_coefficients, instruct_source_coefficients


def sampling_rows(s_text: float, s_image: float) -> int:
    """Of the ordinary sampler: 1 to 3, a branch with a zero coefficient is not evaluated."""
    return len(evaluated(instruct_coefficients(s_text, s_image)))


def csd_rows(s_text: float, s_image: float) -> int:
    """Of CSD-Edit, target and source: 2 to 5."""
    return sampling_rows(s_text, s_image) + len(evaluated(instruct_source_coefficients(s_image)))
