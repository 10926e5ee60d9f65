"""Clips edited by sampling: batches, stops and sharing change nothing that they should not."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from test_video_edit import latents_of, same_state
from torch import Tensor
from video_toys import toy_edit

from csd3d.cli.main import main
from csd3d.engine import CsdConfig, Latents, Noised, run_sampling
from csd3d.engine.ddim import invert, sample
from csd3d.media.clip.source import open_clip
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.interrupt import RunInterrupted
from csd3d.runs.manifest import Manifest
from csd3d.runs.progress import RunProgress
from csd3d.runs.sampling import sampled_edit
from tests.attention.test_attention_eye import Shifted
from tests.priors.tiny import write_tiny_prior
from tests.toys import ToyPrior
from video import VideoConfig
from video.preview import preview_video
from video.sampled import frames_in_memory

CSD = CsdConfig(steps=4, t_max=1000, coupling="independent", noise="shared", s_text=1.0, s_image=1.0)
CONFIG = VideoConfig(by="sampling", csd=CSD, frames_per_step=2, chunk_frames=3, checkpoint_every=3, codec="ffv1")
QUIET = RunProgress(quiet=True)


def edit(clip, run_dir, prompt="make it red", *, config=CONFIG, **options):
    return toy_edit(clip, run_dir, prompt, config=config, **options)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Both kinds of priors, with real networks."""
    folder = tmp_path_factory.mktemp("tiny")
    t2i = write_tiny_prior(folder / "t2i", kind="text-to-image", closed=False)
    instruct = write_tiny_prior(folder / "instruct")
    return {"t2i": TextToImagePrior.load(t2i, device="cpu"), "instruct": InstructPrior.load(instruct, device="cpu")}


def latents(n=5) -> Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(3))


def sampled(prior, config, s, groups=None, correspondences=None):
    prompts = Prompts("make it snowy") if prior.kind == "instruct" else Prompts("a red ball", "a blue ball")
    edited = sampled_edit(prior, prompts, config, correspondences)
    frames = frames_in_memory(s, edited, config, groups or [range(len(s))], device="cpu")
    for _ in run_sampling(frames, edited.sampling):
        pass
    return frames.z[:]


@pytest.mark.parametrize("start", ["noised", "inverted"])
def test_the_edit_is_in_the_clip_and_the_run_says_how(make_clip, tmp_path, start):
    path, rgb = make_clip(frames=5)
    result = edit(path, tmp_path / "run", config=replace(CONFIG, start=start, steady=False))
    with open_clip(result.path) as clip:
        change = clip.read(0, 5, exact=True).mean((0, 2, 3)) - rgb.mean((0, 2, 3))
    assert change[0] > 0.1
    assert change[1] < -0.1
    manifest = Manifest.read(tmp_path / "run" / "manifest.json")
    assert manifest.steps_done == result.steps == 3 * (4 if start == "noised" else 4 + 4 * 2)
    assert manifest.steps == 4
    assert set(manifest.timing_s) == {"encode", "sample", "write"} | ({"invert"} if start == "inverted" else set())
    assert "by sampling" in result.report.read_text()
    assert not (tmp_path / "run" / "trajectory.npy").exists()


def test_plain_sampling_of_frames_is_the_formula_for_each(tiny):
    s, config = latents(), replace(CONFIG, rounds=1, frames_per_step=3)
    for kind, start in (("instruct", "noised"), ("t2i", "inverted"), ("instruct", "inverted")):
        prior = tiny[kind]
        prompts = Prompts("make it snowy") if kind == "instruct" else Prompts("a red ball", "a blue ball")
        score = prior.score(prompts, Guidance.of(CSD))
        levels = (249, 499, 749, 999)
        if start == "noised":
            e = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
            x = score.schedule.add_noise(s, e.expand_as(s), 999)
        else:
            *_, x = invert(prior.score(prompts, Guidance(1.0)), s, levels, rounds=1)
        expected = sample(score, x, s, levels)
        torch.testing.assert_close(sampled(prior, replace(config, start=start), s), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("instruct", {"share": "anchors"}),
        ("t2i", {"attention": ("pnp",)}),
        ("t2i", {"share": "anchors", "attention": ("kv-fusion",), "start": "noised"}),
    ],
)
def test_batches_of_any_size_give_the_same(tiny, kind, options):
    s, config = latents(3), replace(CONFIG, rounds=1, **options)
    whole, parts, plain = (
        sampled(tiny[kind], changed, s)
        for changed in (replace(config, frames_per_step=3), config, replace(CONFIG, rounds=1, start=config.start))
    )
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=1e-4)
    assert (whole - plain).abs().max() > 1e-4, "it does something"


