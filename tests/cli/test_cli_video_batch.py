"""Many clips from one file: what can be done is done, failures are said, a second start does only what is left."""

from fractions import Fraction

import numpy as np
import pytest
import yaml
from PIL import Image

from csd3d.cli.main import main
from csd3d.cli.parse import Flag
from csd3d.cli.video_batch import Batch, convert, read_jobs, requests
from csd3d.media.place import require_place
from csd3d.runs.manifest import Manifest, fingerprint
from csd3d.runs.settings import to_plain
from video.batch import find_run

pytestmark = pytest.mark.usefixtures("only_toys")


def batch(jobs, out):
    """The exit code of `csd3d video batch`."""
    return main(["video", "batch", str(jobs), "--out", str(out)])


def asked(jobs, out):
    """The requests of a job file."""
    return requests(read_jobs(jobs), Batch(jobs, out=out))


def write(path, text):
    path.write_text(text)
    return path


def test_what_can_be_done_is_done_and_failures_are_said(make_clip, tmp_path, capsys, only_toys):
    make_clip("a.mp4", frames=3)
    make_clip("b.mp4", frames=2)
    write(tmp_path / "broken.mp4", "no video")
    jobs = write(
        tmp_path / "jobs.csv",
        "clip,prompt,output,steps,frames-per-step\n"
        "a.mp4,make it red,red.mkv,3,\n"
        "broken.mp4,make it red,,3,\n"
        '"b.mp4","make it blue",,3,\n'
        "b.mp4,make it dark,,2,2\n",
    )
    out = tmp_path / "out"
    assert batch(jobs, out) == 1
    printed = capsys.readouterr().out
    assert printed.count("edited") >= 2
    assert printed.count("failed") == 3
    assert "readable video" in printed
    assert "does not know 'make it blue'" in printed
    assert (tmp_path / "out" / "red.mkv").exists()
    assert (tmp_path / "out" / "b-make-it-dark.mp4").exists()
    assert Manifest.read(tmp_path / "out/runs/red.mkv/manifest.json").steps_done == 3
    assert only_toys.loaded == ["builtin"]
    before = (tmp_path / "out" / "red.mkv").stat().st_mtime_ns
    jobs.write_text("clip,prompt,output,steps\na.mp4,make it red,red.mkv,3\n")
    assert batch(jobs, out) == 0
    assert "done before" in capsys.readouterr().out
    assert (tmp_path / "out" / "red.mkv").stat().st_mtime_ns == before
    jobs.write_text("clip,prompt,output,steps\na.mp4,make it red,red.mkv,5\n")
    assert batch(jobs, out) == 0
    assert Manifest.read(tmp_path / "out/runs/red.mkv/manifest.json").steps_done == 5


def test_what_is_asked_for_in_another_way_is_done_anew(make_clip, tmp_path, capsys):
    """Whether a job is done is what its manifest says: every setting, the clip, the mask, and what was written."""
    make_clip("a.mp4", frames=2)
    some, other = np.zeros((48, 64), np.uint8), np.zeros((48, 64), np.uint8)
    some[:, :32] = other[:, 48:] = 255
    Image.fromarray(some).save(tmp_path / "mask.png")
    plain = {"clip": "a.mp4", "prompt": "make it red", "output": "a.mkv", "codec": "ffv1", "steps": 3}
    jobs, out = tmp_path / "jobs.yaml", tmp_path / "out"

    def start(**job):
        jobs.write_text(yaml.safe_dump([plain | job]))
        assert batch(jobs, out) == 0
        return "done before" if "done before" in capsys.readouterr().out else (out / "a.mkv").read_bytes()

    first = start(mask="mask.png")
    assert start(mask="mask.png") == "done before"
    (tmp_path / "mask.png").rename(tmp_path / "moved.png")
    assert start(mask="moved.png") == "done before", "the very same mask"
    Image.fromarray(other).save(tmp_path / "mask.png")
    second = start(mask="mask.png")
    assert second != first
    assert start(mask="mask.png") == "done before"
    assert start(mask="moved.png") == first, "whose run is still there, but not what it wrote"
    unmasked = start()
    fewer = start(steps=2)
    assert len({first, second, unmasked, fewer, start(steps=2, seed=1), start(steps=2, lr=0.1)}) == 6
    assert start(steps=2, lr=0.1) == "done before"
    (out / "a.mkv").write_bytes(b"something else")
    assert start(steps=2, lr=0.1) != b"something else"
    make_clip("a.mp4", frames=2, seed=1)
    assert start(steps=2, lr=0.1) != "done before", "of another clip"


