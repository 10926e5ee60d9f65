"""Averages along the motion: against loops, within one shot and one sentence; each particle is decoded once."""

import pytest
import torch
from test_video_motion import panned, scene

from csd3d.metrics.warp import backward_warp
from video.motion import ClipMotion
from video.plan import Span, plan_frames
from video.steady import REACH, SteadyFrames


def one_sentence(frames):
    return plan_frames([Span("make it red")], [float(i) for i in range(frames)])


def trembling(frames, height=64, width=96):
    return torch.randn(frames, 6, height, width, generator=torch.Generator().manual_seed(3))


def in_chunks(y, motion, chunk, plan=None):
    plan = plan or one_sentence(len(y))
    frames, steady = len(plan.blend_weights), SteadyFrames(lambda particles: y[particles], plan, motion)
    return torch.cat([steady(range(a, min(a + chunk, frames))) for a in range(0, frames, chunk)])


def loops(y, motion):
    out = torch.zeros_like(y)
    for i in range(len(y)):
        total, count = y[i].clone(), torch.ones(1, *y.shape[2:])
        for j in range(len(y)):
            if j == i or abs(i - j) > REACH or not motion.together(i, j):
                continue
            (flow, sure), _ = motion.pixels(i, j)
            warped, inside = backward_warp(y[j : j + 1], flow[None])
            total, count = total + warped[0] * (sure & inside[0]), count + (sure & inside[0])
        out[i] = total / count
    return out


@pytest.mark.parametrize("chunk", [1, 3, 4, 16])
@pytest.mark.parametrize("shots", [None, [0] * 4 + [1] * 8])
def test_against_loops_whatever_the_chunks(chunk, shots):
    y, motion = trembling(12), ClipMotion(panned(12, 1, 1), 8, shots)
    torch.testing.assert_close(in_chunks(y, motion, chunk), loops(y, motion), atol=1e-5, rtol=0)


def test_every_frame_is_decoded_once_and_few_are_held():
    y, seen = trembling(30), []
    motion = ClipMotion(panned(30, 0, 0), 8)
    steady = SteadyFrames(lambda p: (seen.extend(range(30)[p]), y[p])[1], one_sentence(30), motion)
    for k in range(0, 30, 3):
        steady(range(k, k + 3))
        assert len(steady._near) <= 3 + 2 * REACH
        assert len(steady._flows) <= (3 + 2 * REACH) ** 2
    assert seen == list(range(30))


def test_a_still_clip_is_averaged_plainly():
    y = trembling(5)
    got = in_chunks(y, ClipMotion(scene(64, 96).expand(5, -1, -1).clone(), 8), 5)
    torch.testing.assert_close(got, y.mean(0, keepdim=True).expand_as(y), atol=1e-4, rtol=0)


def test_what_moves_with_the_clip_stays_and_what_trembles_goes():
    greys = panned(9, 2, 0)
    steady = greys[:, None].float().expand(-1, 6, -1, -1) / 255
    noise = 0.1 * trembling(9)
    middle = (slice(3, 6), slice(None), slice(8, -8), slice(24, -24))
    got = in_chunks(steady + noise, ClipMotion(greys, 8), 9)
    assert float((got - steady)[middle].std()) < 0.5 * float(noise[middle].std())


def test_coarser_motion_is_scaled_to_the_frames():
    greys = panned(3, 2, 0)
    y = trembling(3, 128, 192)
    got = in_chunks(y, ClipMotion(greys, 8), 3)
    assert got.shape == y.shape
    assert float(got.std()) < 0.9 * float(y.std())


def test_a_single_frame_stays():
    y = trembling(1)
    assert torch.equal(in_chunks(y, ClipMotion(panned(1, 0, 0), 8), 4), y)


RED, DARK = "make it red", "make it dark"
PLANS = {
    "a fade": ([Span(RED, 0.0, 6.0), Span(DARK, 6.0, 12.0)], 4.0),
    "a fade as long as the clip": ([Span(RED, 0.0, 6.0), Span(DARK, 6.0, 12.0)], 12.0),
    "no fade": ([Span(RED, 0.0, 6.0), Span(DARK, 6.0, 12.0)], 0.0),
    "a sentence that ends": ([Span(RED, 0.0, 6.0)], 4.0),
    "a sentence that comes back": ([Span(RED, 0.0, 3.0), Span(DARK, 3.0, 6.0), Span(RED, 6.0)], 2.0),
}


@pytest.mark.parametrize("chunk", [1, 5, 12])
@pytest.mark.parametrize("name", PLANS)
def test_sentences_are_averaged_apart_and_mixed_after_that(name, chunk):
    """Whatever can be trusted of the flow: if each sentence makes one colour, a frame has one, by its weights."""
    spans, fade = PLANS[name]
    plan = plan_frames(spans, [float(i) for i in range(12)], fade_s=fade)
    colour = torch.tensor([0.9, 0.2, 0.5])  # of the sentences, and of no sentence
    y = colour[list(plan.prompt_index)].view(-1, 1, 1, 1).expand(-1, 6, 64, 96)
    got = in_chunks(y, ClipMotion(panned(12, 2, 1), 8), chunk, plan)
    for i, parts in enumerate(plan.blend_weights):
        expected = sum(w * float(y[p, 0, 0, 0]) for p, w in parts)
        torch.testing.assert_close(got[i], torch.full_like(got[i], expected), atol=1e-6, rtol=0)


def test_within_a_fade_trembling_is_taken_out_too():
    plan = plan_frames([Span(RED, 0.0, 8.0), Span(DARK, 8.0, 16.0)], [float(i) for i in range(16)], fade_s=8.0)
    y = trembling(len(plan.frames))
    motion = ClipMotion(scene(64, 96).expand(16, -1, -1).clone(), 8)
    got, plain = (in_chunks(y, m, 16, plan) for m in (motion, None))
    assert float(got[6:10].std()) < 0.6 * float(plain[6:10].std())
