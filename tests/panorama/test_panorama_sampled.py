"""Pictures edited by sampling: overlaps are averaged, masks hold, and batches and stops change nothing."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from panorama_toys import load, save, scenery, toy_edit
from test_panorama_edit import same_state

from csd3d.engine import CsdConfig, Noised, Schedule, ddim_step, run_sampling
from csd3d.engine.ddim import alpha_bar
from csd3d.engine.sampling import Sampling
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.prior import Prompts
from csd3d.runs.interrupt import RunInterrupted
from csd3d.runs.manifest import Manifest
from csd3d.runs.progress import RunProgress
from csd3d.runs.sampling import SampledEdit, sampled_edit
from panorama import PanoramaConfig, edit_image
from panorama.edit import PanoramaEditor
from panorama.plane import make_plane
from panorama.preview import preview_picture
from panorama.regions import Everywhere, Plan, Sentence
from panorama.sampled import SampledWindows
from tests.priors.tiny import write_tiny_prior
from tests.toys import ToyPrior

CSD = CsdConfig(steps=4, t_max=1000, coupling="independent", noise="shared", s_text=1.0, s_image=1.0)
CONFIG = PanoramaConfig(by="sampling", csd=CSD, windows_per_step=3, checkpoint_every=2, wrap="none")


def edit(picture, run_dir, prompt="make it red", *, config=CONFIG, **options):
    return toy_edit(picture, run_dir, prompt, config=config, **options)


@pytest.fixture
def wide(tmp_path):
    return save(tmp_path / "wide.png", scenery(40, 200))


class Wavy:
    """Predictions that differ between windows that overlap."""

    schedule = Schedule.scaled_linear()

    def target(self, x: Noised) -> torch.Tensor:
        return torch.tanh(x.z_t.roll(1, 3)) + 0.1 * x.s + x.index.view(-1, 1, 1, 1) / 10

    def source(self, x: Noised) -> torch.Tensor:
        return torch.tanh(x.s_t.roll(1, 2)) + x.index.view(-1, 1, 1, 1) / 20


def windows_of():
    plan = Plan((Sentence("make it dark", Everywhere()),))
    return make_plane(32, 120, factor=8, size_px=32, window_lat=4, stride_lat=2).windows(plan)


def sampled(start, s, *, budget, rounds=0, mask=None, steps=3):
    score = Wavy()
    sampling = Sampling(score, score if start == "inverted" else None, replace(CSD, steps=steps), rounds)
    particles = SampledWindows(
        s, windows_of(), SampledEdit(sampling, start, False), budget=budget, seed=0, mask=mask
    )  # fmt: skip
    for _ in run_sampling(particles, sampling):
        pass
    return particles.z


@pytest.mark.parametrize(("start", "rounds"), [("noised", 0), ("inverted", 0), ("inverted", 2)])
def test_overlaps_are_averaged_as_loops_do_it_in_batches_of_any_size(start, rounds):
    windows, score = windows_of(), Wavy()
    height, width = int(windows.rows.max()) + 1, int(windows.columns.max()) + 1
    s = torch.randn(1, 4, height, width, generator=torch.Generator().manual_seed(1))
    everyone, levels = torch.arange(len(windows)), (333, 666, 999)
    assert len(windows) > 4

    def predicted(canvas, t, predict):
        seen, total = windows.gather(canvas), torch.zeros_like(canvas)
        for i in everyone.tolist():
            e = predict(Noised.from_noisy(seen[i : i + 1], t, windows.gather(s)[i : i + 1], everyone[i : i + 1]))
            for y, row in enumerate(windows.rows[i].tolist()):
                for x, column in enumerate(windows.columns[i].tolist()):
                    total[0, :, row, column] += windows.share[i, y, x] * e[0, :, y, x]
        return total

    def ab(t):
        return alpha_bar(score.schedule, t)

    if start == "noised":
        noise = torch.randn(1, *s.shape[1:], generator=torch.Generator().manual_seed(0))
        x = score.schedule.add_noise(s, noise, 999)
    else:
        x, t = s, -1
        for to in levels:
            after = ddim_step(x, predicted(x, max(t, 0), score.source), ab(t), ab(to))
            for _ in range(rounds):
                after = ddim_step(x, predicted(after, to, score.source), ab(t), ab(to))
            x, t = after, to
    for t, to in ((999, 666), (666, 333), (333, -1)):
        x = ddim_step(x, predicted(x, t, score.target), ab(t), ab(to))
    for budget in (1, 3, len(windows)):
        torch.testing.assert_close(sampled(start, s, budget=budget, rounds=rounds), x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("start", ["noised", "inverted"])
def test_outside_a_mask_latents_are_the_sources(start):
    windows = windows_of()
    s = torch.randn(1, 4, int(windows.rows.max()) + 1, int(windows.columns.max()) + 1)
    mask = torch.zeros_like(s[:, :1])
    mask[..., 4:9] = 1
    z = sampled(start, s, budget=4, mask=mask)
    assert torch.equal(z[..., :4], s[..., :4])
    assert torch.equal(z[..., 9:], s[..., 9:])
    assert (z[..., 4:9] - s[..., 4:9]).abs().mean() > 0.1


@pytest.mark.parametrize("start", ["noised", "inverted"])
def test_the_edit_is_in_the_picture_everywhere_and_the_run_says_how(wide, tmp_path, start):
    result = edit(wide, tmp_path / "run", config=replace(CONFIG, start=start))
    change = (load(result.path).astype(int) - load(wide)).reshape(40, 200, 3)
    for part in (np.s_[:, :8], np.s_[:, 96:104], np.s_[:, -8:]):
        assert change[part][..., 0].mean() > 40
        assert change[part][..., 1].mean() < -40
    assert "by sampling" in result.report.read_text()
    phases = {"encode", "sample", "write"} | ({"invert"} if start == "inverted" else set())
    assert set(Manifest.read(tmp_path / "run" / "manifest.json").timing_s) == phases


@pytest.mark.parametrize("editor", [None, edit_image])
def test_outside_a_mask_every_bit_stays(wide, tmp_path, editor):
    mask = np.zeros((40, 200), np.uint8)
    mask[:, 60:120] = 255
    save(tmp_path / "mask.png", mask)
    options = {} if editor is None else {"editor": editor}
    for start in ("noised", "inverted"):
        config = replace(CONFIG, start=start, mask=str(tmp_path / "mask.png"))
        after = load(edit(wide, tmp_path / start, config=config, **options).path)
        assert np.array_equal(after[mask == 0], load(wide)[mask == 0])
        assert np.abs(after[:, 70:110].astype(int) - load(wide)[:, 70:110]).mean() > 20


@pytest.mark.parametrize("wrap", ["none", "sphere"])
@pytest.mark.parametrize("start", ["noised", "inverted"])
def test_stopped_anywhere_and_resumed_equals_never_stopped(tmp_path, wrap, start):
    picture = save(tmp_path / "wide.png", scenery(40, 80 if wrap == "sphere" else 200))
    config = replace(CONFIG, wrap=wrap, start=start, settle_every=2, windows_per_step=8)
    edit(picture, tmp_path / "whole", config=config)

    def stopping(at):
        calls = []

        def watch(index):
            calls.append(1)
            if len(calls) == at:
                os.kill(os.getpid(), signal.SIGINT)

        return ToyPrior(watch)

    for at, resume in ((1, False), (2, True)):  # the first call is of the estimate
        with pytest.raises(RunInterrupted):
            edit(picture, tmp_path / "run", config=config, prior=stopping(at), resume=resume)
    edit(picture, tmp_path / "run", config=config, resume=True)
    assert same_state(tmp_path / "run", tmp_path / "whole")
    assert (tmp_path / "run/edited.png").read_bytes() == (tmp_path / "whole/edited.png").read_bytes()


def test_views_of_a_sphere_are_settled_at_the_end_too():
    windows, settled = windows_of(), []
    s = torch.randn(1, 4, int(windows.rows.max()) + 1, int(windows.columns.max()) + 1)
    score = Wavy()
    sampling = Sampling(score, None, replace(CSD, steps=5))

    def settle(z):
        settled.append(z)
        return torch.full_like(z, 0.5)

    particles = SampledWindows(
        s, windows, SampledEdit(sampling, "noised", False), budget=99, seed=0, settle=settle, settle_every=2
    )  # fmt: skip
    for _ in run_sampling(particles, sampling):
        pass
    assert len(settled) == 3
    assert torch.equal(particles.z, torch.full_like(s, 0.5))


@pytest.mark.parametrize("by", [{"share": "anchors"}, {"attention": ("like:scale=0",)}])
def test_windows_go_by_the_same_anchors_in_batches_of_any_size(tmp_path, by):
    prior = InstructPrior.load(write_tiny_prior(tmp_path / "prior"), device="cpu")
    windows = windows_of()
    s = torch.randn(1, 4, int(windows.rows.max()) + 1, int(windows.columns.max()) + 1)
    like = {"like": str(save(tmp_path / "look.png", scenery(40, 40)))} if "attention" in by else {}

    def made(budget, **changes):
        edited = sampled_edit(prior, Prompts("make it snowy"), replace(CONFIG, **changes))
        particles = SampledWindows(s, windows, edited, budget=budget, seed=0)
        for _ in run_sampling(particles, edited.sampling):
            pass
        return particles.z

    whole = made(len(windows), **by, **like)
    assert (whole - made(len(windows))).abs().max() > 1e-4
    for budget in (1, 3):
        torch.testing.assert_close(made(budget, **by, **like), whole, atol=1e-3, rtol=1e-3)


def test_a_preview_is_made_the_same_way(wide, tmp_path):
    from csd3d.runs.job import Request

    seen = []
    request = Request(wide, "make it red", None, replace(CONFIG, csd=replace(CSD, steps=8)))
    prior = ToyPrior(lambda index: seen.append(len(index)))
    quiet = RunProgress(quiet=True)
    preview_picture(PanoramaEditor, request, tmp_path / "look.png", prior=prior, progress=quiet)
    assert len(seen) == 2 * -(-sum(seen) // 2 // 3)
    assert {p.name for p in tmp_path.iterdir()} == {"wide.png", "look.png"}


def test_the_published_draw_is_refused():
    with pytest.raises(ValueError, match="draw: expected rounds with --by sampling, got 'random'"):
        replace(CONFIG, draw="random")
