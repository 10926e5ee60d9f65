"""`csd3d world` as a person meets it: files, words, exit codes."""

from pathlib import Path

import pytest
from PIL import Image

from csd3d.cli import main as cli
from csd3d.cli.world import Clip, Panorama, Photo, Scene, next_command
from csd3d.world.edits import KINDS, all_edits
from csd3d.world.families import all_families


def world(*words: object) -> int:
    return cli.main(["world", *map(str, words)])


def only_line(captured: str) -> str:
    lines = captured.strip().splitlines()
    assert len(lines) == 1, captured
    return lines[0]


def test_each_kind_of_sample_is_written_with_its_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--seed", 4, "--edit", "make it snowy")
    assert world("clip", tmp_path / "c.mp4", *common, "--frames", 2, "--width", 32, "--height", 32) == 0
    assert (
        world("scene", tmp_path / "s", *common, "--train-views", 2, "--test-views", 1, "--width", 16, "--height", 16)
        == 0
    )
    assert world("panorama", tmp_path / "p.jpg", *common, "--height", 32) == 0
    assert world("panorama", tmp_path / "q.jpg", *common, "--height", 32, "--kind", "strip", "--turn", 90) == 0
    assert world("photo", tmp_path / "f.png", *common, "--width", 16, "--height", 24) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "c.mp4",
        "c.truth.mp4",
        "f.png",
        "f.truth.png",
        "p.jpg",
        "p.truth.jpg",
        "q.jpg",
        "q.truth.jpg",
        "s",
    ]
    assert (tmp_path / "s" / "truth" / "transforms.json").is_file()
    assert Image.open(tmp_path / "f.png").size == (16, 24)
    said = capsys.readouterr()
    assert f"{tmp_path / 'f.png'}: a yellow ring on grass\n" in said.out
    assert f"{tmp_path / 'f.truth.png'}: a yellow ring on grass, in snow\n" in said.out
    assert said.err == ""


def test_without_an_edit_there_is_no_truth(tmp_path: Path) -> None:
    assert world("photo", tmp_path / "f.png", "--width", 16, "--height", 16) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["f.png"]


def test_an_unknown_sentence_is_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert world("clip", tmp_path / "c.mp4", "--edit", "make the dog red") == 2
    line = only_line(capsys.readouterr().err)
    assert line.startswith(
        "csd3d world: edit: expected a sentence the world knows, got 'make the dog red'; did you mean"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_edit_that_does_not_apply_names_what_is_there_what_does_and_another_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        world("photo", tmp_path / "f.png", "--seed", 4, "--edit", "make the ball red", "--width", 16, "--height", 16)
        == 2
    )
    line = only_line(capsys.readouterr().err)
    assert "'make the ball red' changes nothing in this scene (a yellow ring on grass)" in line
    assert "ring" in line.split("for example")[1]
    seed = line.split("--seed ")[1].split(",")[0]
    assert list(tmp_path.iterdir()) == []
    assert (
        world("photo", tmp_path / "f.png", "--seed", seed, "--edit", "make the ball red", "--width", 16, "--height", 16)
        == 0
    )


def test_an_edit_that_hardly_shows_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ("--width", 32, "--height", 32)
    assert world("photo", tmp_path / "f.png", "--seed", 5, "--edit", "make the sky pink", *size) == 0
    assert "note: 'make the sky pink' can hardly be seen" in capsys.readouterr().out  # at sunset


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("photo", "f.jpg"), "expected a name ending in .png"),
        (("photo", "f.png", "--width", 3), "size: expected sides of 16 to 32768 px, got 3 x 256"),
        (("panorama", "p.jpg", "--height", 8), "size: expected sides of 16"),
        (
            ("panorama", "p.jpg", "--kind", "strip", "--turn", 500),
            "turn of a strip: expected degrees in (0, 360], got 500",
        ),
        (("photo", "f.png", "--seed", 10**20), "seed: expected "),
        (("edits", "--seed", 10**20), "seed: expected "),
        (("clip", "c.mp4", "--frames", 0), "frames: expected 1 or more, got 0"),
        (("photo", "f.png", "--edit", "change the weather"), "'change the weather' has several right answers"),
        (("clip", "c.mp4", "--crf", 60), "crf: expected 0 to 51, got 60"),
    ],
)
def test_mistakes_are_one_line_and_code_2(
    words: tuple[object, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert world(*words) == 2
    assert message in only_line(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_edits_are_listed_by_kind_with_all_wordings(capsys: pytest.CaptureFixture[str]) -> None:
    assert world("edits") == 0
    listed = capsys.readouterr().out
    assert [line for line in listed.splitlines() if line in KINDS] == list(KINDS)
    assert all(w in listed for asked in (*all_edits(), *all_families()) for w in asked.wordings)
    assert world("edits", "--kind", "sky") == 0
    listed = capsys.readouterr().out
    assert len(listed.split("several right answers")[0].strip().splitlines()) == 4
    assert "make the sky another color: sky pink, sky green" in listed


def test_edits_of_a_seed_are_those_that_apply(capsys: pytest.CaptureFixture[str]) -> None:
    assert world("edits", "--seed", 4) == 0
    listed = capsys.readouterr().out
    assert listed.startswith("scene 4: a yellow ring on grass\n")
    assert "make the ring red" in listed
    assert "ball red" not in listed
    assert "make the ring yellow" not in listed
    assert "give the ring another color: colour ring red, colour ring green" in listed
    assert "colour ring yellow" not in listed
    assert "remove one thing" not in listed


@pytest.mark.parametrize(
    ("action", "command"),
    [
        (Clip(Path("a clip.mp4")), "csd3d video 'a clip.mp4' --prompt 'make it snowy'"),
        (Panorama(Path("wide.jpg"), edit="make it night"), "csd3d panorama wide.jpg --prompt 'make it night'"),
        (Photo(Path("p.png")), "csd3d image p.png --prompt 'make it snowy'"),
        (Scene(Path("s")), "ns-train csd-edit-cpu --data s --pipeline.prompt 'make it snowy'"),
    ],
)
def test_what_was_written_comes_with_the_command_that_edits_it(action, command: str) -> None:
    assert next_command(action) == command
