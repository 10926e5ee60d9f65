"""`csd3d panorama` and `csd3d image`: flags to a finished run, one line for what is wrong, exit codes."""

import os
import shlex
import signal
from html import unescape
from types import SimpleNamespace

import pytest

from csd3d.cli import panorama
from csd3d.cli.editors import flags_for
from csd3d.cli.main import main
from csd3d.cli.panorama import IMAGE, PANORAMA
from csd3d.cli.video_form import FORM as VIDEO
from csd3d.runs.manifest import Manifest
from panorama.config import PanoramaConfig, paper_changes
from tests.panorama.panorama_toys import load, save, scenery
from tests.toys import ToyPrior

pytestmark = pytest.mark.usefixtures("only_toys")


@pytest.fixture
def wide(tmp_path):
    return save(tmp_path / "wide.png", scenery(40, 120))


def test_a_picture_is_edited_and_the_places_are_printed(wide, tmp_path, capsys):
    out, run_dir = tmp_path / "out.jpg", tmp_path / "run"
    words = ["panorama", str(wide), "--prompt", "make it red", "--output", str(out), "--run-dir", str(run_dir)]
    assert main([*words, "--steps", "3", "--seed", "4", "--s-text", "2", "--stride", "3", "--wrap", "cylinder"]) == 0
    printed = capsys.readouterr().out
    assert str(out) in printed
    assert "report.html" in printed
    manifest = Manifest.read(run_dir / "manifest.json")
    assert (manifest.config["csd"]["steps"], manifest.config["csd"]["s_text"]) == (3, 2.0)
    assert (manifest.config["seed"], manifest.config["stride"], manifest.config["wrap"]) == (4, 3, "cylinder")
    assert load(out).shape == (40, 120, 3)
    assert main([*words, "--resume", "--steps", "4"]) == 0
    assert main(["panorama", "--resume", "--run-dir", str(run_dir)]) == 0
    assert main(["image", "--resume", "--run-dir", str(run_dir)]) == 0  # the manifest knows which of the two it was
    assert main([*words, "--resume", "--seed", "5"]) == 2
    assert "seed: 4 -> 5" in capsys.readouterr().err


def test_what_bounds_an_edit_is_the_same_for_clips_and_pictures():
    flags = [set(flags_for(form)) for form in (VIDEO, PANORAMA, IMAGE)]
    assert all({"strength", "mask", "feather", "preview", "detail"} <= names for names in flags)


def test_image_is_one_window(wide, tmp_path):
    run_dir = tmp_path / "run"
    assert main(["image", str(wide), "--prompt", "make it red", "--steps", "2", "--run-dir", str(run_dir)]) == 0
    manifest = Manifest.read(run_dir / "manifest.json")
    assert manifest.command == "image"
    assert manifest.steps_done == 2


@pytest.mark.parametrize("command", ["panorama", "image"])
def test_a_preview_is_a_picture_and_nothing_else(command, wide, tmp_path, capsys, monkeypatch, only_toys):
    seen = []
    only_toys.prior = ToyPrior(lambda index: seen.append(1))
    monkeypatch.chdir(tmp_path)
    words = [command, "wide.png", "--prompt", "make it red", "--steps", "40", "--lr", "0.3", "--preview"]
    assert main(words) == 0
    assert "preview wide-preview.png" in capsys.readouterr().out
    assert len(seen) == 10
    assert {p.name for p in tmp_path.iterdir()} == {"wide.png", "wide-preview.png"}
    sheet = load(tmp_path / "wide-preview.png").astype(int)
    half = sheet.shape[0] // 2
    reds = sheet[..., 0] - sheet[..., 2]
    assert reds[half:].mean() > 10 + reds[:half].mean()
    assert main([*words, "--output", "a.mp4"]) == 2
    assert main([*words, "--output", "wide.png"]) == 2
    assert main([command, "--preview", "--resume", "--run-dir", "none"]) == 2
    assert {p.name for p in tmp_path.iterdir()} == {"wide.png", "wide-preview.png"}


