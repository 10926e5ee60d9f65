"""Fields of the page become words that the command line takes, and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from csd3d.cli.editors import preview_path, read_request
from csd3d.cli.panorama import IMAGE, PANORAMA
from csd3d.cli.video_form import FORM as VIDEO
from csd3d.ui.request import AT_ONCE, Asked, editor_for, first_look_in, words_of
from panorama.edit import ImageEditor, PanoramaEditor
from video.edit import VideoEditor


@pytest.mark.parametrize(
    ("name", "size", "editor"),
    [("a.png", (64, 48), "image"), ("b.jpg", (200, 100), "panorama"), ("c.tif", (48, 64), "image")],
)
def test_pictures_are_edited_by_their_shape(tmp_path: Path, name: str, size: tuple[int, int], editor: str) -> None:
    Image.new("RGB", size).save(tmp_path / name)
    assert editor_for(tmp_path / name) == editor


def test_clips_are_edited_by_their_name(tmp_path: Path) -> None:
    assert [editor_for(tmp_path / name) for name in ("a.MP4", "b.webm", "c.gif")] == ["video"] * 3


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"expected a clip or a picture, got notes\.txt"):
        editor_for(tmp_path / "notes.txt")


def test_words_say_what_was_filled_in(tmp_path: Path) -> None:
    asked = Asked(
        tmp_path / "a.png", " make it snowy ", "image", "builtin", "quick", 0.5, 3, 7, str(tmp_path / "m.png")
    )
    command, *words = words_of(asked)
    request, extras = read_request(IMAGE, words)
    config = request.config
    assert (command, extras["picture"], request.prompt) == ("image", tmp_path / "a.png", "make it snowy")
    assert (config.strength, config.engine.steps, config.seed) == (0.5, 3, 7)
    assert config.mask == str(tmp_path / "m.png")


def test_a_thing_that_is_named_is_where_the_mask_is_found(tmp_path: Path) -> None:
    words = words_of(Asked(tmp_path / "a.png", "make the ball red", "image", mask_words="the ball"))
    config = read_request(IMAGE, words[1:])[0].config
    assert (config.mask, config.mask_words) == (None, "the ball")


def test_the_caption_of_the_source_is_passed_on(tmp_path: Path) -> None:
    words = words_of(Asked(tmp_path / "a.png", "a red ball, at night", "image", source_prompt="a red ball"))
    assert read_request(IMAGE, words[1:])[0].config.source_prompt == "a red ball"


def test_stopping_is_a_setting_that_a_run_may_be_resumed_with(tmp_path: Path) -> None:
    request, _ = read_request(IMAGE, [str(tmp_path / "a.png"), "--prompt=x", AT_ONCE])
    assert request.config.engine.tolerance == 1
    for editor in (ImageEditor, PanoramaEditor, VideoEditor):
        assert "csd.tolerance" in editor.free_on_resume


def test_a_first_look_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    source, look = tmp_path / "a.png", tmp_path / "look.png"
    words = [*words_of(Asked(source, "make it snowy", "image"))[1:], *first_look_in(look)]
    for request, extras in (read_request(IMAGE, words), read_request(PANORAMA, words), read_request(VIDEO, words)):
        assert extras["preview"] is True
        assert preview_path(replace(request, source=source)) == look


def test_fields_left_alone_have_the_commands_defaults(tmp_path: Path) -> None:
    words = words_of(Asked(tmp_path / "a.png", "make it snowy", "panorama"))
    plain = read_request(PANORAMA, [str(tmp_path / "a.png"), "--prompt", "make it snowy"])[0]
    assert read_request(PANORAMA, words[1:])[0] == plain


def test_a_sentence_cannot_pass_for_a_flag(tmp_path: Path) -> None:
    words = words_of(Asked(tmp_path / "a.png", "--output=/etc/passwd", "image"))
    request, _ = read_request(IMAGE, words[1:])
    assert (request.prompt, request.output) == ("--output=/etc/passwd", None)


def test_no_sentence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="prompt: expected a sentence"):
        words_of(Asked(tmp_path / "a.png", "  ", "image"))
