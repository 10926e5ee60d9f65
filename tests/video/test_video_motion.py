"""Motion is what it is on pictures that move by known amounts, and is not trusted where nothing corresponds."""

import cv2
import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from csd3d.engine.transport import Correspondences
from csd3d.media.clip.source import open_clip
from csd3d.media.geometry import WorkingSize
from video.motion import ClipMotion, ParticleMotion, both_ways, grey_levels, grey_px, greys_at, to_latents


def scene(height, width, seed=0):
    """Smooth structure of about four pixels, as bytes."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, height // 4, width // 4, generator=rng)
    return (interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0, 0] * 255).byte()


def panned(frames, dx, dy, height=64, width=96, seed=0):
    """A camera that moves: what is at p in frame 0 is at p + k (dx, dy) in frame k."""
    wide = scene(height + 64, width + 64, seed)
    return torch.stack(
        [wide[32 - k * dy : 32 - k * dy + height, 32 - k * dx : 32 - k * dx + width] for k in range(frames)]
    )


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, -2), (-4, 2)])
def test_flow_of_a_known_pan(dx, dy):
    first, second = panned(2, dx, dy).numpy()
    (there, sure), (back, back_sure) = both_ways(first, second)
    assert float(sure.float().mean()) > 0.85
    expected = torch.tensor([dx, dy]).view(2, 1).float()
    assert float((there[:, sure] - expected).norm(dim=0).median()) < 0.25
    assert float((back[:, back_sure] + expected).norm(dim=0).median()) < 0.25


@pytest.mark.parametrize(("height", "width"), [(8, 8), (1, 8), (2, 11), (12, 96), (15, 240), (2, 40)])
def test_flow_of_pictures_smaller_than_a_patch(height, width):
    first, second = (np.full((height, width), level, np.uint8) for level in (90, 92))
    for flow, sure in both_ways(first, second):
        assert tuple(flow.shape) == (2, height, width)
        assert tuple(sure.shape) == (height, width)
        assert float(flow.abs().max()) < 1


def test_flow_of_a_real_known_pan(real_data):
    with open_clip(real_data / "clips" / "blocks_knownpan_512x384_29.97fps.mp4") as clip:
        first, second = grey_levels(clip.read(20, 22)).numpy()
    (there, sure), _ = both_ways(first, second)
    assert (there[:, sure].median(1).values - torch.tensor([-4.0, 2.0])).abs().max() < 0.1


def test_what_has_no_counterpart_is_not_trusted():
    strangers = torch.stack([scene(64, 96, 1), scene(64, 96, 2)]).numpy()
    (_, sure), _ = both_ways(*strangers)
    assert float(sure.float().mean()) < 0.5
    first, second = panned(2, 20, 0).numpy()
    (_, sure), _ = both_ways(first, second)
    assert float(sure[:, -20:].float().mean()) < 0.3  # leaves the picture


def test_number_of_threads_does_not_matter():
    first, second = panned(2, 3, 1, 192, 256).numpy()
    before = cv2.getNumThreads()
    try:
        found = []
        for threads in (1, 2, 5):
            cv2.setNumThreads(threads)
            found.append(both_ways(first, second)[0][0])
            assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_latent_motion_is_the_mean_of_what_is_trusted():
    flow, sure = torch.zeros(2, 16, 24), torch.zeros(16, 24, dtype=torch.bool)
    flow[0, :8, :8], flow[0, :4, :8] = 6.0, 100.0
    sure[4:8, :8] = True
    move, share = to_latents(flow, sure, 8)
    assert move.shape == (2, 3, 2)
    assert move[0, 0].tolist() == pytest.approx([6 / 8, 0])
    assert share[0, 0] == 0.5
    assert float(share.sum()) == 0.5
    assert bool(move.isfinite().all())


def test_positions_in_a_clip():
    motion = ClipMotion(panned(5, 2, 0), 8)
    assert isinstance(motion, Correspondences)
    position, sure = motion(1, torch.tensor([1, 3, 4]))
    assert position.shape == (3, 8, 12, 2)
    middle = (slice(2, 6), slice(3, 8))
    ahead, behind = position[0][middle] - position[1][middle], position[2][middle] - position[1][middle]
    assert (ahead - torch.tensor([-0.5, 0])).norm(dim=-1).median() < 0.05  # frame 1, seen from frame 3
    assert (behind - torch.tensor([0.25, 0])).norm(dim=-1).median() < 0.1
    assert position[1][0, 0].tolist() == [0.5, 0.5]
    assert bool((sure[1] == 1).all())
    assert float(sure[2].mean()) > 0.9


def test_what_is_not_followed_corresponds_to_nothing(monkeypatch):
    """Other shots, and frames far away, share the edit by the plain kernel alone."""
    motion = ClipMotion(panned(4, 1, 0), 8, [0, 0, 1, 1])
    position, sure = motion(0, torch.arange(4))
    assert bool((sure[0] == 1).all())
    assert bool((sure[2:] == 0).all())
    assert float(sure[1].mean()) > 0.8
    assert not torch.equal(position[1], position[0])
    assert motion.together(2, 3)
    assert not motion.together(1, 2)
    monkeypatch.setattr("video.motion.FOLLOWED", 2)
    far = ClipMotion(panned(4, 1, 0), 8)
    _, sure = far(0, torch.arange(4))
    assert bool((sure[3] == 0).all())
    assert float(sure[2].mean()) > 0.8


def test_particles_show_frames():
    motion = ClipMotion(panned(6, 1, 0), 8)
    of_particles = ParticleMotion(motion, (0, 0, 3, 5))
    assert isinstance(of_particles, Correspondences)
    mine, theirs = of_particles(0, torch.tensor([1, 2, 3])), motion(0, torch.tensor([0, 3, 5]))
    assert all(torch.equal(got, expected) for got, expected in zip(mine, theirs, strict=True))


def test_what_was_found_is_kept_within_bounds(monkeypatch):
    monkeypatch.setattr("video.motion._CACHE_BYTES", 6 * 8 * 12 * 3 * 4)
    motion, calls = ClipMotion(panned(6, 1, 0), 8), []
    monkeypatch.setattr(motion, "pixels", lambda i, j, find=motion.pixels: (calls.append((i, j)), find(i, j))[1])
    first = motion(0, torch.arange(3))
    again = motion(0, torch.arange(3))
    assert len(calls) == 2
    assert torch.equal(first[0], again[0])
    motion(5, torch.arange(6))
    assert len(motion._found) <= 6
    assert torch.equal(motion(0, torch.arange(3))[0], first[0])


def test_grey_frames():
    rgb = torch.zeros(2, 3, 16, 24)
    rgb[1, 1] = 1
    assert grey_levels(rgb)[:, 0, 0].tolist() == [0, round(0.7152 * 255)]
    assert grey_px(WorkingSize(512, 910, 0, 0, 1, 1), 8) == 4
    assert grey_px(WorkingSize(128, 128, 0, 0, 0, 0), 8) == 8
    assert grey_px(WorkingSize(4096, 4096, 0, 0, 0, 0), 8) == 1
    assert greys_at(torch.rand(1, 3, 512, 912), WorkingSize(512, 910, 0, 0, 1, 1), 8).shape == (1, 256, 456)
    assert np.dtype(np.uint8) == grey_levels(rgb).numpy().dtype