@pytest.mark.parametrize("command", ["panorama", "image"])
def test_a_run_is_found_by_the_name_that_the_list_prints(command, wide, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([command, "wide.png", "--prompt", "make it red", "--steps", "1"]) == 0
    assert main([command, "wide.png", "--prompt", "make it dark", "--steps", "1", "--strength", "0.5"]) == 0
    capsys.readouterr()
    assert main(["runs"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len({line.index("make it ") for line in listed}) == 1  # columns stand under each other
    name = next(line for line in listed if "make it red" in line).split()[0]
    assert name == "runs/wide-make-it-red"
    for run in (name, "wide-make-it-red"):
        assert main(["runs", "show", run]) == 0
        assert "make it red" in capsys.readouterr().out
    assert main([command, "--resume", "--run-dir", "wide-make-it-red", "--steps", "2"]) == 0
    assert not (tmp_path / "wide-make-it-red").exists()
    assert main(["runs", "undo", "wide-make-it-red"]) == 0
    capsys.readouterr()
    assert main(["runs", "show", "wide-make-it-rde"]) == 2
    assert "there are wide-make-it-red" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["panorama", "image"])
def test_the_report_says_how_to_do_the_same_again(command, wide, tmp_path):
    words = [command, str(wide), "--prompt-at", "0,0.5=make it red", "--steps", "2", "--detail", "0.3", "--seed", "7"]
    assert main([*words, "--run-dir", str(tmp_path / "run")]) == 0
    page = unescape((tmp_path / "run/report.html").read_text())
    again = shlex.split(page.split("<pre>csd3d ")[1].split("</pre>")[0])
    assert main([*again, "--run-dir", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again/edited.png").read_bytes() == (tmp_path / "run/edited.png").read_bytes()
    first, second = (Manifest.read(tmp_path / name / "manifest.json") for name in ("run", "again"))
    assert first.config == second.config


def test_sentences_by_region_need_no_other(wide, tmp_path):
    words = ["panorama", str(wide), "--steps", "30", "--run-dir", str(tmp_path / "run")]
    assert main([*words, "--prompt-at", "0,0.4=make it red", "--prompt-at", "0.6,1=make it dark"]) == 0
    source, edited = load(wide).astype(int), load(tmp_path / "run/edited.png").astype(int)
    assert (edited - source)[:, :30, 0].mean() > 20
    assert (edited - source)[:, 90:, 0].mean() < -20
    assert (edited == source)[:, 56:64].all()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["{wide}", "--prompt", "make it blue"], "It knows: make it red"),
        (["{wide}"], "expected a sentence"),
        (["{wide}", "make it red"], '--prompt "make it red"'),
        (["--prompt", "make it red"], "expected a picture"),
        (["{wide}", "--prompt", "make it red", "--source-prompt", "a dog"], "instruction editor"),
        (["{wide}", "--prompt", "make it red", "--preset", "none.json"], "does not exist"),
        (["{wide}", "--prompt", "make it red", "--output", "a.gif"], "name ending in"),
        (["{wide}", "--prompt", "make it red", "--wrap", "sphere"], "twice as wide"),
        (["{wide}", "--prompt", "make it red", "--stride", "9"], "stride"),
        (["{wide}", "--prompt-at", "0.2=make it red"], "x0,x1="),
        (["{wide}", "--prompt-at", "0.8,0.2=make it red"], "x0 below x1"),
        (["{wide}", "--prompt", "make it red", "--mask", "none.png"], "does not exist"),
        (["{text}", "--prompt", "make it red"], "expected a picture"),
        (["none.png", "--prompt", "make it red"], "does not exist"),
        (["--resume"], "--run-dir"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(wide, tmp_path, capsys, monkeypatch, words, match):
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    assert main(["panorama", *(w.format(wide=wide, text=text) for w in words)]) == 2
    error = capsys.readouterr().err
    assert match in error
    assert "Traceback" not in error
    assert {p.name for p in tmp_path.iterdir()} == {"wide.png", "text.png"}


def test_ctrl_c_says_how_to_go_on_and_exits_with_130(wide, tmp_path, capsys, only_toys):
    only_toys.prior = ToyPrior(lambda index: os.kill(os.getpid(), signal.SIGINT))
    run_dir = tmp_path / "run"
    words = ["panorama", str(wide), "--prompt", "make it red", "--run-dir", str(run_dir), "--steps", "5"]
    assert main(words) == 130
    assert f"--resume --run-dir {run_dir}" in capsys.readouterr().err
    assert Manifest.read(run_dir / "manifest.json").steps_done == 1


@pytest.mark.parametrize("name", ["panorama", "image"])
def test_an_edit_of_an_edit_is_listed_and_can_be_taken_back(wide, tmp_path, capsys, name):
    runs, first, second = tmp_path / "runs", tmp_path / "first.png", tmp_path / "second.jpg"
    words = [name, "--steps", "2", "--run-dir"]
    assert main([*words, str(runs / "a"), str(wide), "--prompt-at", "0,0.5=make it red", "--output", str(first)]) == 0
    assert main([*words, str(runs / "b"), str(first), "--prompt", "make it dark", "--output", str(second)]) == 0
    capsys.readouterr()
    assert main(["runs", "list", str(runs)]) == 0
    a, b = capsys.readouterr().out.splitlines()
    assert f"  {name}  finished" in a
    assert a.endswith("  0,0.5=make it red")
    assert b.endswith("  0,0.5=make it red | make it dark")
    assert main(["runs", "show", str(runs / "b")]) == 0
    assert f"before that  '0,0.5=make it red', {runs / 'a'}" in capsys.readouterr().out
    assert main(["runs", "undo", str(runs / "a")]) == 2
    assert "undo that first" in capsys.readouterr().err
    before = second.read_bytes()
    assert main(["runs", "undo", str(runs / "b")]) == 0
    shown = capsys.readouterr()
    assert f"deleted      {second}" in shown.out
    assert f"csd3d {name} --resume --run-dir {runs / 'b'}" in shown.err
    assert not second.exists()
    assert main([name, "--resume", "--run-dir", str(runs / "b")]) == 0
    assert second.read_bytes() == before
    assert main(["runs", "undo", str(runs / "b")]) == 0
    assert main(["runs", "undo", str(runs / "a")]) == 0
    assert not first.exists()


def test_a_run_of_another_kind_is_not_gone_on_with(tmp_path, capsys):
    Manifest("video", {"prompt": "make it red", "crf": 18}, 0).write(tmp_path / "manifest.json")
    assert main(["panorama", "--resume", "--run-dir", str(tmp_path)]) == 2
    assert f"expected a run of panorama or image, got one of video in {tmp_path}" in capsys.readouterr().err


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Two photos, and a stand-in for stitching that says nothing of what it joined but the bytes it writes."""

    def join(of, output, *_):
        output.parent.mkdir(exist_ok=True)
        save(output, scenery(40, 120))
        return SimpleNamespace(notes=())

    monkeypatch.setattr(panorama, "stitch_files", join)
    monkeypatch.chdir(tmp_path)
    return [str(save(tmp_path / f"{side}.png", scenery(40, 80))) for side in ("left", "right")]


@pytest.mark.parametrize("more", [(), ("--preview",)])
def test_no_photo_is_written_over(photos, tmp_path, capsys, more):
    before = (tmp_path / "right.png").read_bytes()
    words = ["panorama", *photos, "--prompt", "make it red", "--steps", "1", "--output", "x/../right.png", *more]
    assert main(words) == 2
    assert "expected another file than those that are read" in capsys.readouterr().err
    assert (tmp_path / "right.png").read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"left.png", "right.png"}


def test_what_was_stitched_for_a_run_stays_as_it_is(photos, tmp_path, capsys):
    words = ["panorama", *photos, "--prompt", "make it red", "--steps", "1"]
    assert main([*words, "--run-dir", "run"]) == 0
    before = (tmp_path / "run-stitched.png").stat().st_mtime_ns
    assert main([*words, "--run-dir", "run"]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (tmp_path / "run-stitched.png").stat().st_mtime_ns == before
    assert main(["panorama", "--resume", "--run-dir", "run"]) == 0
    (tmp_path / "new-stitched.png").write_bytes(b"mine")
    assert main([*words, "--run-dir", "new"]) == 0
    assert (tmp_path / "new-stitched.png").read_bytes() == b"mine"
    assert Manifest.read(tmp_path / "new/manifest.json").source == str(tmp_path / "new-stitched-2.png")


def test_photos_that_are_not_edited_leave_nothing(photos, tmp_path):
    assert main(["panorama", *photos, "--prompt", "make it blue"]) == 2
    assert main(["panorama", *photos, "--prompt", "make it blue", "--run-dir", "run"]) == 2
    assert {p.name for p in tmp_path.iterdir()} == {"left.png", "right.png"}


@pytest.mark.parametrize("words", [("--prompt", "make it blau"), ("--prompt-at", "0,0.5=make it blau")])
@pytest.mark.parametrize("more", [(), ("--preview",)])
def test_nothing_is_stitched_for_an_unknown_sentence(photos, monkeypatch, capsys, words, more):
    def refuse(found, sentences, how):
        if "make it blau" in sentences:
            raise ValueError("prompt: expected another sentence, got 'make it blau'")

    monkeypatch.setattr("csd3d.runs.job.require_known", refuse)
    monkeypatch.setattr(panorama, "stitch_files", lambda *_: pytest.fail("stitched"))
    assert main(["panorama", *photos, *words, *more]) == 2
    assert "make it blau" in capsys.readouterr().err


def test_starts_at_once_each_stitch_for_themselves(photos, tmp_path):
    words = ["panorama", *photos, "--prompt", "make it red", "--steps", "1"]
    assert main(words) == 0
    (tmp_path / "runs/left-2-photos-make-it-red-2").mkdir()  # taken in the same moment
    assert main(words) == 0
    sources = {Manifest.read(path).source for path in tmp_path.glob("runs/*/manifest.json")}
    assert len(sources) == 2


def test_the_paper_is_a_preset():
    changes = paper_changes(64)
    assert (changes["stride"], changes["windows_per_step"], changes["draw"], changes["smooth"]) == (
        16,
        8,
        "random",
        False,
    )
    assert (changes["csd"]["lr"], changes["csd"]["normalise"], changes["csd"]["steps"]) == (2.0, "count", 200)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"size": 4}, ValueError),
        ({"size": 1.5}, TypeError),
        ({"quality": 0}, ValueError),
        ({"detail": 1.5}, ValueError),
        ({"seed": -1}, ValueError),
    ],
)
def test_settings_are_checked_at_the_door(change, error):
    with pytest.raises(error, match=next(iter(change))):
        PanoramaConfig(**change)