def test_an_edit_that_is_to_be_like_a_picture_is_not_done_twice(make_clip, tmp_path, capsys, monkeypatch):
    make_clip("a.mp4", frames=2)
    Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "like.png")
    monkeypatch.setattr("video.batch.run_job", lambda *_, **__: pytest.fail("it is there"))
    jobs = write(tmp_path / "jobs.csv", "clip,prompt,output,like\na.mp4,make it red,a.mkv,like.png\n")
    [request] = asked(jobs, tmp_path / "out")
    settings = to_plain(request.config) | {"prompt": request.prompt, "like": str(tmp_path / "like.png")}
    inputs = [fingerprint(tmp_path / name) for name in ("a.mp4", "like.png")]
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.mkv").write_bytes(b"done")
    run = Manifest("video", settings, 0, inputs=inputs, status="finished")
    run.written = {str(tmp_path / "out/a.mkv"): fingerprint(tmp_path / "out/a.mkv")["sha256"]}
    run.write(tmp_path / "out/runs/a.mkv/manifest.json")
    assert batch(jobs, tmp_path / "out") == 0
    assert "done before" in capsys.readouterr().out
    Image.new("RGB", (64, 48)).save(tmp_path / "like.png")
    assert find_run(request)[1] is None, "it is to be like another picture"


def test_no_edit_is_written_over_what_another_one_reads(make_clip, tmp_path, capsys):
    for name in ("a.mp4", "b.mp4"):
        make_clip(name, frames=2)
    before = (tmp_path / "b.mp4").read_bytes()
    words = "clip,prompt,output,steps\na.mp4,make it red,b.mp4,1\nb.mp4,make it dark,c.mp4,1\n"
    jobs = write(tmp_path / "jobs.csv", words)
    assert batch(jobs, tmp_path) == 2
    assert "jobs: expected another output than what an edit reads, got" in capsys.readouterr().err
    assert (tmp_path / "b.mp4").read_bytes() == before
    (tmp_path / "b.mp4").unlink()  # what one edit makes another one may go on with
    for said in ("edited", "done before"):
        assert batch(jobs, tmp_path) == 0
        assert capsys.readouterr().out.count(said) == 2


def test_a_pattern_does_not_take_results_for_clips(tmp_path):
    for name in ("a.mp4", "b.mp4", "a-make-it-red.mp4", "b-make-it-dark.mp4", "b-make-it-blue.mp4"):
        write(tmp_path / name, "clip")
    jobs = write(tmp_path / "jobs.csv", "clip,prompt\n*.mp4,make it red\n*.mp4,make it dark\n")
    sources = [request.source and request.source.name for request in asked(jobs, tmp_path)]
    assert sources == ["a.mp4", "b-make-it-blue.mp4", "b.mp4"] * 2


def test_columns_of_several_words_are_read(tmp_path):
    (tmp_path / "net").mkdir()
    columns = {
        "lora": "x.safetensors:0.5",
        "embedding": "e.safetensors",
        "attention": "reweight:word=snow,scale=1.5",
        "control": "edge net",
        "control-picture": "edges.png",
    }
    rows = [{"clip": "a.mp4", "prompt": "x"} | columns]
    (request,) = requests(rows, Batch(tmp_path / "jobs.csv"))
    config = request.config
    assert config.lora == (str(tmp_path / "x.safetensors:0.5"),)
    assert config.embedding == (str(tmp_path / "e.safetensors"),)
    assert config.attention == ("reweight:word=snow,scale=1.5",)
    assert config.control == ("edge", str(tmp_path / "net"))
    assert config.control_picture == tmp_path / "edges.png"
    with pytest.raises(ValueError, match="control: expected 2 words, got 'edge'"):
        requests([{"clip": "a.mp4", "prompt": "x", "control": "edge"}], Batch(tmp_path / "jobs.csv"))


