"""Clips made on the spot, and where the real ones are."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"


def moving_picture(frames, height, width, seed=0):
    """Smooth colours that drift, n 3 H W in [0, 1]; every frame differs from every other."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 6, generator=rng)
    wide = torch.nn.functional.interpolate(coarse, (height + 8, width + 2 * frames), mode="bicubic").clamp(0, 1)
    return torch.cat([wide[:, :, 4 : 4 + height, 2 * i : 2 * i + width] for i in range(frames)])


def encode(path, rgb, *, rate=Fraction(25), codec="libx264", pix_fmt="yuv444p", aspect=None, rotation=None, sound=0.0):
    """Write rgb with PyAV's own defaults, independently of the code under test."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = rgb.shape[-2:]
        stream.pix_fmt = pix_fmt
        if codec == "libx264":
            stream.options = {"crf": "4", "preset": "fast"}
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        tone = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for i, picture in enumerate(rgb):
            levels = (picture.permute(1, 2, 0) * 255).round().byte().contiguous().numpy()
            frame = av.VideoFrame.from_ndarray(levels, format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone is not None:
            wave = np.sin(np.arange(int(16000 * sound)) * 0.17).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 0
            container.mux(tone.encode(frame))
            container.mux(tone.encode(None))
    return path