@pytest.mark.parametrize("method", ["like:scale=0", "eye:after=0,until=1"])
def test_colours_and_hidden_states_are_of_the_same_anchors_in_batches_of_any_size(tiny, tmp_path, method):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "look.png")
    like = str(tmp_path / "look.png") if method.startswith("like") else None
    s, config = latents(), replace(CONFIG, start="noised", attention=(method,), like=like)
    whole, parts = (
        sampled(tiny["t2i"], replace(config, frames_per_step=n), s, correspondences=Shifted(1.0)) for n in (5, 2)
    )
    torch.testing.assert_close(parts, whole, atol=1e-3, rtol=1e-3)
    assert (whole - sampled(tiny["t2i"], replace(CONFIG, start="noised"), s)).abs().max() > 1e-2, "it does something"


def test_with_itself_as_the_edit_an_inverted_source_comes_back(tiny):
    """And Plug-and-Play on its own trajectory changes nothing: the features are those that it has anyway."""
    prior, s = tiny["t2i"], latents(3)
    config = replace(CONFIG, rounds=8, frames_per_step=3, csd=replace(CSD, steps=3, t_max=300))
    for attention in ((), ("pnp",)):
        edited = sampled_edit(prior, Prompts("a ball", "a ball"), replace(config, attention=attention))
        frames = frames_in_memory(s, edited, config, [range(3)], device="cpu")
        for _ in run_sampling(frames, edited.sampling):
            pass
        torch.testing.assert_close(frames.z[:], s, atol=2e-3, rtol=2e-3)