def test_a_prior_lies_beside_the_job_file_however_its_column_is_written(tmp_path):
    (tmp_path / "net").mkdir()
    (request,) = requests([{"clip": "a.mp4", " prompt": "x", " prior": " net"}], Batch(tmp_path / "jobs.csv"))
    assert request.config.prior == str(tmp_path / "net")


def test_each_output_has_a_run_of_its_own(tmp_path):
    rows = [{"clip": "a.mp4", "prompt": "x", "output": name} for name in ("a-b.mp4", "a/b.mp4", "c.mp4")]
    runs = [r.run_dir for r in requests(rows, Batch(tmp_path / "jobs.csv", out=tmp_path)) if r.run_dir]
    first, second, third = (run.name for run in runs)
    assert (first, third) == ("a-b.mp4", "c.mp4")
    assert second.startswith("a-b.mp4-")


@pytest.mark.parametrize(
    "text",
    [
        "\n\nclip,prompt,strength\na.mp4,x,0.5\n",
        "clip,prompt,strength\n,,\na.mp4,x,0.5\n , ,\n,,,\n",
        "clip,prompt,strength,,\na.mp4,x,0.5,,\n",
        'clip, prompt, strength\na.mp4, "x", 0.5\n',
        "clip,strength,prompt,seed\na.mp4,0.5,x\n",
    ],
)
def test_spreadsheets_leave_cells_empty(tmp_path, text):
    (request,) = asked(write(tmp_path / "jobs.csv", text), tmp_path / "out")
    assert (request.source, request.prompt, request.config.strength) == (tmp_path / "a.mp4", "x", 0.5)


def test_a_folder_of_frames_is_not_done_twice(make_clip, tmp_path, capsys):
    _, rgb = make_clip("a.mp4", frames=2)
    (tmp_path / "frames").mkdir()
    for k, picture in enumerate(rgb):
        Image.fromarray((picture * 255).byte().permute(1, 2, 0).numpy()).save(tmp_path / "frames" / f"{k}.png")
    jobs = write(tmp_path / "jobs.csv", "clip,prompt,output,steps\nframes,make it red,a.mkv,2\n")
    for said in ("edited", "done before"):
        assert batch(jobs, tmp_path / "out") == 0
        assert said in capsys.readouterr().out


def test_yaml_and_patterns(make_clip, tmp_path):
    for name in ("a.mp4", "b.mkv"):
        make_clip(name, frames=2)
    jobs = write(tmp_path / "jobs.yaml", "- clip: '*.m*'\n  prompt: make it red\n  strength: 0.5\n  strict: true\n")
    made = asked(jobs, tmp_path / "out")
    assert [r.source for r in made] == [tmp_path / "a.mp4", tmp_path / "b.mkv"]
    assert [r.output for r in made] == [
        tmp_path / "out" / f"{n}-make-it-red.{s}" for n, s in (("a", "mp4"), ("b", "mkv"))
    ]
    assert all((r.config.strength, r.config.strict, r.config.prior) == (0.5, True, "builtin") for r in made)


def test_a_cell_may_have_several_lines(tmp_path):
    [request] = asked(write(tmp_path / "jobs.csv", 'clip,prompt\na.mp4,"make it\nsnowy"\n'), tmp_path / "out")
    assert request.prompt == "make it\nsnowy"


