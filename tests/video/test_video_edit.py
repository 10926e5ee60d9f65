"""A clip is edited, the run is on disk, and whatever happens to the process, the next start goes on unharmed."""

import json
import os
import signal
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from video_toys import psnr, toy_edit

from csd3d.engine.config import CsdConfig
from csd3d.media.clip.source import Clip, open_clip
from csd3d.runs.checkpoint import load_checkpoint
from csd3d.runs.folder import free_name
from csd3d.runs.interrupt import RunInterrupted
from csd3d.runs.manifest import Manifest
from csd3d.runs.progress import RunProgress
from tests.toys import ToyPrior
from video import VideoConfig, edit_video

CSD = CsdConfig(steps=6, lr=0.2, t_min=400, t_max=600)
CONFIG = VideoConfig(csd=CSD, frames_per_step=4, checkpoint_every=2, chunk_frames=3)


def edit(clip, run_dir, prompt="make it red", *, config=CONFIG, **options):
    """One start of a run with the toy prior and quick settings."""
    return toy_edit(clip, run_dir, prompt, config=config, **options)


def state_of(run_dir):
    return load_checkpoint(run_dir / "state.safetensors")


def latents_of(run_dir):
    """The saved latents and, for Adam, moments, by name."""
    step = state_of(run_dir).record["step"]
    assert len({p.name.split("-")[1] for p in run_dir.glob("state-*.npy")}) == 1
    return {p.name.split("-")[2]: np.load(p) for p in run_dir.glob(f"state-{step}-*.npy")}


def same_state(a, b):
    left, right = state_of(a), state_of(b)
    mine, other = latents_of(a), latents_of(b)
    if not all(np.array_equal(mine[k], other[k]) for k in mine | other):
        return False
    return left.record == right.record and all(
        torch.equal(left.tensors[k].nan_to_num(), right.tensors[k].nan_to_num()) for k in left.tensors | right.tensors
    )


def same_pictures(a, b):
    """Equal up to what x264 does: its bytes differ once in a hundred times for the same frames of a tiny clip."""
    with open_clip(a) as left, open_clip(b) as right:
        assert left.info.pts == right.info.pts
        return psnr(left.read(0, left.info.frames), right.read(0, right.info.frames)) > 40


def test_the_edit_is_in_the_clip_and_the_clip_is_as_it_was(make_clip, tmp_path):
    path, rgb = make_clip(rate=Fraction(30000, 1001), frames=9, sound=0.5, height=50, width=66)
    config = replace(CONFIG, csd=replace(CSD, steps=40))
    result = edit(path, tmp_path / "run", config=config, output=tmp_path / "out.mp4")
    assert result.path == tmp_path / "out.mp4"
    assert result.facts["frames"] == 9
    assert result.steps == 40 * 3
    with open_clip(result.path) as clip:
        info = clip.info
        assert (info.width_px, info.height_px, info.frames, info.fps) == (66, 50, 9, Fraction(30000, 1001))
        assert info.audio_streams > 0
        edited = clip.read(0, 9, exact=True)
    change = edited.mean((0, 2, 3)) - rgb.mean((0, 2, 3))
    assert change[0] > 0.1
    assert change[1] < -0.1
    assert change[2] < -0.1


def test_nothing_asked_nothing_changed_detail_and_all(make_clip, tmp_path):
    path, rgb = make_clip(frames=5)
    config = replace(CONFIG, csd=replace(CSD, steps=0), crf=4)
    kept = edit(path, tmp_path / "a", config=config)
    with open_clip(kept.path) as clip:
        assert psnr(clip.read(0, 5, exact=True), rgb) > 37
    lost = edit(path, tmp_path / "b", config=replace(config, detail=0.0))
    with open_clip(lost.path) as clip:
        assert psnr(clip.read(0, 5, exact=True), rgb) < 30


