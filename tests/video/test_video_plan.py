"""Sentences hold for their time and fade into each other; what nobody speaks of stays."""

import math

import pytest

from video.plan import UNEDITED, Span, plan_frames, plan_keys, spans_of


@pytest.mark.parametrize(
    ("prompt", "spans"),
    [
        ("make it snowy", [Span("make it snowy")]),
        ("turn the 3-5s: sign red", [Span("turn the 3-5s: sign red")]),
        ("0-3s: make it day, 3-6s: make it night", [Span("make it day", 0.0, 3.0), Span("make it night", 3.0, 6.0)]),
        ("0:00-0:03: a; 00:03.5 – 1:00: b", [Span("a", 0.0, 3.0), Span("b", 3.5, 60.0)]),
        ("0-3s: a\n3-6s: b\n", [Span("a", 0.0, 3.0), Span("b", 3.0, 6.0)]),
        ("\n  0-3s: a,\r\n\n  3-6s: b;\n", [Span("a", 0.0, 3.0), Span("b", 3.0, 6.0)]),
        ("10s - 20s: a", [Span("a", 10.0, 20.0)]),
        ("10s-: a", [Span("a", 10.0, math.inf)]),
        ("1980s-1990s: a, 1990s-2000s: b", [Span("a", 1980.0, 1990.0), Span("b", 1990.0, 2000.0)]),
        ("33:00-33:10: a", [Span("a", 1980.0, 1990.0)]),
        ("0-3: a, 3s-: b", [Span("a", 0.0, 3.0), Span("b", 3.0, math.inf)]),
        ("0 to 1 min: a, 90 seconds - end: b", [Span("a", 0.0, 60.0), Span("b", 90.0, math.inf)]),
        ("2001: a space odyssey", [Span("2001: a space odyssey")]),
        ("16:9: a wide photo, 1920: a street", [Span("16:9: a wide photo, 1920: a street")]),
        ("the end: a sign of 3-5: red", [Span("the end: a sign of 3-5: red")]),
        ("3-4 balls, 16:9, a 1920s photo", [Span("3-4 balls, 16:9, a 1920s photo")]),
        ("0.5s - 1.25s: a, with a comma, 2-s: b", [Span("a, with a comma", 0.5, 1.25), Span("b", 2.0, math.inf)]),
    ],
)
def test_prompts_are_read(prompt, spans):
    assert list(spans_of(prompt)) == spans


@pytest.mark.parametrize(
    "prompt",
    [
        "1980s: neon city",
        "the 90s: neon colours",
        "In the 80s: synthwave",
        "the 90's: neon, with rain",
        "'80s: neon",
        "1980s - 1990s: neon",
        "1980s-90s: neon",
        "the 1980s to the 1990s: neon",
        "the 80s and 90s: neon",
        "a street, 1920s: black and white",
        "the mid-80s: synthwave",
        "in 1980: a street",
        "note: make it 3d",
        "at 5 o'clock: golden light",
        "phase 2: winter",
        "step 1 of 2: make it winter",
        "the end: make it night",
        "style: 1980s, from 90 to 100 colours",
    ],
)
def test_sentences_with_a_colon_are_no_times(prompt):
    assert spans_of(prompt) == (Span(prompt),)