def test_frames_of_no_sentence_stay_and_others_keep_to_their_own(tiny):
    s = latents(6)
    got = sampled(tiny["instruct"], replace(CONFIG, share="anchors"), s, groups=[(0, 1, 2), (3, 4)])
    assert torch.equal(got[5], s[5])
    alone = sampled(tiny["instruct"], replace(CONFIG, share="anchors"), s, groups=[(0, 1, 2)])
    torch.testing.assert_close(got[:3], alone[:3], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("start", ["noised", "inverted"])
def test_stopped_at_any_step_and_resumed_equals_never_stopped(make_clip, tmp_path, start):
    path, _ = make_clip(frames=5)
    config = replace(CONFIG, start=start)
    edit(path, tmp_path / "whole", config=config)
    steps = Manifest.read(tmp_path / "whole" / "manifest.json").steps_done
    calls = []

    def watch(index):
        calls.append(1)
        if len(calls) in (1, 4, 6):
            os.kill(os.getpid(), signal.SIGINT)

    prior, stops = ToyPrior(watch), 0
    while True:
        try:
            edit(path, tmp_path / "run", config=config, prior=prior, resume=stops > 0)
            break
        except RunInterrupted:
            stops += 1
    assert stops == 3
    assert Manifest.read(tmp_path / "run" / "manifest.json").steps_done == steps
    assert same_state(tmp_path / "run", tmp_path / "whole")
    assert (tmp_path / "run/edited.mkv").read_bytes() == (tmp_path / "whole/edited.mkv").read_bytes()


@pytest.mark.parametrize("kind", ["noised", "inverted"])
def test_killed_at_any_step_and_resumed_equals_never_stopped(make_clip, tmp_path, forked, kind):
    path, _ = make_clip(frames=5, height=16, width=24)
    assert forked(path, tmp_path / "whole", kind)[0] == 0
    for first in (2, 5):
        run_dir = tmp_path / f"killed{first}"
        assert forked(path, run_dir, kind, at=first)[0] == -signal.SIGKILL
        assert forked(path, run_dir, kind)[0] == 0
        assert same_state(run_dir, tmp_path / "whole")
        assert (run_dir / "edited.mkv").read_bytes() == (tmp_path / "whole/edited.mkv").read_bytes()


def test_rows_of_the_network_are_counted_and_shown(make_clip, tmp_path, tiny):
    path, _ = make_clip(frames=3, height=32, width=32)
    config = replace(CONFIG, size=32, source_prompt="a blue ball", attention=("pnp",), csd=replace(CSD, s_text=3.0))
    edit(path, tmp_path / "whole", "a red ball", config=config, prior=tiny["t2i"])
    manifest = Manifest.read(tmp_path / "whole" / "manifest.json")
    inverted, both, features = 4 * 2, 4 * 2, 4 * 2
    assert manifest.numbers["network rows a particle"] == inverted + both + features
    assert manifest.numbers["network rows"] == 3 * (inverted + both + features)
    assert "network rows a particle" in (tmp_path / "whole" / "report.html").read_text()
    assert not (tmp_path / "whole" / "trajectory.npy").exists()


def test_a_trajectory_that_is_gone_is_refused(make_clip, tmp_path, tiny):
    path, _ = make_clip(frames=3, height=32, width=32)
    config = replace(CONFIG, size=32, source_prompt="a blue ball", attention=("pnp",), checkpoint_every=1)
    prior = tiny["t2i"]
    whole = edit(path, tmp_path / "whole", "a red ball", config=config, prior=prior)
    before = signal.getsignal(signal.SIGINT)
    place, rows = tmp_path / "run", []
    predict = prior.denoiser.predict

    def stopping(make_rows, named, t):
        rows.append(named.role)
        if len(rows) in (3, 14, 25):
            os.kill(os.getpid(), signal.SIGINT)
        return predict(make_rows, named, t)

    prior.denoiser.predict = stopping
    try:
        for resume in (False, True):
            with pytest.raises(RunInterrupted):
                edit(path, place, "a red ball", config=config, prior=prior, resume=resume)
        kept = (place / "trajectory.npy").rename(place / "elsewhere.npy")
        with pytest.raises(FileNotFoundError, match="trajectory"):
            edit(path, place, "a red ball", config=config, prior=prior, resume=True)
        kept.rename(place / "trajectory.npy")
        with pytest.raises(RunInterrupted):
            edit(path, place, "a red ball", config=config, prior=prior, resume=True)
        result = edit(path, place, "a red ball", config=config, prior=prior, resume=True)
    finally:
        del prior.denoiser.predict
    assert signal.getsignal(signal.SIGINT) == before
    assert result.path.read_bytes() == whole.path.read_bytes()
    assert not (place / "trajectory.npy").exists()


def test_same_seed_same_bytes_other_seed_others(make_clip, tmp_path, tiny):
    path, _ = make_clip(frames=3, height=32, width=32)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = replace(CONFIG, size=32, seed=seed)
        edit(path, tmp_path / name, "make it snowy", config=config, prior=tiny["instruct"])
    a, b, c = (latents_of(tmp_path / name)["z.npy"] for name in "abc")
    assert (a == b).all()
    assert (a != c).any()


def test_strength_and_key_frames_are_as_with_moves(make_clip, tmp_path):
    path, rgb = make_clip(frames=9)
    config = replace(CONFIG, keyframes=2)
    result = edit(path, tmp_path / "keys", config=config)
    with open_clip(result.path) as clip:
        full = (clip.read(0, 9, exact=True) - rgb).abs().mean()
    assert Manifest.read(tmp_path / "keys" / "manifest.json").steps_done == 4
    weaker = edit(path, tmp_path / "keys", config=replace(config, strength=0.5), resume=True)
    with open_clip(weaker.path) as clip:
        assert 0.3 < (clip.read(0, 9, exact=True) - rgb).abs().mean() / full < 0.7


def test_more_steps_are_refused_when_a_run_goes_on(make_clip, tmp_path):
    path, _ = make_clip(frames=3)
    edit(path, tmp_path / "run")
    with pytest.raises(ValueError, match=r"other settings .*steps") as caught:
        edit(path, tmp_path / "run", config=replace(CONFIG, csd=replace(CSD, steps=8)), resume=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prompt", ["make it red", "0-0.1s: make it red, 0.5-0.6s: make it dark"])
def test_a_preview_is_made_the_same_way(make_clip, tmp_path, prompt):
    path, _ = make_clip(frames=30)
    config = replace(CONFIG, csd=replace(CSD, steps=8))
    seen = []
    prior = ToyPrior(lambda index: seen.append(len(index)))
    preview_video(path, prompt, tmp_path / "look.png", config, prior=prior, progress=QUIET)
    assert sum(seen) == (8 if prompt == "make it red" else 2)  # a quarter of the steps, of frames that change
    assert {p.name for p in tmp_path.iterdir()} == {"clip.mp4", "look.png"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"by": "moves", "start": "noised", "csd": None}, "start: expected none but with --by sampling"),
        ({"csd": replace(CSD, coupling="svgd")}, "coupling: expected independent with --by sampling"),
        ({"csd": replace(CSD, regulariser="patch-nce")}, "regulariser: expected none"),
        ({"csd": replace(CSD, shift=2.0)}, "shift: expected 1 with --by sampling"),
        ({"csd": replace(CSD, steps=0)}, "steps: expected 1 or more"),
        ({"rounds": -1}, "rounds: expected 0 to 20"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, expected):
    with pytest.raises(ValueError, match=expected):
        replace(CONFIG, **changes)


def test_a_caption_of_the_source_is_asked_for_where_it_is_needed(tiny):
    prior, prompts = tiny["t2i"], Prompts("a red ball")
    for options in ({}, {"start": "noised", "attention": ("pnp",)}):
        with pytest.raises(ValueError, match="source-prompt: expected what the source shows") as caught:
            sampled_edit(prior, prompts, replace(CONFIG, **options))
        assert "\n" not in str(caught.value)
    assert sampled_edit(prior, prompts, replace(CONFIG, start="noised")).start == "noised"
    with pytest.raises(ValueError, match="instruction editor"):
        sampled_edit(tiny["instruct"], Prompts("make it snowy", "a field"), CONFIG)


def test_from_the_command_line(make_clip, tmp_path, capsys):
    path, _ = make_clip(frames=3, height=32, width=32)
    prior = write_tiny_prior(tmp_path / "prior")
    words = ["video", str(path), "--prompt", "make it snowy", "--prior", str(prior), "--by", "sampling"]
    words += ["--size", "32"]
    assert main([*words, "--steps", "2", "--run-dir", str(tmp_path / "run")]) == 0
    config = Manifest.read(tmp_path / "run" / "manifest.json").config
    assert (config["by"], config["csd"]["coupling"], config["csd"]["t_max"]) == ("sampling", "independent", 1000)
    assert main(["video", "--resume", "--run-dir", str(tmp_path / "run"), "--steps", "3"]) == 2
    capsys.readouterr()
    for more in (["--method", "dds"], ["--coupling", "svgd"], ["--preset", "paper"]):
        assert main([*words, *more]) == 2
        assert "with --by sampling" in capsys.readouterr().err
    assert main(["video", "--help"]) == 0
    assert "--by" in capsys.readouterr().out


def test_predictions_that_are_no_numbers_end_the_run_and_keep_it(make_clip, tmp_path):
    path, _ = make_clip(frames=3)
    prior = ToyPrior()
    score = prior.score

    class Bad:
        def __init__(self, own):
            self.schedule, self._own = own.schedule, own

        def target(self, x: Noised) -> Latents:
            return self._own.target(x) * (torch.nan if x.t < 400 else 1)

        def source(self, x: Noised) -> Latents:
            return self._own.source(x)

    object.__setattr__(prior, "score", lambda *asked: Bad(score(*asked)))
    with pytest.raises(FloatingPointError, match="timestep 249"):
        edit(path, tmp_path / "run", prior=prior)
    edit(path, tmp_path / "run", resume=True)