def test_run_directory_is_complete_and_valid(make_clip, tmp_path):
    path, _ = make_clip(frames=9)
    result = edit(path, tmp_path / "run")
    manifest = Manifest.read(tmp_path / "run" / "manifest.json")
    assert manifest.status == "finished"
    assert manifest.command == "video"
    assert manifest.config["prompt"] == "make it red"
    assert manifest.config["csd"]["lr"] == 0.2
    assert manifest.inputs[0]["path"] == str(path)
    assert (manifest.steps_done, manifest.steps) == (18, 6)
    assert set(manifest.timing_s) == {"encode", "edit", "write"}
    assert manifest.memory_bytes["resident"] > 0
    assert manifest.outputs["clip"] == str(tmp_path / "run" / "edited.mp4")
    names = {str(p.relative_to(result.run_dir)) for p in result.run_dir.rglob("*") if p.is_file()}
    assert names == {
        "manifest.json", "state.safetensors", "state-18-z.npy", "sources.npy", "greys.npy", "edited.mp4", "report.html",
        "sheet.png", "gradient.png", "media/source.mp4", "media/edited.mp4",
    }  # fmt: skip
    page = result.report.read_text()
    assert "make it red" in page
    assert page.count("<svg") >= 3
    for name in ("source.mp4", "edited.mp4"):
        with open_clip(result.run_dir / "media" / name) as clip:
            assert clip.info.frames == 9
    state = state_of(result.run_dir)
    assert state.record["step"] == 18
    assert state.tensors["log.curves"].shape == (18, 6)


def test_same_seed_same_result_other_seed_other_latents(make_clip, tmp_path):
    path, _ = make_clip(frames=6)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        edit(path, tmp_path / name, config=replace(CONFIG, seed=seed))
    assert same_state(tmp_path / "a", tmp_path / "b")
    assert same_pictures(tmp_path / "a/edited.mp4", tmp_path / "b/edited.mp4")
    assert not np.array_equal(latents_of(tmp_path / "a")["z.npy"], latents_of(tmp_path / "c")["z.npy"])


def test_coupling_along_motion_changes_the_edit_and_averaging_the_pictures(make_clip, tmp_path):
    path, _ = make_clip(frames=8)
    dark = {"prompt": "make it dark"}
    for name, change in (
        ("plain", {}),
        ("motion", {"csd": replace(CONFIG.engine, coupling="motion")}),
        ("loose", {"steady": False}),
    ):
        edit(path, tmp_path / name, config=replace(CONFIG, **change), **dark)
    plain, motion, loose = (latents_of(tmp_path / name)["z.npy"] for name in ("plain", "motion", "loose"))
    assert np.array_equal(plain, loose)
    assert not np.array_equal(plain, motion)
    assert not (tmp_path / "loose" / "greys.npy").exists()
    with open_clip(tmp_path / "plain/edited.mp4") as a, open_clip(tmp_path / "loose/edited.mp4") as b:
        assert psnr(a.read(0, 8), b.read(0, 8)) < 60
    edit(path, tmp_path / "loose", config=CONFIG, resume=True, **dark)
    assert same_pictures(tmp_path / "plain/edited.mp4", tmp_path / "loose/edited.mp4")


def test_shots_are_said(make_clip, tmp_path):
    path, _ = make_clip(frames=9, cut=5)
    result = edit(path, tmp_path / "run")
    assert any("2 shots, cut at frames 5:" in note for note in result.notes)


def test_ctrl_c_saves_and_the_run_goes_on_from_the_manifest_alone(make_clip, tmp_path):
    path, _ = make_clip(frames=9)
    edit(path, tmp_path / "whole", output=tmp_path / "whole.mp4")
    seen = []

    def watch(index):
        seen.append(1)
        if len(seen) == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(RunInterrupted) as caught:
        edit(path, tmp_path / "run", prior=ToyPrior(watch), output=tmp_path / "out.mp4")
    assert caught.value.exit_code == 130
    assert caught.value.run_dir == tmp_path / "run"
    assert Manifest.read(tmp_path / "run/manifest.json").status == "interrupted"
    assert state_of(tmp_path / "run").record["step"] == 7  # the step that was under way was finished and saved
    assert not (tmp_path / "out.mp4").exists()
    result = edit_video(
        None, None, run_dir=tmp_path / "run", resume=True, prior=ToyPrior(), progress=RunProgress(quiet=True)
    )
    assert result.path == tmp_path / "out.mp4"
    assert same_state(tmp_path / "run", tmp_path / "whole")
    assert same_pictures(tmp_path / "out.mp4", tmp_path / "whole.mp4")
    assert Manifest.read(tmp_path / "run/manifest.json").status == "finished"


