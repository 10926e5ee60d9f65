"""The history of prompts: what training sees, undo, checkpoints and the files."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from csd3d.nerf.edit_history import EditHistory
from csd3d.nerf.masks import read_masks


def grey(level: float) -> torch.Tensor:
    return torch.full((3, 6, 8), level)


def history_of(count: int = 5) -> EditHistory:
    """Black photographs, called a, b, c ..."""
    return EditHistory(torch.zeros(count, 3, 6, 8), "abcdefgh"[:count])


def test_training_sees_the_latest_edit_rounded_to_eight_bits() -> None:
    history = history_of()
    history.begin("snow")
    history.record(2, grey(0.3))
    assert torch.equal(history.current(2), grey(round(0.3 * 255) / 255))
    assert torch.equal(history.current(1), grey(0))
    history.begin("snow")  # the same prompt again goes on
    assert history.prompts == ("snow",)


def test_a_further_prompt_starts_from_what_was_seen_and_undo_brings_that_back() -> None:
    history = history_of()
    history.begin("snow")
    history.record(0, grey(0.2))
    history.begin("night")
    assert torch.equal(history.source(0), grey(0.2))
    assert torch.equal(history.source(1), grey(0))
    history.record(0, grey(0.8))
    history.record(1, grey(0.6))
    assert history.undo() == {0, 1}
    assert torch.equal(history.current(0), grey(0.2))
    assert torch.equal(history.current(1), grey(0))
    assert history.latest is not None
    assert history.latest.prompt == "snow"
    assert history.reset() == {0}
    assert history.latest is None
    assert history.undo() == set()


def test_a_prompt_is_partial_until_it_has_edited_every_view() -> None:
    history = history_of(2)
    assert not history.is_partial(None)
    history.begin("snow")
    assert not history.is_partial("snow")
    history.record(0, grey(0.2))
    assert history.is_partial("snow")
    assert not history.is_partial("night")
    history.record(1, grey(0.2))
    assert not history.is_partial("snow")


def test_a_state_comes_back_to_the_bit(tmp_path: Path) -> None:
    history = history_of()
    history.begin("snow", "grass", "dds")
    history.record(4, torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(0)))
    torch.save(history.state(), tmp_path / "state")
    other = history_of()
    other.load(torch.load(tmp_path / "state", weights_only=True))
    assert other.edits == history.edits


def test_edits_of_other_views_are_refused() -> None:
    history_of().require_same_views(history_of().identities())
    with pytest.raises(ValueError, match="others: 5 and 4 views"):
        history_of().require_same_views(history_of(4).identities())
    with pytest.raises(ValueError, match="others: a, 8x6 px and b, 8x6 px"):
        EditHistory(torch.zeros(1, 3, 6, 8), ["a"]).require_same_views(["b, 8x6 px"])


def test_pictures_follow_edits_and_undo(tmp_path: Path) -> None:
    history = history_of(3)
    history.begin("snow")
    history.record(1, grey(0.5))
    history.publish([1])
    assert not list(tmp_path.iterdir())  # nobody said where
    history.publish_in(tmp_path)
    assert Image.open(tmp_path / "b.png").getpixel((0, 0)) == (128, 128, 128)
    assert (tmp_path / "sheet.png").is_file()
    assert not (tmp_path / "a.png").exists()
    history.publish(history.undo())
    assert not (tmp_path / "b.png").exists()
    assert not (tmp_path / "sheet.png").exists()


def test_masks_are_kept_published_as_mask_dir_reads_them_and_taken_back(tmp_path: Path) -> None:
    history = EditHistory(torch.zeros(3, 3, 6, 8), "abc", ["left/a", "left/b", "right/a"])
    masks = torch.rand(3, 1, 6, 8, generator=torch.Generator().manual_seed(0)) > 0.5
    history.begin("snow")
    assert history.latest is not None
    assert history.latest.masks is None  # nothing was sought yet
    history.record_masks(masks)
    history.record(1, grey(0.5))
    history.publish_in(tmp_path / "edited_views")
    assert torch.equal(read_masks(tmp_path / "masks", ["left/a", "left/b", "right/a"], 6, 8), masks)
    again = EditHistory(torch.zeros(3, 3, 6, 8), "abc")
    again.load(history.state())
    assert again.masks is not None
    assert torch.equal(again.masks, masks)
    history.begin("night")
    history.record_masks(None)
    assert history.masks is None
    assert history.latest.masks == {}  # sought, and none
    again.load(history.state())
    assert again.latest is not None
    assert again.latest.masks == {}
    history.publish([])
    assert not [path for path in (tmp_path / "masks").rglob("*") if path.is_file()]
    history.undo()
    history.publish([])
    assert torch.equal(read_masks(tmp_path / "masks", ["left/a", "left/b", "right/a"], 6, 8), masks)


def test_checkpoints_from_before_there_were_masks_load() -> None:
    history = history_of(1)
    history.begin("snow")
    (state,) = history.state()
    del state["masks"]
    history.load([state])
    assert history.masks is None
