"""Clips made on the spot, and the real ones where they are at hand."""

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data():
    """Folder of real clips; the test is skipped where it is absent."""
    if not REAL.is_dir():
        pytest.skip(f"no real clips: {REAL} is absent")
    return REAL


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


@pytest.fixture
def make_clip(tmp_path):
    """`make_clip(name, frames, height, width, **options of encode)` -> (path, rgb)."""

    def make(name="clip.mp4", frames=7, height=48, width=64, *, seed=0, cut=None, **options):
        rgb = moving_picture(frames, height, width, seed)
        if cut is not None:
            rgb[cut:] = 1 - rgb[cut:]
            rgb = torch.cat([0.3 * rgb[:cut], 0.3 * rgb[cut:] + 0.7])
        return encode(tmp_path / name, rgb, **options), rgb

    return make


@pytest.fixture(scope="session")
def forked():
    """`forked(clip, run_dir, kind, **fate)` -> [exit code, deeds] of a run in a process that may die: `killable.py`."""
    command = [sys.executable, str(Path(__file__).with_name("killable.py"))]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=root
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def run(clip, run_dir, kind, **fate):
            request = {"clip": str(clip), "run_dir": str(run_dir), "kind": kind, **fate}
            print(json.dumps(request), file=process.stdin, flush=True)
            assert process.stdout is not None
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()
