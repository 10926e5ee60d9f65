"""The one job of all editors: what is looked up once, what is refused before anything is made, whose folder it is."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from csd3d.cli.main import main
from csd3d.engine.config import CsdConfig
from csd3d.priors.prompts.vocabulary import UnknownPrompt
from csd3d.runs import job
from csd3d.runs.folder import claim_name, free_name
from csd3d.runs.manifest import Manifest
from csd3d.runs.progress import RunProgress
from panorama import edit_image, edit_panorama
from tests.panorama.panorama_toys import save, scenery
from tests.toys import ToyPrior
from video import VideoConfig, edit_video


class Counted:
    """Counts the calls of a function, by their first argument after `skip` others."""

    def __init__(self, monkeypatch, where, name, *, skip=0):
        self.calls = []
        plain = getattr(where, name)

        def counting(*args, **options):
            self.calls.append(args[skip] if len(args) > skip else None)
            return plain(*args, **options)

        monkeypatch.setattr(where, name, counting)


def test_a_start_looks_everything_up_once(make_clip, tmp_path, monkeypatch, only_toys):
    from csd3d.cli import editors
    from csd3d.priors import lookup
    from video import edit

    clip, _ = make_clip(frames=3)
    run_dir = tmp_path / "elsewhere" / "run"
    resolved = [Counted(monkeypatch, room, "resolve") for room in (lookup, editors, job)]
    plans, scores = Counted(monkeypatch, edit, "plan_frames"), Counted(monkeypatch, ToyPrior, "score")
    read = Counted(monkeypatch, Manifest, "read")
    words = ["video", str(clip), "--prompt", "make it red", "--run-dir", str(run_dir), "--steps"]
    assert main([*words, "2"]) == 0
    assert sum(len(counted.calls) for counted in resolved) == 1
    assert len(only_toys.loaded) == len(plans.calls) == len(scores.calls) == 1
    assert read.calls.count(run_dir / "manifest.json") == 0
    assert main([*words, "3", "--resume"]) == 0
    assert sum(len(counted.calls) for counted in resolved) == 2
    assert len(only_toys.loaded) == len(plans.calls) == len(scores.calls) == 2
    assert read.calls.count(run_dir / "manifest.json") == 1


def test_an_unknown_sentence_is_refused_before_anything_is_loaded(make_clip, tmp_path, monkeypatch):
    def load(*_, **__):
        raise AssertionError("loaded")

    monkeypatch.setattr("csd3d.priors.auto.load_prior", load)
    monkeypatch.chdir(tmp_path)
    clip, _ = make_clip(frames=2)
    with pytest.raises(UnknownPrompt, match="paint it black"):
        edit_video(clip, "paint it black", progress=RunProgress(quiet=True))
    config = VideoConfig(negative_prompt="an ugly frog")
    with pytest.raises(UnknownPrompt, match="an ugly frog"):
        edit_video(clip, "make it snowy", config=config, progress=RunProgress(quiet=True))
    assert {path.name for path in tmp_path.iterdir()} == {clip.name}


def test_a_place_that_is_wrong_is_refused_before_anything_is_loaded(make_clip, tmp_path, monkeypatch, only_toys):
    monkeypatch.chdir(tmp_path)
    clip, _ = make_clip(frames=2)
    picture = save(tmp_path / "a.png", scenery(40, 60))
    for command, source in (("video", clip), ("image", picture), ("panorama", picture)):
        for output in (source, f"{clip}/x.png", f"{picture.name}/../{source.name}"):
            assert main([command, str(source), "--prompt", "make it red", "--output", str(output)]) == 2
    assert main(["generate", "--prompt", "a red ball", "--output", f"{clip}/x.png"]) == 2
    assert only_toys.loaded == []


def test_what_is_read_beside_a_prior_is_not_written_over(make_clip, tmp_path, monkeypatch, capsys, only_toys):
    monkeypatch.chdir(tmp_path)
    clip, _ = make_clip(frames=2)
    (tmp_path / "poses").mkdir()
    picture, shown = save(tmp_path / "a.png", scenery(40, 60)), save(tmp_path / "c.png", scenery(40, 60))
    pose = save(tmp_path / "poses" / "0.png", scenery(40, 60))
    (lora := tmp_path / "l.safetensors").write_bytes(b"")
    control = ["--control", "edge", "guard", "--control-picture"]
    sources = (("image", [str(picture)]), ("panorama", [str(picture)]), ("video", [str(clip)]), ("generate", []))
    cases = [[*control, str(shown)], [*control, "poses"], ["--lora", str(lora)], ["--embedding", str(lora)]]
    for command, source in sources:
        for how, output in zip(cases, (shown, pose, lora, lora), strict=True):
            words = [command, *source, "--prompt", "make it red", "--output", str(output)]
            assert main([*words, *how]) == 2
            assert f"expected another file than those that are read, got {output}" in capsys.readouterr().err
    like = ["--like", str(shown), "--attention", "like"]
    for command, source, how in (("image", picture, cases[0]), ("video", clip, cases[0]), ("video", clip, like)):
        words = [command, str(source), "--prompt", "make it red", "--output", str(shown), "--preview"]
        assert main([*words, *how]) == 2
        assert f"expected another file than those that are read, got {shown}" in capsys.readouterr().err


def test_a_prior_that_a_file_alone_names_is_not_fetched(make_clip, tmp_path, monkeypatch, capsys):
    from diffusers import DiffusionPipeline

    def download(name, *, local_files_only, **_):
        asked.append((name, local_files_only))
        raise OSError("not here")

    asked = []
    monkeypatch.setattr(DiffusionPipeline, "download", download)
    monkeypatch.chdir(tmp_path)
    clip, _ = make_clip(frames=2)
    stranger = tmp_path / "settings.json"
    stranger.write_text(json.dumps({"prior": "some/body"}))
    words = ["video", str(clip), "--prompt", "make it red", "--preset", str(stranger)]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "nothing is fetched under --offline or for a name out of a file: --prior some/body without" in said
    assert "if you trust it" in said
    assert set(asked) == {("some/body", True)}
    asked.clear()
    assert main([*words, "--prior", "some/body"]) == 2
    assert set(asked) == {("some/body", False)}


@pytest.mark.parametrize("command", ["video", "image", "panorama"])
def test_moves_that_make_noise_are_said(make_clip, tmp_path, monkeypatch, capsys, only_toys, command):
    monkeypatch.chdir(tmp_path)
    source = make_clip(frames=2)[0] if command == "video" else save(tmp_path / "a.png", scenery(40, 60))
    words = [command, str(source), "--prompt", "make it red", "--steps", "1", "--t-min", "400", "--t-max", "600"]
    assert main([*words, "--lr", "0.5"]) == 0
    assert "noise" not in capsys.readouterr().err
    assert main([*words, "--lr", "1e6"]) == 0
    said = capsys.readouterr().err
    assert "one step moved the latents by more than 5 times their spread: --lr 1e+06" in said
    assert "times those of pictures, so the result is mostly noise" in said


def test_runs_that_begin_at_once_each_get_a_folder_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: claim_name("clip", "make it red", base=tmp_path), range(24)))
    assert len(set(paths)) == 24
    assert all(path.is_dir() for path in paths)


def test_a_link_to_a_disk_that_is_not_there_keeps_its_name(tmp_path):
    (tmp_path / "clip-make-it-red").symlink_to("/nonexistent/clip-make-it-red")
    assert free_name("clip", "make it red", base=tmp_path) == tmp_path / "clip-make-it-red-2"
    assert claim_name("clip", "make it red", base=tmp_path) == tmp_path / "clip-make-it-red-2"


def test_a_refused_start_leaves_nothing(make_clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip, _ = make_clip(frames=2)
    for output, match in ((clip, "expected another file"), (Path("a.avi"), "name ending in")):
        with pytest.raises(ValueError, match=match):
            edit_video(clip, "make it red", output, prior=ToyPrior(), progress=RunProgress(quiet=True))
    assert {path.name for path in tmp_path.iterdir()} == {clip.name}


@pytest.mark.parametrize("name", ["manifest.json", "sheet.png", "report.html"])
def test_a_result_takes_no_name_of_the_runs_own(tmp_path, name):
    picture = save(tmp_path / "a.png", scenery(40, 60))
    for edit in (edit_panorama, edit_image):
        with pytest.raises(ValueError, match="output: expected"):
            edit(picture, "make it red", tmp_path / "run" / name, run_dir=tmp_path / "run", prior=ToyPrior())
    assert not (tmp_path / "run").exists()


def test_settings_of_the_engine_are_filled_in_from_the_prior(make_clip, tmp_path, monkeypatch):
    clip, _ = make_clip(frames=2)
    suited = CsdConfig(steps=1, lr=0.125, t_min=400, t_max=600)
    monkeypatch.setattr(ToyPrior, "defaults", lambda self, **asked: suited)
    result = edit_video(
        clip, "make it red", run_dir=tmp_path / "run", prior=ToyPrior(), progress=RunProgress(quiet=True)
    )
    assert Manifest.read(result.run_dir / "manifest.json").config["csd"]["lr"] == 0.125
    assert (result.path, result.steps, result.facts["frames"]) == (tmp_path / "run" / "edited.mp4", 1, 2)


def test_a_folder_of_frames_that_the_run_wrote_is_written_again(make_clip, tmp_path):
    clip, _ = make_clip(frames=2)
    config = VideoConfig(csd=CsdConfig(steps=1, t_min=400, t_max=600))
    options = {"run_dir": tmp_path / "run", "prior": ToyPrior(), "progress": RunProgress(quiet=True)}
    frames = edit_video(clip, "make it red", tmp_path / "frames", config, **options).path
    first = sorted(frames.glob("*.png"))[0]
    before = first.read_bytes()
    longer = VideoConfig(csd=CsdConfig(steps=3, t_min=400, t_max=600))
    assert edit_video(None, None, None, longer, resume=True, **options).path == frames
    assert first.read_bytes() != before
    (frames / "mine.txt").write_text("not the run's")
    with pytest.raises(ValueError, match="output: expected"):
        edit_video(None, None, None, longer, resume=True, **options)


def test_a_run_of_before_a_setting_is_resumed(make_clip, tmp_path):
    clip, _ = make_clip(frames=2)
    options = {"prior": ToyPrior(), "progress": RunProgress(quiet=True)}
    one, two = (VideoConfig(csd=CsdConfig(steps=k, t_min=400, t_max=600)) for k in (1, 2))
    whole = edit_video(clip, "make it red", tmp_path / "whole.mkv", two, run_dir=tmp_path / "whole", **options)
    old = edit_video(clip, "make it red", tmp_path / "old.mkv", one, run_dir=tmp_path / "old", **options)
    path = old.run_dir / "manifest.json"
    value = json.loads(path.read_text())
    del value["config"]["strength"], value["config"]["csd"]["weight"]
    path.write_text(json.dumps(value))
    found = edit_video(None, None, None, two, run_dir=old.run_dir, resume=True, **options)
    assert found.path.read_bytes() == whole.path.read_bytes()
    assert Manifest.read(path).config == Manifest.read(whole.run_dir / "manifest.json").config


@pytest.mark.parametrize("prompt", [3, {"a": 1}, ["make it red"]])
def test_a_sentence_that_is_none_is_one_line(make_clip, tmp_path, prompt):
    clip, _ = make_clip(frames=2)
    options = {"run_dir": tmp_path / "run", "prior": ToyPrior(), "progress": RunProgress(quiet=True)}
    edit_video(clip, "make it red", config=VideoConfig(csd=CsdConfig(steps=1, t_min=400, t_max=600)), **options)
    path = tmp_path / "run" / "manifest.json"
    value = json.loads(path.read_text())
    value["config"]["prompt"] = prompt
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match="expected a sentence in the manifest"):
        edit_video(None, None, resume=True, **options)


def test_a_home_folder_is_put_in_after_a_sign_too(tmp_path, monkeypatch, only_toys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.png", scenery(40, 60))
    words = ["image", "a.png", "--prompt", "make it red", "--steps", "1", "--run-dir=~/run", "--output=~/o.png"]
    assert main(words) == 0
    assert (tmp_path / "o.png").exists()
    assert not (tmp_path / "~").exists()
