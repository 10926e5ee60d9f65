"""Cuts are found where they are, and nowhere else: not in pans, shakes, fades or single flashes of motion."""

import pytest
import torch
from torch.nn.functional import interpolate

from csd3d.media.clip.source import open_clip
from video.motion import grey_levels
from video.shots import changes, shots_of


def cuts(shots):
    return [k for k in range(1, len(shots)) if shots[k] != shots[k - 1]]


def noise(seed, frames, drift=0):
    rng = torch.Generator().manual_seed(seed)
    wide = interpolate(torch.rand(1, 1, 8, 24, generator=rng), (64, 240), mode="bicubic").clamp(0, 1)[0, 0] * 255
    return torch.stack([wide[:, k * drift : k * drift + 64] for k in range(frames)]).byte()


@pytest.mark.parametrize("drift", [0, 1])
@pytest.mark.parametrize("chunk", [1, 4, 50])
def test_cuts_between_shots(drift, chunk):
    clip = torch.cat([noise(1, 10, drift), noise(2, 1), noise(3, 12, drift)])
    assert cuts(shots_of(changes(clip.split(chunk)))) == [10, 11]


@pytest.mark.parametrize("level", [0, 100, 220])
@pytest.mark.parametrize("contrast", [0.3, 0.1])
def test_cuts_in_the_dark_and_in_fog(contrast, level):
    clip = torch.cat([noise(1, 10, 1), noise(3, 12, 1)])
    assert cuts(shots_of(changes([(contrast * clip.float() + level).byte()]))) == [10]


@pytest.mark.parametrize("contrast", [1.0, 0.3, 0.1, 0.02])
def test_no_cuts_in_pans_shakes_and_fades(contrast):
    shake = torch.stack([noise(1, 1)[0].roll(int(s), 1) for s in (0, 9, -7, 8, -9, 6, 9, -8)])
    fade = noise(1, 1).float() * torch.linspace(1, 0, 12).view(-1, 1, 1)
    still = noise(1, 1).float() + 8 * torch.randn(20, 64, 64, generator=torch.Generator().manual_seed(0))
    for clip in (noise(1, 20, 8), noise(1, 20, 1), shake, fade, still.clamp(0, 255), noise(1, 1), noise(1, 2)):
        assert cuts(shots_of(changes([(contrast * clip.float()).byte()]))) == []


def test_no_cut_where_somebody_walks_into_the_dark():
    clip = 0.1 * noise(1, 20, 0).float()
    for k in range(10, 20):
        clip[k, :, : 2 * (k - 9)] = 40
    assert cuts(shots_of(changes([clip.byte()]))) == []


REAL = {
    "clips_odd/made_scene_cut_then_black.mp4": [19, 43],
    "clips_odd/nasa_13013.mp4": [240],
    "clips/cups_512x288_29.97fps.mp4": [],
    "clips/blocks_knownpan_512x384_29.97fps.mp4": [],
    "clips_odd/made_rotated_portrait.mp4": [],
}


@pytest.mark.parametrize("name", sorted(REAL))
def test_real_cuts(real_data, name):
    with open_clip(real_data / name) as clip:
        greys = (grey_levels(interpolate(rgb, (96, 128), mode="area")) for _, rgb in clip.chunks(16))
        assert cuts(shots_of(changes(greys))) == REAL[name]