def test_presets_lie_beside_the_job_file(tmp_path):
    (tmp_path / "quick.json").write_text('{"csd": {"steps": 3}}')
    jobs = write(tmp_path / "jobs.csv", "clip,prompt,preset,no-steady\na.mp4,x,quick.json,\nb.mp4,x,paper,true\n")
    quick, paper = (request.config for request in asked(jobs, tmp_path / "out"))
    assert (quick.engine.steps, quick.steady) == (3, True)
    assert (paper.engine.bandwidth, paper.steady) == ("paper", False)


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("j.csv", "clip,prompt\n", "at least one row"),
        (
            "j.csv",
            "clip,prompt,colour\na.mp4,x,y\n",
            "edit 1: expected columns that are flags of csd3d video, such as ",
        ),
        ("j.csv", "clip,prompt,strenth\na.mp4,x,1\n", "such as strength, start, strict; got 'strenth'"),
        ("j.csv", "clip|prompt\na.mp4|x\n", "such as prompt; got 'clip|prompt'"),
        ("j.csv", "clip,prompt\na.mp4,make it red, please\n", "line 2: expected 2 cells between ',', got 3"),
        ("j.csv", "clip,prompt\na.mp4,\n", "edit 1: expected a prompt"),
        ("j.csv", "clip,prompt,steps\na.mp4,x,many\n", "steps: expected a whole number, got 'many'"),
        ("j.csv", "clip,prompt,codec\na.mp4,x,divx\n", "codec: expected one of h264"),
        ("j.csv", "clip,prompt,output\na.mp4,x,o.mp4\nb.mp4,x,o.mp4\n", "an output for each edit"),
        ("j.csv", "clip,prompt,output\na.mp4,x,../o.mp4\n", "a name below --out"),
        ("j.csv", "clip,prompt,output\na.mp4,x,/tmp/o.mp4\n", "a name below --out"),
        ("j.csv", "clip,prompt,prompt\na.mp4,x,y\n", "expected each column once, got prompt more often"),
        ("j.csv", "clip,prompt,s-text,s_text\na.mp4,x,2,3\n", "s_text: expected one column for it"),
        ("j.csv", "clip,prompt,\na.mp4,x,y\n", "line 2: expected a name above each column, got none above 'y'"),
        ("j.csv", "\n\n", "at least one row"),
        ("j.yaml", "- a: [", "cannot be read"),
        ("j.yaml", "[" * 5000, "cannot be read"),
        ("j.yaml", "- {clip: a.mp4, prompt: [x, y]}", "prompt: expected one value, got several"),
        ("j.csv", "clip,prompt,fps\na.mp4,x,1e9999999\n", "fps: expected a number or a fraction"),
        ("j.txt", "x", "expected a .csv"),
    ],
)
def test_a_file_that_makes_no_sense_is_one_line(tmp_path, capsys, name, text, match):
    assert batch(write(tmp_path / name, text), tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert match in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("separator", [";", "\t"])
def test_spreadsheets_that_write_other_separators_are_read(tmp_path, separator):
    lines = [["clip", "prompt", "strength"], ["a.mp4", "make it red, please", "0.5"]]
    jobs = write(tmp_path / "jobs.csv", "\ufeff" + "".join(separator.join(line) + "\r\n" for line in lines))
    (request,) = asked(jobs, tmp_path / "out")
    assert (request.prompt, request.config.strength) == ("make it red, please", 0.5)


def test_a_folder_of_jobs_is_said_to_be_one(tmp_path, capsys):
    assert batch(tmp_path, tmp_path / "out") == 2
    assert "a folder" in capsys.readouterr().err


def test_values():
    assert convert(Flag("steps", int | None, None, ""), "3") == 3
    assert convert(Flag("strict", bool, False, ""), "True") is True
    assert convert(Flag("strength", float | None, None, ""), "1") == 1.0
    assert convert(Flag("fps", Fraction | None, None, ""), "30000/1001") == Fraction(30000, 1001)
    with pytest.raises(ValueError, match="expected true or false"):
        convert(Flag("strict", bool, False, ""), "maybe")


def test_long_names_of_clips_make_names_that_can_be_written(tmp_path):
    """Titles from the web, which differ at their ends."""
    cats = "\u732b" * 50
    names = [f"{cats}{cats[:30]}{k}.mkv" for k in range(2)]
    rows = [{"clip": name, "prompt": "make it snowy"} for name in names]
    made = requests(rows, Batch(tmp_path / "jobs.csv", out=tmp_path))
    outputs = [request.output for request in made if request.output is not None]
    assert len(set(outputs)) == 2
    for output in outputs:
        require_place(output)
        assert output.name.startswith(cats)
        assert output.name.endswith("-make-it-snowy.mkv")
