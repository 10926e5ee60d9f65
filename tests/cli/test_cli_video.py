"""`csd3d video`: flags to a finished run, one line for what is wrong, exit codes."""

import os
import signal

import pytest

from csd3d.cli.main import main
from csd3d.runs.manifest import Manifest
from tests.toys import ToyPrior

pytestmark = pytest.mark.usefixtures("only_toys")


def test_a_clip_is_edited_and_the_places_are_printed(make_clip, tmp_path, capsys):
    path, _ = make_clip(frames=3)
    out, run_dir = tmp_path / "out.mp4", tmp_path / "run"
    words = ["video", str(path), "--prompt", "make it red", "--output", str(out), "--run-dir", str(run_dir)]
    assert main([*words, "--steps", "3", "--seed", "4", "--s-text", "2", "--draw", "window"]) == 0
    printed = capsys.readouterr().out
    assert str(out) in printed
    assert "report.html" in printed
    manifest = Manifest.read(run_dir / "manifest.json")
    assert manifest.config["csd"]["steps"] == 3
    assert manifest.config["csd"]["s_text"] == 2.0
    assert (manifest.config["seed"], manifest.config["draw"]) == (4, "window")
    assert out.exists()
    assert main([*words, "--resume", "--steps", "4"]) == 0
    assert Manifest.read(run_dir / "manifest.json").steps_done == 4
    assert main(["video", "--resume", "--run-dir", str(run_dir)]) == 0
    assert main([*words, "--resume", "--seed", "5"]) == 2
    assert "seed: 4 -> 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["{clip}", "--prompt", "make it blue"], "It knows: make it red"),
        (["{clip}"], "expected a sentence"),
        (["{clip}", "make it red"], '--prompt "make it red"'),
        (["--prompt", "make it red"], "expected a clip"),
        (["{clip}", "--prompt", "make it red", "--source-prompt", "a dog"], "instruction editor"),
        (["{clip}", "--prompt", "make it red", "--preset", "none.json"], "does not exist"),
        (["{clip}", "--prompt", "make it red", "--fps", "5"], "video file"),
        (["{clip}", "--prompt", "make it red", "--output", "a.avi"], "name ending in"),
        (["{text}", "--prompt", "make it red"], "readable video"),
        (["none.mp4", "--prompt", "make it red"], "does not exist"),
        (["--resume"], "--run-dir"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(make_clip, tmp_path, capsys, monkeypatch, words, match):
    monkeypatch.chdir(tmp_path)
    clip, _ = make_clip(frames=2)
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    assert main(["video", *(w.format(clip=clip, text=text) for w in words)]) == 2
    error = capsys.readouterr().err
    assert match in error
    assert "Traceback" not in error
    assert {p.name for p in tmp_path.iterdir()} == {"clip.mp4", "text.mp4"}


def test_ctrl_c_says_how_to_go_on_and_exits_with_130(make_clip, tmp_path, capsys, only_toys):
    clip, _ = make_clip(frames=3)
    only_toys.prior = ToyPrior(lambda index: os.kill(os.getpid(), signal.SIGINT))
    run_dir = tmp_path / "run"
    words = ["video", str(clip), "--prompt", "make it red", "--run-dir", str(run_dir), "--steps", "5"]
    assert main(words) == 130
    assert f"--resume --run-dir {run_dir}" in capsys.readouterr().err
    assert Manifest.read(run_dir / "manifest.json").steps_done == 1
    only_toys.prior = None
    assert main(["video", "--resume", "--run-dir", str(run_dir)]) == 0
    assert Manifest.read(run_dir / "manifest.json").steps_done == 5