def test_a_finished_run_can_get_more_steps(make_clip, tmp_path):
    path, _ = make_clip(frames=6)
    longer = replace(CONFIG, csd=replace(CSD, steps=9))
    edit(path, tmp_path / "whole", config=longer)
    edit(path, tmp_path / "run")
    edit(path, tmp_path / "run", config=longer, resume=True)
    assert same_state(tmp_path / "run", tmp_path / "whole")
    with pytest.raises(ValueError, match="at least the 9 that this run has done, got 6"):
        edit(path, tmp_path / "run", config=CONFIG, resume=True)


@pytest.mark.parametrize("name", ["sources.npy", "greys.npy", "state-*-z.npy"])
@pytest.mark.parametrize("other", [lambda x: x[:1], lambda x: x[..., :1], lambda x: x[0], lambda x: x.astype(">f8")])
def test_arrays_of_something_else_are_refused(make_clip, tmp_path, name, other):
    path, _ = make_clip(frames=3)
    edit(path, tmp_path / "run", config=replace(CONFIG, csd=replace(CSD, steps=2)))
    (file,) = (tmp_path / "run").glob(name)
    np.save(file, other(np.load(file)))
    with pytest.raises(ValueError, match=r"^rows: expected .* (in|got) .*\.npy"):
        edit(path, tmp_path / "run", resume=True)


def test_a_run_ends_when_the_edit_has_stopped_changing(make_clip, tmp_path):
    """Wherever it was stopped before, at the same move; and goes on when somebody wants more."""
    path, _ = make_clip(frames=6)
    config = replace(CONFIG, csd=replace(CSD, steps=60, lr=0.5, tolerance=0.1))
    result = edit(path, tmp_path / "whole", config=config)
    done = result.steps // 2  # of two batches
    assert 3 <= done < 60
    (note,) = [note for note in result.notes if note.startswith("ended after")]
    assert f"ended after {done} of 60 moves" in note
    page = result.report.read_text()
    assert note in page
    assert f"<li>{done} of 60 steps</li>" in page

    seen = []

    def watch(index):
        seen.append(1)
        if len(seen) == 2 * done - 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(RunInterrupted):
        edit(path, tmp_path / "run", config=config, prior=ToyPrior(watch))
    for _ in range(2):  # once more when it is finished
        again = edit(path, tmp_path / "run", config=config, resume=True)
        assert again.steps == result.steps
        assert same_state(tmp_path / "run", tmp_path / "whole")
    on = edit(path, tmp_path / "run", config=replace(config, csd=replace(config.engine, tolerance=0.0)), resume=True)
    assert on.steps == 120


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"prompt": "make it dark"}, "prompt: 'make it red' -> 'make it dark'"),
        ({"config": replace(CONFIG, csd=replace(CSD, lr=0.3))}, "csd.lr: 0.2 -> 0.3"),
        ({"config": replace(CONFIG, seed=4)}, "seed: 0 -> 4"),
    ],
)
def test_resume_with_other_settings_is_refused_in_one_line(make_clip, tmp_path, change, match):
    path, _ = make_clip(frames=3)
    edit(path, tmp_path / "run")
    before = (tmp_path / "run/manifest.json").read_bytes()
    with pytest.raises(ValueError, match=match) as caught:
        edit(path, tmp_path / "run", resume=True, **change)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "run/manifest.json").read_bytes() == before


def test_resume_notices_that_the_clip_changed(make_clip, tmp_path):
    path, _ = make_clip(frames=3)
    edit(path, tmp_path / "run")
    make_clip(frames=3, seed=9)
    with pytest.raises(ValueError, match="not what the run"):
        edit(path, tmp_path / "run", resume=True)


def test_refusals_write_nothing(make_clip, tmp_path):
    path, _ = make_clip(frames=3)
    before = path.read_bytes()
    run_dir = tmp_path / "run"
    with pytest.raises(ValueError, match="does not know 'make it blue'"):
        edit(path, run_dir, "make it blue")
    with pytest.raises(ValueError, match="name ending in"):
        edit(path, run_dir, output=tmp_path / "a.avi")
    with pytest.raises(ValueError, match="another file than those that are read"):
        edit(path, run_dir, output=path)
    with pytest.raises(ValueError, match="a clip and a prompt"):
        edit(path, run_dir, "  ")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        edit(tmp_path / "none.mp4", run_dir)
    with pytest.raises(FileNotFoundError, match="expected the folder of a run"):
        edit(path, run_dir, resume=True)
    assert not run_dir.exists()
    assert path.read_bytes() == before


