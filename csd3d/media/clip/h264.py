"""H.264 whose bytes depend on the pictures alone, not on the machine or on what else runs there."""

_NO_AVX512 = "MMX2,SSE2Fast,SSSE3,SSE4.2,LZCNT,AVX,FMA3,BMI2,AVX2"
"""x264's AVX-512 routines were seen to give different bytes from run to run; these agree with its plain C."""


def h264_options(crf: int) -> dict[str, str]:
    """Options of a libx264 stream: one thread, since the number of threads decides how it cuts its work."""
    return {"crf": str(crf), "preset": "medium", "threads": "1", "x264-params": f"asm={_NO_AVX512}"}
