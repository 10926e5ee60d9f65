"""What is said of words that the parser cannot read."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro
from PIL import Image

from csd3d.cli import runs, segments, translate, world
from csd3d.cli.editors import flags_for, read_request
from csd3d.cli.generate import FORM as GENERATE
from csd3d.cli.main import main as run_command
from csd3d.cli.panorama import IMAGE, PANORAMA
from csd3d.cli.parse import read_dataclass
from csd3d.cli.refusals import ELSEWHERE, known, like
from csd3d.cli.translate import TRAIN
from csd3d.cli.video_form import FORM


@dataclass(frozen=True)
class Inner:
    """Settings."""

    frames: int | Literal["all"] = "all"
    """How many."""
    steady: bool = True
    """Whether."""


@dataclass(frozen=True)
class Command:
    """A command of the tests."""

    source: tyro.conf.Positional[Path]
    """What."""
    output: Path
    """Where."""
    method: Literal["first", "second"] | None = None
    """How."""
    size: tuple[int, int] = (1, 2)
    """How large."""
    inner: Annotated[Inner, tyro.conf.arg(name="")] = field(default_factory=Inner)
    """More."""


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", "expected source PATH, --output PATH, got none"),
        ("a", "expected --output PATH, got none"),
        ("a --ouput b", "expected flags of try, got --ouput; perhaps --output is meant"),
        ("--output b --frmaes 3 a", "expected flags of try, got --frmaes; perhaps --frames is meant"),
        ("a --output b --zzz", "expected flags of try, got --zzz (--help shows all)"),
        ("a --output b -z", "expected flags of try, got -z (--help shows all)"),
        ("a b --output c", "expected no further words, got b"),
        ("a --output", "--output: expected a path, got none"),
        ("a --output b --method frist", "--method: expected one of first, second, got frist; perhaps first is meant"),
        ("a --output b --frames x", "--frames: expected a whole number or all, got x"),
        ("a --output b --size 1 x", "--size: expected INT INT, got 1 x"),
        ("a --output b --size 1", "--size: expected INT INT, got none"),
        ("a --output b --frames 3.0", "--frames: expected a whole number or all, got 3.0; perhaps 3 is meant"),
        ("-o b a", "expected flags of try, got -o; perhaps --output is meant"),
        ("--output b --input a", "expected flags of try, got --input; perhaps SOURCE without a flag is meant"),
    ],
)
def test_every_kind_of_mistake_is_one_line(words: str, line: str) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        read_dataclass(Command, words.split(), prog="try")
    assert str(refused.value) == line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["", "--output", "b"], "source: expected a path, got ''"),
        (["a", "--output", ""], "--output: expected a path, got ''"),
        (["a", "--output="], "--output: expected a path, got ''"),
    ],
)
def test_an_empty_word_is_no_path(words: list[str], line: str) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        read_dataclass(Command, words, prog="try")
    assert str(refused.value) == line


@pytest.mark.parametrize("words", [["", "--prompt", "x"], ["a", "--mask", ""], ["a", "--like="], ["a", "--output", ""]])
def test_an_empty_word_is_no_path_of_an_editor(words: list[str]) -> None:
    with pytest.raises(ValueError, match="expected a path, got ''"):
        read_request(FORM, words)


def test_the_words_of_a_type_are_those_that_tyro_takes() -> None:
    words = known(Command)
    assert words.flags == ("-h", "--help", "--output", "--method", "--size", "--frames", "--no-steady")
    assert words.subcommands == ()
    assert words.positional == ("source",)
    assert known(runs.Command).subcommands == ("list", "show", "undo")
    given = ["a", "--output", "b", "--method", "second", "--size", "3", "4", "--frames", "5", "--no-steady"]
    done = read_dataclass(Command, given, prog="try")
    assert done == Command(Path("a"), Path("b"), "second", (3, 4), Inner(5, False))


def test_a_word_is_like_those_that_hold_it() -> None:
    assert like("--frames", ("--max-frames", "--steps")) == ["--max-frames"]
    assert like("--x", ("--max-frames",)) == []


@pytest.mark.parametrize(
    ("main", "words", "line"),
    [
        (runs.main, "shwo x", "expected one of list, show, undo, got shwo; perhaps show is meant"),
        (runs.main, "show", "expected run PATH, got none"),
        (world.main, "", "expected one of clip, scene, panorama, photo, edits, got none"),
        (world.main, "clip", "expected out PATH, got none"),
        (
            world.main,
            "clip --output a.mp4",
            "expected flags of csd3d world clip, got --output; perhaps OUT without a flag is meant",
        ),
        (segments.main, "a.png", "expected --output PATH, got none"),
        (translate.main, "aply", "expected one of train, apply, got aply; perhaps apply is meant"),
    ],
)
def test_commands_say_it_in_their_words(main, words: str, line: str) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        main(words.split())
    assert str(refused.value) == line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("a.mp4 --stepz 3", "expected flags of csd3d video, got --stepz; perhaps --steps or --steer is meant"),
        ("a.mp4 --steps many", "--steps: expected a whole number, got many"),
        ("a.mp4 --method dsd", "--method: expected one of cds, csd, csd-edit, dds, sds, got dsd"),
        ("a.mp4 b.mp4", "expected no further words, got b.mp4"),
        ("a.mp4 --prior", "--prior: expected text, got none"),
    ],
)
def test_editors_say_it_in_one_line_too(words: str, line: str) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        read_request(FORM, words.split())
    assert str(refused.value).startswith(line)


@pytest.mark.parametrize(
    ("form", "word", "meant"),
    [
        (FORM, "--text", "--prompt"),
        (FORM, "--instruction", "--prompt"),
        (FORM, "--edit", "--prompt"),
        (FORM, "--caption", "--prompt"),
        (FORM, "-p", "--prompt"),
        (FORM, "--cfg", "--s-text"),
        (FORM, "--guidance-scale", "--s-text"),
        (FORM, "--guidance_scale", "--s-text"),
        (FORM, "--image-guidance-scale", "--s-image"),
        (FORM, "--num-inference-steps", "--steps"),
        (FORM, "--model", "--prior"),
        (FORM, "--out-dir", "--output or --run-dir"),
        (FORM, "-o", "--output"),
        (FORM, "--frames", "--max-frames"),
        (FORM, "--video", "CLIP without a flag"),
        (IMAGE, "--image", "PICTURE without a flag"),
        (IMAGE, "--width", "--size"),
        (GENERATE, "--caption", "--prompt"),
        (GENERATE, "--num-images", "--n"),
        (TRAIN, "--prompt", "--task"),
        (TRAIN, "--batch-size", "--batch"),
    ],
)
def test_what_other_programs_call_a_setting_leads_to_it(form, word: str, meant: str) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        read_request(form, ["a.png", word, "3"] if form.source else [word, "3"])
    assert str(refused.value).endswith(f"got {word}; perhaps {meant} is meant")


def test_the_settings_that_others_name_differently_are_there() -> None:
    flags = {name.replace("_", "-") for form in (FORM, IMAGE, PANORAMA, GENERATE, TRAIN) for name in flags_for(form)}
    assert set(ELSEWHERE) <= flags


def test_a_percentage_or_a_comma_is_no_number_but_nearly() -> None:
    for word in ("30%", "0,3"):
        with pytest.raises(ValueError, match=f"--strength: expected a number, got {word}; perhaps 0.3 is meant"):
            read_request(FORM, ["a.mp4", "--prompt", "make it snowy", "--strength", word])


@pytest.mark.parametrize("command", ["video", "image", "panorama"])
@pytest.mark.parametrize("preview", [[], ["--preview"]])
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["{source}", "--prompt", "make it blue and fluffy"], "does not know 'make it blue and fluffy'"),
        (["{source}", "--prompt", "make it snowy", "--output", "{source}"], "output: expected"),
        (["none.png", "--prompt", "make it snowy"], "none.png, which does not exist"),
    ],
)
def test_no_prior_is_loaded_for_what_cannot_be_done(
    command: str, preview: list[str], words: list[str], line: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr("csd3d.runs.job.load_shared")
    Image.new("RGB", (64, 48), (9, 99, 199)).save("photo.png")
    assert run_command([command, *(word.format(source="photo.png") for word in words), *preview]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert line in error
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_help_still_ends_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        read_dataclass(Command, ["--help"], prog="try")
    assert end.value.code == 0
    assert "How large" in capsys.readouterr().out