def test_folders_in_use_are_not_overwritten(make_clip, tmp_path):
    path, _ = make_clip(frames=3)
    edit(path, tmp_path / "run")
    with pytest.raises(ValueError, match="already holds a run"):
        edit(path, tmp_path / "run")
    with pytest.raises(ValueError, match="new or empty folder"):
        edit(path, tmp_path)


def test_divergence_keeps_the_last_good_state(make_clip, tmp_path):
    path, _ = make_clip(frames=3)

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
        edit(path, tmp_path / "run", prior=Bad())
    assert Manifest.read(tmp_path / "run/manifest.json").status == "failed"
    state = state_of(tmp_path / "run")
    assert state.record["step"] == 2
    assert np.isfinite(latents_of(tmp_path / "run")["z.npy"]).all()


def test_failure_while_writing_leaves_no_clip_and_can_be_resumed(make_clip, tmp_path, monkeypatch):
    path, _ = make_clip(frames=9)
    read, count = Clip.read, []

    def fails(self, start, stop, *, exact=False):
        if exact:
            count.append(1)
            if len(count) == 2:
                raise OSError(28, "No space left on device")
        return read(self, start, stop, exact=exact)

    monkeypatch.setattr(Clip, "read", fails)
    with pytest.raises(OSError, match="No space"):
        edit(path, tmp_path / "run")
    monkeypatch.undo()
    left = {p.name for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert left == {"manifest.json", "sources.npy", "greys.npy", "state.safetensors", "state-18-z.npy"}
    assert edit(path, tmp_path / "run", resume=True).path.exists()


def test_frames_are_held_a_chunk_at_a_time_and_read_twice_in_all(make_clip, tmp_path, monkeypatch):
    path, _ = make_clip(frames=20)
    sizes, read = [], Clip.read

    def counted(self, start, stop, *, exact=False):
        sizes.append(stop - start)
        return read(self, start, stop, exact=exact)

    monkeypatch.setattr(Clip, "read", counted)
    groups = []
    edit(path, tmp_path / "run", prior=ToyPrior(lambda index: groups.append(len(index))))
    assert max(sizes) <= CONFIG.chunk_frames
    assert sum(sizes) == 2 * 20
    assert max(groups) <= CONFIG.frames_per_step
    assert sum(groups) == 20 * CSD.steps


def test_large_frames_take_smaller_chunks(make_clip):
    from csd3d.media.clip.source import chunk_frames

    path, _ = make_clip(frames=3)
    with open_clip(path) as clip:
        assert chunk_frames(clip, 16) == 16
        object.__setattr__(clip.info, "width_px", 3840)
        object.__setattr__(clip.info, "height_px", 2160)
        assert chunk_frames(clip, 16) == 1


def test_run_dir_names_do_not_collide(tmp_path):
    first = free_name("My clip", "Make it snowy!", base=tmp_path)
    assert first.name == "my-clip-make-it-snowy"
    first.mkdir()
    assert free_name("My clip", "Make it snowy!", base=tmp_path).name == "my-clip-make-it-snowy-2"
    assert free_name("视频", "?", base=tmp_path).name == "run"


def test_manifest_of_a_run_is_strict_json(make_clip, tmp_path):
    path, _ = make_clip(frames=1)
    edit(path, tmp_path / "run")

    def refuse(name):
        raise AssertionError(name)

    json.loads((tmp_path / "run/manifest.json").read_text(), parse_constant=refuse)


@pytest.mark.parametrize("pattern", ["frames", "frames/*"])
def test_a_result_does_not_become_a_frame_of_its_source(make_clip, tmp_path, pattern):
    _, rgb = make_clip(frames=2)
    (tmp_path / "frames").mkdir()
    for k, picture in enumerate(rgb):
        Image.fromarray((picture * 255).byte().permute(1, 2, 0).numpy()).save(tmp_path / "frames" / f"{k}.png")
    with pytest.raises(ValueError, match="output: expected another place than among the frames of"):
        edit(tmp_path / pattern, tmp_path / "run", output=tmp_path / "frames" / "out.webp")
    assert len(list((tmp_path / "frames").iterdir())) == 2