@pytest.mark.parametrize(
    ("prompt", "match"),
    [
        ("0-3s:, 3-6s: b", "a sentence after '0-3s:'"),
        ("3-1s: a", "times that follow each other"),
        ("0-3s: a, 2-6s: b", "times that follow each other"),
        ("-1-3s: a", "times such as `0-3s:` before each sentence or none, got -1-3s"),
        ("at 2s: a", "got at 2s:"),
        ("at 10s: a", "got at 10s:"),
        ("2s: a", "got 2s:"),
        ("10s: make it night", "got 10s:$"),
        ("80s: neon", r"got 80s: \(a decade is `the 80s:`\)"),
        ("1980s-1990s: a, 1990s-2000s: b, 3s: c", "got 3s:"),
        ("20s - 10s: a", "times that follow each other"),
        ("10 s: a", "got 10 s:"),
        ("10s: a, 20s: b", "got 10s:"),
        ("0-3s: a, 30s: b", "got 30s:"),
        ("from 10s to 90s a", "got from 10s to 90s"),
        ("the last 10s: a", "got the last 10s:"),
        ("0-1 s a", "got 0-1 s"),
        ("0:00 - 0:03 a", "got 0:00 - 0:03"),
        ("a, 3-5s: b", "got 3-5s"),
        ("0-1s: a, 1-2 s b", "got 1-2 s"),
        ("nan-1s: a", "got nan-1s:"),
        ("0-inf: a", "got 0-inf:"),
        ("1e1-2e1s: a", "got 1e1-2e1s:"),
        ("0-1s: a, nan-2s: b", "got nan-2s:"),
        ("start-3s: a", "got start-3s:"),
        ("frames 0-9: a", "got frames 0-9:"),
        ("0-500ms: a", "got 0-500ms:"),
        ("0h-1h: a", "got 0h-1h:"),
        ("0-50%: a", "got 0-50%:"),
        ("0..3s: a", "got 0..3s:"),
        ("0~3: a", "got 0~3:"),
        ("0-3s\uff1a a", "got 0-3s"),
        ("0-3s: a. 3-6s: b", "got 3-6s"),
        ("0-3s: a! 3-6s: b", "got 3-6s"),
        ("0-3s: a | 3-6s: b", "got 3-6s"),
        ("a\n3s: b", "got 3s:"),
        ("[0-3s] a", "got 0-3s"),
        ("(0-3) a", r"got 0-3\)"),
        ("the first 2 seconds: a", "got the first 2 seconds:"),
        ("00:00:00,000 --> 00:00:03,000: a", "got 00:00:00,000 --> 00:00:03,000:"),
    ],
)
def test_refusals(prompt, match):
    with pytest.raises(ValueError, match=match):
        spans_of(prompt)


def test_one_sentence_is_one_particle_a_frame():
    plan = plan_frames(spans_of("a"), [0.0, 0.1, 0.2])
    assert (plan.sentences, plan.frames, plan.prompt_index) == (("a",), (0, 1, 2), (0, 0, 0))
    assert plan.blend_weights == (((0, 1.0),), ((1, 1.0),), ((2, 1.0),))
    assert plan.groups == ((0, 1, 2),)


def test_a_border_fades_evenly_and_everything_adds_up():
    times = [k / 10 for k in range(20)]
    plan = plan_frames(spans_of("0-1s: a, 1-2s: b"), times, fade_s=0.4)
    for i, parts in enumerate(plan.blend_weights):
        assert sum(weight for _, weight in parts) == pytest.approx(1)
        assert all(plan.frames[particle] == i for particle, _ in parts)
        of_b = sum(weight for particle, weight in parts if plan.prompt_index[particle] == 1)
        assert of_b == pytest.approx(min(max((times[i] - 0.8) / 0.4, 0), 1))
    assert sorted(plan.frames) == list(plan.frames)
    assert len(plan.frames) == 23  # three frames are of both
    assert sorted(sum(plan.groups, ())) == list(range(23))


def test_without_a_fade_it_changes_at_once_and_gaps_stay_still():
    plan = plan_frames(spans_of("0-1s: a, 2-3s: b, 3-4s: a"), [0.0, 0.9, 1.0, 1.5, 2.0, 2.9, 3.0, 4.0])
    assert plan.prompt_index == (0, 0, UNEDITED, UNEDITED, 1, 1, 0, UNEDITED)
    assert plan.groups == ((0, 1, 6), (4, 5))
    assert all(parts == ((i, 1.0),) for i, parts in enumerate(plan.blend_weights))


def test_a_fade_is_no_longer_than_what_it_joins():
    plan = plan_frames(spans_of("0-1s: a, 1-1.2s: b, 1.2-9s: c"), [k / 10 for k in range(30)], fade_s=5.0)
    assert all(sum(w for _, w in parts) == pytest.approx(1) for parts in plan.blend_weights)
    assert all(len(parts) <= 2 for parts in plan.blend_weights)


def test_times_beyond_the_clip_are_refused():
    with pytest.raises(ValueError, match=r"within the clip, which ends at 1.00 s, got .* s for 'b'"):
        plan_frames(spans_of("0-1s: a, 5-6s: b"), [0.0, 0.5, 1.0])


def test_key_frames_alone():
    plan = plan_keys("a", [3, 9])
    assert (plan.frames, plan.prompt_index, plan.groups) == ((3, 9), (0, 0), ((0, 1),))


@pytest.mark.parametrize(
    "prompt", ["1" + " " * 60_000, "1 - " + " " * 60_000 + "x", "0-1s:" + " " * 60_000 + "x", "1" + "\n" * 60_000]
)
def test_spaces_without_end_are_read_at_once(prompt):
    """Time is not measured: with a pattern that tries every split of the spaces this test never ends."""
    assert spans_of(prompt)[0].sentence
