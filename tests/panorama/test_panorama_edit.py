"""A picture is edited, the run is on disk, and whatever happens to the process, the next start goes on unharmed."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from panorama_toys import load, save, scenery, toy_edit

from csd3d.engine.config import CsdConfig
from csd3d.runs.checkpoint import load_checkpoint
from csd3d.runs.interrupt import RunInterrupted
from csd3d.runs.manifest import Manifest, fingerprint
from csd3d.runs.progress import RunProgress
from csd3d.runs.settings import load_preset, override
from panorama import PanoramaConfig, edit_image, edit_panorama
from tests.test_configs import CONFIGS
from tests.toys import ToyPrior

CSD = CsdConfig(steps=6, lr=0.2, t_min=400, t_max=600)
CONFIG = PanoramaConfig(csd=CSD, windows_per_step=3, checkpoint_every=2, wrap="none")


def edit(picture, run_dir, prompt="make it red", *, config=CONFIG, **options):
    """One start of a run with the toy prior and quick settings."""
    return toy_edit(picture, run_dir, prompt, config=config, **options)


@pytest.fixture
def wide(tmp_path):
    """A strip of 40 x 200 px."""
    return save(tmp_path / "wide.png", scenery(40, 200))


def state_of(run_dir):
    return load_checkpoint(run_dir / "state.safetensors")


def same_state(a, b):
    left, right = state_of(a), state_of(b)
    return left.record == right.record and all(
        torch.equal(left.tensors[k].nan_to_num(), right.tensors[k].nan_to_num()) for k in left.tensors | right.tensors
    )


def test_the_edit_is_in_the_picture_in_the_middle_as_at_the_borders(wide, tmp_path):
    config = replace(CONFIG, csd=replace(CSD, steps=40))
    result = edit(wide, tmp_path / "run", config=config, output=tmp_path / "out.png")
    assert result.path == tmp_path / "out.png"
    source, edited = load(wide).astype(int), load(result.path).astype(int)
    assert edited.shape == source.shape
    for part in (np.s_[:, :8], np.s_[:, 96:104], np.s_[:, -8:], np.s_[:8], np.s_[-8:]):
        change = (edited[part] - source[part]).mean((0, 1))
        assert change[0] > 60
        assert change[1] < -50
        assert change[2] < -50
    left, middle = (np.abs(edited[p] - source[p]).mean() for p in (np.s_[:, :16], np.s_[:, 92:108]))
    assert 0.6 < left / middle < 1.6


def test_nothing_asked_nothing_changed_to_the_bit(wide, tmp_path):
    result = edit(wide, tmp_path / "run", config=replace(CONFIG, csd=replace(CSD, steps=0)))
    assert np.array_equal(load(result.path), load(wide))


def test_what_the_authors_ran_edits_a_single_picture_and_is_refused_for_two_windows(tmp_path):
    preset = load_preset(CONFIGS / "csd-edit-as-run.json", PanoramaConfig)
    as_run = override(CONFIG, preset, where="preset")
    as_run = replace(as_run, csd=replace(as_run.engine, steps=2))
    photo = save(tmp_path / "photo.png", scenery(32, 32))
    result = toy_edit(photo, tmp_path / "run", config=as_run, editor=edit_image)
    assert (result.facts["windows"], result.steps) == (1, 2)
    assert not np.array_equal(load(result.path), load(photo))
    two, before = save(tmp_path / "two.png", scenery(32, 48)), sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="bandwidth: 'paper' expected 3 or more different particles, or one, got 2"):
        edit(two, tmp_path / "no", config=as_run)
    assert sorted(tmp_path.rglob("*")) == before, "before anything is encoded"


def test_run_directory_is_complete_and_valid(wide, tmp_path):
    result = edit(wide, tmp_path / "run")
    manifest = Manifest.read(tmp_path / "run" / "manifest.json")
    assert (manifest.status, manifest.command, manifest.config["prompt"]) == ("finished", "panorama", "make it red")
    assert manifest.inputs[0]["path"] == str(wide)
    assert manifest.steps_done == result.steps == 6 * -(-int(result.facts["windows"]) // 3)
    assert manifest.steps == 6
    assert "<li>6 steps</li>" in result.report.read_text()
    assert set(manifest.timing_s) == {"encode", "edit", "write"}
    names = {str(p.relative_to(result.run_dir)) for p in result.run_dir.rglob("*") if p.is_file()}
    assert names == {
        "manifest.json", "state.safetensors", "sources.safetensors", "edited.png", "report.html", "sheet.png",
        "gradient.png", "media/source.jpg", "media/edited.jpg",
    }  # fmt: skip
    page = result.report.read_text()
    assert "make it red" in page
    assert page.count("<svg") >= 3
    assert "200 × 40 px" in page


@pytest.mark.parametrize("editor", [edit_panorama, edit_image])
def test_strength_goes_from_the_source_to_the_edit_and_may_change_later(wide, tmp_path, editor):
    config = replace(CONFIG, csd=replace(CSD, steps=20))
    full = load(edit(wide, tmp_path / "run", config=config, editor=editor).path).astype(float)
    source = load(wide).astype(float)
    change = np.abs(full - source).mean()
    for strength, low, high in ((0.5, 0.3, 0.7), (0.0, 0.0, 0.0)):
        weaker = replace(config, strength=strength)
        got = load(edit(wide, tmp_path / "run", config=weaker, editor=editor, resume=True).path).astype(float)
        assert low <= np.abs(got - source).mean() / change <= high


def test_the_report_shows_the_pair_once_and_the_steps_that_were_asked_for(wide, tmp_path):
    page = edit(wide, tmp_path / "run").report.read_text()
    assert "sheet.png" not in page
    assert "<li>6 steps</li>" in page


def test_one_window_for_single_pictures(wide, tmp_path):
    result = edit(wide, tmp_path / "run", editor=edit_image)
    assert result.facts["windows"] == 1
    assert Manifest.read(tmp_path / "run" / "manifest.json").command == "image"


def test_same_seed_same_result_other_seed_other_latents(wide, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        edit(wide, tmp_path / name, config=replace(CONFIG, seed=seed))
    assert same_state(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a/edited.png").read_bytes() == (tmp_path / "b/edited.png").read_bytes()
    a, c = (state_of(tmp_path / name).tensors["particles.z"] for name in ("a", "c"))
    assert not torch.equal(a, c)


@pytest.mark.parametrize("wrap", ["none", "cylinder", "sphere"])
def test_stopped_anywhere_and_resumed_from_the_manifest_alone_equals_never_stopped(tmp_path, wrap):
    picture = save(tmp_path / "wide.png", scenery(40, 80 if wrap == "sphere" else 200))
    config = replace(CONFIG, wrap=wrap, settle_every=2, windows_per_step=8, csd=replace(CSD, steps=5))
    edit(picture, tmp_path / "whole", config=config)
    calls = []

    def watch(index):
        calls.append(1)
        if len(calls) in (1, 3, 4):
            os.kill(os.getpid(), signal.SIGINT)

    prior = ToyPrior(watch)
    with pytest.raises(RunInterrupted) as caught:
        edit(picture, tmp_path / "run", prior=prior, config=config)
    assert caught.value.exit_code == 130
    assert state_of(tmp_path / "run").record["step"] == 1
    assert not (tmp_path / "run/edited.png").exists()
    for _ in range(2):
        with pytest.raises(RunInterrupted):
            resume(tmp_path / "run", prior)
    assert Manifest.read(tmp_path / "run/manifest.json").status == "interrupted"
    resume(tmp_path / "run", prior)
    assert same_state(tmp_path / "run", tmp_path / "whole")
    for name in ("edited.png", "gradient.png"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def resume(run_dir, prior=None):
    return edit_panorama(
        None, None, run_dir=run_dir, resume=True, prior=prior or ToyPrior(), progress=RunProgress(quiet=True)
    )


def test_a_finished_run_can_get_more_steps(wide, tmp_path):
    longer = replace(CONFIG, csd=replace(CSD, steps=9))
    edit(wide, tmp_path / "whole", config=longer)
    edit(wide, tmp_path / "run")
    edit(wide, tmp_path / "run", config=longer, resume=True)
    assert same_state(tmp_path / "run", tmp_path / "whole")
    with pytest.raises(ValueError, match="at least the"):
        edit(wide, tmp_path / "run", config=CONFIG, resume=True)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"prompt": "make it dark"}, "prompt: 'make it red' -> 'make it dark'"),
        ({"config": replace(CONFIG, csd=replace(CSD, lr=0.3))}, "csd.lr: 0.2 -> 0.3"),
        ({"config": replace(CONFIG, wrap="cylinder")}, "wrap: 'none' -> 'cylinder'"),
    ],
)
def test_resume_with_other_settings_is_refused_in_one_line(wide, tmp_path, change, match):
    edit(wide, tmp_path / "run")
    before = (tmp_path / "run/manifest.json").read_bytes()
    with pytest.raises(ValueError, match=match) as caught:
        edit(wide, tmp_path / "run", resume=True, **change)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "run/manifest.json").read_bytes() == before


def test_resume_notices_that_the_picture_changed(wide, tmp_path):
    edit(wide, tmp_path / "run")
    save(wide, scenery(40, 200, seed=9))
    with pytest.raises(ValueError, match="not what the run"):
        resume(tmp_path / "run")


@pytest.mark.parametrize("how", ["mask", "prompt_mask"])
def test_resume_notices_that_a_mask_changed(wide, tmp_path, how):
    mask = tmp_path / "mask.png"
    levels = np.zeros((40, 200), np.uint8)
    levels[:, 60:120] = 255
    save(mask, levels)
    change = {"mask": str(mask)} if how == "mask" else {"prompt_mask": (f"{mask}=make it dark",)}
    edit(wide, tmp_path / "run", config=replace(CONFIG, **change))
    assert Manifest.read(tmp_path / "run/manifest.json").inputs[1] == fingerprint(mask)
    save(mask, 255 - levels)
    with pytest.raises(ValueError, match=r"mask\.png is not what the run") as caught:
        resume(tmp_path / "run")
    assert "\n" not in str(caught.value)
    save(mask, levels)
    resume(tmp_path / "run")


def test_steps_count_that_were_saved_right_before_a_kill(wide, tmp_path):
    edit(wide, tmp_path / "run")
    manifest = Manifest.read(tmp_path / "run/manifest.json")
    done = manifest.steps_done, manifest.moves_done
    manifest.status, manifest.steps_done, manifest.moves_done = "running", 4, 2  # of the state before the last
    manifest.write(tmp_path / "run/manifest.json")
    resume(tmp_path / "run")
    manifest = Manifest.read(tmp_path / "run/manifest.json")
    assert (manifest.steps_done, manifest.moves_done) == done


def halves(folder, height=40, width=200):
    """Two masks, left.png and right.png."""
    for name, columns in (("left", slice(width // 2)), ("right", slice(width // 2, width))):
        levels = np.zeros((height, width), np.uint8)
        levels[:, columns] = 255
        save(folder / f"{name}.png", levels)


def test_resume_notices_that_masks_changed_places(wide, tmp_path):
    halves(tmp_path)
    texts = tuple(
        f"{tmp_path}/{side}.png={what}" for side, what in (("left", "make it dark"), ("right", "make it red"))
    )
    edit(wide, tmp_path / "run", "make it stay", config=replace(CONFIG, prompt_mask=texts))
    (tmp_path / "left.png").rename(tmp_path / "other.png")
    (tmp_path / "right.png").rename(tmp_path / "left.png")
    (tmp_path / "other.png").rename(tmp_path / "right.png")
    with pytest.raises(ValueError, match=r"left\.png, .*right\.png is not what the run"):
        resume(tmp_path / "run")


def test_a_run_whose_masks_were_named_from_here_is_resumed_from_anywhere(wide, tmp_path, monkeypatch):
    halves(tmp_path)
    monkeypatch.chdir(tmp_path)
    config = replace(CONFIG, mask="left.png", prompt_mask=("right.png=make it dark",))
    edit(wide, tmp_path / "run", config=config)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    resume(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    edit(wide, tmp_path / "run", config=config, resume=True)  # as they were given
    manifest = Manifest.read(tmp_path / "run/manifest.json")
    manifest.config |= {"mask": "left.png", "prompt_mask": ["right.png=make it dark"]}  # as runs of before have them
    manifest.write(tmp_path / "run/manifest.json")
    resume(tmp_path / "run")
    edit(wide, tmp_path / "run", config=config, resume=True)


def test_refusals_write_nothing(wide, tmp_path):
    before = wide.read_bytes()
    run_dir = tmp_path / "run"
    with pytest.raises(ValueError, match="does not know 'make it blue'"):
        edit(wide, run_dir, "make it blue")
    with pytest.raises(ValueError, match="name ending in"):
        edit(wide, run_dir, output=tmp_path / "a.gif")
    with pytest.raises(ValueError, match="another file than those that are read"):
        edit(wide, run_dir, output=tmp_path / "nowhere" / ".." / wide.name)
    mask = save(tmp_path / "mask.png", np.full(load(wide).shape[:2], 255, np.uint8))
    for change in ({"mask": str(mask)}, {"prompt_mask": (f"{mask}=make it red",)}):
        with pytest.raises(ValueError, match="another file than those that are read"):
            edit(wide, run_dir, config=replace(CONFIG, **change), output=mask)
    with pytest.raises(ValueError, match="another place than what the run writes"):
        edit(wide, run_dir, output=run_dir / "sheet.png")
    with pytest.raises(ValueError, match="folder in which files can be made"):
        edit(wide, run_dir, output=wide / "out.png")
    with pytest.raises(ValueError, match="expected a sentence"):
        edit(wide, run_dir, "  ")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        edit(tmp_path / "none.png", run_dir)
    with pytest.raises(ValueError, match="twice as wide"):
        edit(wide, run_dir, config=replace(CONFIG, wrap="sphere"))
    assert not run_dir.exists()
    assert wide.read_bytes() == before


def test_divergence_keeps_the_last_good_state(wide, tmp_path):
    class Bad(ToyPrior):
        def score(self, prompts, guidance):
            score = super().score(prompts, guidance)
            calls, good = [], score.target

            def target(x):
                calls.append(1)
                return good(x) * (float("nan") if len(calls) == 4 else 1.0)

            score.target = target
            return score

    with pytest.raises(FloatingPointError, match="step 3"):
        edit(wide, tmp_path / "run", prior=Bad())
    assert Manifest.read(tmp_path / "run/manifest.json").status == "failed"
    assert state_of(tmp_path / "run").record["step"] == 2
    assert not (tmp_path / "run/edited.png").exists()


def test_windows_and_pixels_are_held_a_few_at_a_time(tmp_path):
    picture = save(tmp_path / "large.png", scenery(64, 2600))
    groups = []
    prior = ToyPrior(lambda index: groups.append(len(index)))
    edit(picture, tmp_path / "run", prior=prior, config=replace(CONFIG, size=64, csd=replace(CSD, steps=1)))
    assert max(groups) <= CONFIG.windows_per_step
    assert max(n * h * w for n, _, h, w in prior.codec.sizes) <= 64 * 384
