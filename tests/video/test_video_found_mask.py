"""Masks that the prior finds for a clip: where its sentences edit, the same again when given back or resumed."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from video_toys import toy_edit

from csd3d.cli import video_batch
from csd3d.engine.config import CsdConfig
from csd3d.media.clip.source import open_clip
from csd3d.media.masks import ClipMask
from csd3d.runs.interrupt import RunInterrupted
from csd3d.runs.manifest import Manifest
from csd3d.runs.progress import RunProgress
from tests.clips import encode
from tests.toys import ToyPrior
from video import VideoConfig
from video.plan import plan_frames, spans_of
from video.preview import preview_video

CONFIG = VideoConfig(
    csd=CsdConfig(steps=12, lr=0.2, t_min=400, t_max=600), frames_per_step=4, chunk_frames=3, codec="ffv1", mask="auto"
)


@pytest.fixture
def halves(tmp_path):
    """A clip of 9 frames, 48 x 96 px: bright grain, and a dark third that moves to the right by 2 px a frame."""
    grain = 0.1 * torch.rand(9, 3, 48, 96, generator=torch.Generator().manual_seed(0))
    frames = 0.75 + grain
    for i in range(9):
        frames[i, :, :, 2 * i : 32 + 2 * i] -= 0.6
    return encode(tmp_path / "halves.mp4", frames)


def frames_of(path):
    with open_clip(Path(path)) as clip:
        return clip.read(0, clip.info.frames, exact=True)


def masks_of(path, clip, frames=9):
    with open_clip(Path(clip)) as opened, ClipMask(path, opened.info) as mask:
        return mask(range(frames))[:, 0]


@pytest.mark.parametrize("options", [{}, {"keyframes": 3}, {"steady": False}])
def test_what_the_sentence_does_not_edit_stays_bit_for_bit(halves, tmp_path, options):
    config = replace(CONFIG, **options)
    result = toy_edit(halves, tmp_path / "run", "make the dark red", config=config)
    mask, before, after = masks_of(tmp_path / "run" / "mask", halves), frames_of(halves), frames_of(result.path)
    for i in range(9):
        dark = slice(2 * i, 32 + 2 * i)
        assert mask[i, 8:40, dark].mean() > 0.9
        assert mask[i, :, 32 + 2 * i + 36 :].max() == 0  # a latent is 12 px wide: half dark, around it, fading
        still = mask[i] == 0
        assert torch.equal(after[i][:, still], before[i][:, still])
    assert (after - before)[..., :32].abs().mean() > 0.1
    assert any("of the picture may change" in note for note in result.notes)
    share = Manifest.read(tmp_path / "run" / "manifest.json").numbers["part of the picture that the mask lets change"]
    assert float(share) == pytest.approx(float(mask.mean()), abs=1e-3)


@pytest.mark.parametrize("feather", [0.0, 6.0])
def test_the_mask_given_back_gives_the_same_result(halves, tmp_path, feather):
    config = replace(CONFIG, feather=feather)
    found = toy_edit(halves, tmp_path / "run", "make the dark red", config=config)
    painted = replace(config, mask=str(tmp_path / "run" / "mask"))
    given = toy_edit(halves, tmp_path / "again", "make the dark red", config=painted)
    assert torch.equal(frames_of(found.path), frames_of(given.path))
    assert not (tmp_path / "again" / "mask").exists()


def test_a_resumed_run_finds_nothing_anew(halves, tmp_path):
    run_dir = tmp_path / "run"
    whole = toy_edit(halves, tmp_path / "whole", "make the dark red", config=CONFIG)
    short = replace(CONFIG, csd=replace(CONFIG.engine, steps=5))
    toy_edit(halves, run_dir, "make the dark red", config=short)
    files = {p.name: p.read_bytes() for p in (run_dir / "mask").iterdir()}
    differences = (run_dir / "differences.npy").stat().st_mtime_ns

    again = toy_edit(halves, run_dir, "make the dark red", config=CONFIG, resume=True)
    assert (run_dir / "differences.npy").stat().st_mtime_ns == differences
    assert {p.name: p.read_bytes() for p in (run_dir / "mask").iterdir()} == files
    assert torch.equal(frames_of(again.path), frames_of(whole.path))


def test_a_stop_while_the_mask_is_sought_loses_nothing(halves, tmp_path):
    seen = []

    class Stopping(ToyPrior):
        def score(self, prompts, guidance):
            score = super().score(prompts, guidance)
            if guidance.text == 1.0 and guidance.image == 1.0:
                seen.append(1)
            return score

    prior = Stopping(lambda index: os.kill(os.getpid(), signal.SIGINT) if len(seen) == 2 and not seen.append(0) else 0)
    with pytest.raises(RunInterrupted):
        toy_edit(halves, tmp_path / "run", "make the dark red", config=CONFIG, prior=prior)
    assert not (tmp_path / "run" / "mask").exists()
    again = toy_edit(halves, tmp_path / "run", "make the dark red", config=CONFIG, resume=True)
    whole = toy_edit(halves, tmp_path / "whole", "make the dark red", config=CONFIG)
    assert torch.equal(frames_of(again.path), frames_of(whole.path))


@pytest.mark.parametrize(("prompt", "reason"), [("make it dark", "edits the whole"), ("make it stay", "no place")])
def test_an_edit_of_everything_gets_no_mask(halves, tmp_path, prompt, reason):
    result = toy_edit(halves, tmp_path / "run", prompt, config=CONFIG)
    plain = toy_edit(halves, tmp_path / "plain", prompt, config=replace(CONFIG, mask=None))
    assert not (tmp_path / "run" / "mask").exists()
    assert torch.equal(frames_of(result.path), frames_of(plain.path))
    (note,) = (note for note in result.notes if note.startswith("mask: none"))
    assert reason in note
    assert "\n" not in note
    assert note in (tmp_path / "run" / "report.html").read_text().replace("&#x27;", "'")


def test_every_sentence_has_a_mask_for_its_time(halves, tmp_path):
    prompt = "0-0.12s: make it dark, 0.12-0.24s: make the dark red"
    result = toy_edit(halves, tmp_path / "run", prompt, config=replace(CONFIG, fade=0.0))
    mask = masks_of(tmp_path / "run" / "mask", halves)
    assert mask[:3].min() == 1
    assert mask[4:6, 8:40, 12:30].min() > 0.9
    assert mask[4:6, :, 70:].max() == 0
    assert mask[6:].max() == 0  # nothing is said of them
    before, after = frames_of(halves), frames_of(result.path)
    assert torch.equal(after[6:], before[6:])


def test_a_mask_fades_with_its_sentence(halves, tmp_path):
    """What the mask of one sentence keeps out does not appear when another begins."""
    prompt = "0-0.2s: make the dark red, 0.2-0.36s: make it dark"
    toy_edit(halves, tmp_path / "run", prompt, config=replace(CONFIG, fade=0.16))
    mask = masks_of(tmp_path / "run" / "mask", halves)
    outside = mask[:, 8:40, 80:].mean((1, 2))
    spans = spans_of(prompt)
    plan = plan_frames(spans, [i / 25 for i in range(9)], fade_s=0.16)
    of_the_second = [sum(w for p, w in own if plan.prompt_index[p] == 1) for own in plan.blend_weights]
    torch.testing.assert_close(outside, torch.tensor(of_the_second), atol=0.01, rtol=0)


def test_a_prior_of_captions_needs_one_of_the_source(halves, tmp_path):
    class Captions(ToyPrior):
        kind = "text-to-image"

    config = replace(CONFIG, csd=replace(CONFIG.engine, residual="noise"))
    with pytest.raises(ValueError, match="source-prompt: expected what the source shows") as caught:
        toy_edit(halves, tmp_path / "run", "make the dark red", config=config, prior=Captions())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_preview_shows_the_edit_within_its_mask(halves, tmp_path):
    quiet = RunProgress(quiet=True)
    for name, mask in (("auto", "auto"), ("none", None)):
        config = replace(CONFIG, mask=mask)
        preview_video(halves, "make the dark red", tmp_path / f"{name}.png", config, prior=ToyPrior(), progress=quiet)
    assert (tmp_path / "auto.png").read_bytes() != (tmp_path / "none.png").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"halves.mp4", "auto.png", "none.png"}


def test_auto_is_no_file_of_a_batch(tmp_path, halves):
    jobs = tmp_path / "jobs.csv"
    jobs.write_text("clip,prompt,mask\nhalves.mp4,make it night,auto\nhalves.mp4,make it snowy,a.png\n")
    batch = video_batch.Batch(jobs, out=tmp_path / "out")
    first, second = video_batch.requests(video_batch.read_jobs(jobs), batch)
    assert first.config.mask == "auto"
    assert second.config.mask == str(tmp_path / "a.png")
