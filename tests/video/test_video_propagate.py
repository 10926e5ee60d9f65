"""Key frames lie evenly in their shots; what is carried from them is where the motion says, and exact at the keys."""

import pytest
import torch
from test_video_motion import panned

from video.motion import ClipMotion
from video.propagate import LONGEST, CarriedFrames, key_frames, longer


def test_key_frames_lie_evenly_and_in_every_shot():
    assert key_frames([0] * 12, 3) == [2, 6, 10]
    assert key_frames([0] * 5, 1) == [2]
    assert key_frames([0] * 3, 9) == [0, 1, 2]
    assert key_frames([0] * 8 + [1] * 2 + [2] * 8, 2) == [4, 9, 14]
    with pytest.raises(ValueError, match=f"keyframes: expected at least 5 for {5 * LONGEST} frames, got 2"):
        key_frames([0] * (5 * LONGEST), 2)


def carried(greys, keys, shots=None, chunk=4, seen=None):
    motion, rgb = ClipMotion(greys, 8, shots), greys[:, None].float() / 255

    def decode(key):
        if seen is not None:
            seen.append(key)
        return rgb[key]

    frames = CarriedFrames(decode, motion, keys)
    parts = [frames(range(a, min(a + chunk, len(rgb)))) for a in range(0, len(rgb), chunk)]
    return torch.cat(parts), rgb


def test_a_pan_is_followed_and_key_frames_stay_as_they_are():
    got, rgb = carried(panned(12, 2, 0), [3, 9])
    assert torch.equal(got[[3, 9]], rgb[[3, 9]])
    inner = (..., slice(8, -8), slice(24, -24))
    assert (got - rgb)[inner].abs().mean() < 0.01
    assert (rgb[[3]] - rgb[[6]])[inner].abs().mean() > 0.03  # which not moving at all would leave


def test_chunks_change_nothing_and_each_key_is_decoded_once():
    seen = []
    whole, _ = carried(panned(11, 1, 1), [2, 8], chunk=11)
    parts, _ = carried(panned(11, 1, 1), [2, 8], chunk=3, seen=seen)
    torch.testing.assert_close(whole, parts, atol=1e-6, rtol=0)
    assert seen == [2, 8]


def test_nothing_is_carried_over_a_cut():
    greys = torch.cat([panned(4, 1, 0), 255 - panned(4, 1, 0)])
    got, rgb = carried(greys, [1, 6], [0] * 4 + [1] * 4)
    for part in (slice(0, 4), slice(4, 8)):
        assert (got[part] - rgb[part])[..., 8:-8, 16:-16].abs().mean() < 0.02


def test_flows_one_after_the_other_add_up_and_doubt_stays():
    flow = torch.stack([torch.full((6, 9), 2.0), torch.full((6, 9), -1.0)])
    sure = torch.ones(6, 9, dtype=torch.bool)
    doubted = sure.clone()
    doubted[3, 5] = False
    both, trusted = longer((flow, sure), (0.5 * flow, doubted))
    torch.testing.assert_close(both, 1.5 * flow)
    expected = torch.zeros(6, 9, dtype=torch.bool)
    expected[1:, :7] = True  # what stays inside
    expected[4, 3] = False  # and does not lead to where it is doubted
    assert torch.equal(trusted, expected)
