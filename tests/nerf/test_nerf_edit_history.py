"""Layers of prompts: what training sees, undo, and the files."""

import torch
from PIL import Image

from csd3d.nerf.edit_history import Layers


def grey(level: float) -> torch.Tensor:
    return torch.full((3, 6, 8), level)


def test_training_sees_the_topmost_edit_rounded_to_eight_bits() -> None:
    layers = Layers()
    layers.start("snow")
    seen = layers.put(2, grey(0.3))
    assert torch.equal(seen, torch.full((3, 6, 8), round(0.3 * 255) / 255))
    now = layers.seen(2)
    assert now is not None
    assert torch.equal(now, seen)
    assert layers.seen(1) is None
    layers.start("snow")  # the same prompt again is the same layer
    assert layers.history == ("snow",)


def test_a_further_prompt_starts_from_what_was_seen_and_undo_brings_that_back() -> None:
    layers = Layers()
    layers.start("snow")
    first = layers.put(0, grey(0.2))
    layers.start("night")
    below = layers.seen(0, below_top=True)
    assert below is not None
    assert torch.equal(below, first)
    layers.put(0, grey(0.8))
    layers.put(1, grey(0.6))
    assert layers.undo() == {0, 1}
    again = layers.seen(0)
    assert again is not None
    assert torch.equal(again, first)
    assert layers.seen(1) is None
    assert layers.prompt == "snow"
    assert layers.reset() == {0}
    assert layers.prompt is None
    assert layers.undo() == set()


def test_a_state_comes_back_to_the_bit(tmp_path) -> None:
    layers = Layers()
    layers.start("snow")
    layers.put(4, torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(0)))
    torch.save(layers.state(), tmp_path / "state")
    other = Layers()
    other.load(torch.load(tmp_path / "state", weights_only=True))
    assert other.layers == layers.layers


def test_pictures_follow_edits_and_undo(tmp_path) -> None:
    layers, names = Layers(), ["a", "b", "c"]
    photographs = torch.zeros(3, 3, 6, 8)
    layers.start("snow")
    layers.put(1, grey(0.5))
    layers.write(tmp_path, names, photographs, [1])
    assert Image.open(tmp_path / "b.png").getpixel((0, 0)) == (128, 128, 128)
    assert (tmp_path / "sheet.png").is_file()
    assert not (tmp_path / "a.png").exists()
    changed = layers.undo()
    layers.write(tmp_path, names, photographs, changed)
    assert not (tmp_path / "b.png").exists()
    assert not (tmp_path / "sheet.png").exists()
