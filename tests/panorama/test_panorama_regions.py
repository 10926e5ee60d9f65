"""Sentences hold where they should, shade into each other, and outside of a mask nothing changes by a single bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from panorama_toys import load, save, scenery, toy_edit

from csd3d.engine.config import CsdConfig
from csd3d.media.pictures.read import open_picture
from panorama import PanoramaConfig
from panorama.regions import Everywhere, MaskFile, Plan, Sentence, Span, make_plan, parse_masked, parse_span

CSD = CsdConfig(steps=20, lr=0.3, t_min=400, t_max=600)
CONFIG = PanoramaConfig(csd=CSD, wrap="none")


def at(*x):
    x = torch.tensor(x)
    return x, torch.full_like(x, 0.5)


def test_a_span_is_one_inside_and_zero_outside_and_neighbours_sum_to_one():
    left, right = Span(0.0, 0.5, soft=0.1), Span(0.5, 1.0, soft=0.1)
    x, y = at(0.0, 0.2, 0.39, 0.45, 0.5, 0.55, 0.61, 0.99)
    a, b = left.weight(x, y), right.weight(x, y)
    assert torch.allclose(a + b, torch.ones(8), atol=1e-6)
    assert a.tolist()[:3] == [1, 1, 1]
    assert a[4] == pytest.approx(0.5)
    assert a.tolist()[6:] == [0, 0]
    middle = Span(0.4, 0.6, soft=0.05).weight(*at(0.3, 0.5, 0.7))
    assert middle.tolist() == [0, 1, 0]


def test_a_span_over_the_seam():
    span = Span(0.8, 0.3, soft=0.05, wraps=True)
    x, y = at(0.0, 0.99, 0.9, 0.2, 0.5, 0.6)
    assert span.weight(x, y).tolist() == pytest.approx([1, 1, 1, 1, 0, 0], abs=1e-5)
    rest = Span(0.3, 0.8, soft=0.05, wraps=True)
    x, y = at(*torch.linspace(0, 0.999, 101).tolist())
    assert torch.allclose(span.weight(x, y) + rest.weight(x, y), torch.ones(101), atol=1e-5)


def test_a_mask_file_is_taken_level_by_level(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (6, 9), dtype=np.uint8)
    mask = MaskFile.read(save(tmp_path / "m.png", levels), 6, 9)
    y, x = torch.meshgrid((torch.arange(6) + 0.5) / 6, (torch.arange(9) + 0.5) / 9, indexing="ij")
    assert torch.allclose(mask.weight(x, y), torch.from_numpy(levels).float() / 255)
    larger = MaskFile.read(tmp_path / "m.png", 60, 90)
    assert larger.smooth
    with pytest.raises(ValueError, match="aspect"):
        MaskFile.read(tmp_path / "m.png", 60, 60)


@pytest.mark.parametrize("wraps", [False, True])
def test_a_feather_fades_in_from_the_border_inwards_and_over_the_seam(tmp_path, wraps):
    levels = np.zeros((8, 32), np.uint8)
    levels[:, :16] = 255
    path = save(tmp_path / "m.png", levels)
    hard, soft = (MaskFile.read(path, 8, 32, feather_px=f, wraps=wraps).levels[0, 0, 4] for f in (0.0, 3.0))
    assert (soft[hard == 0] == 0).all()
    assert soft[12:16].flip(0).tolist() == pytest.approx([0.25, 0.5, 0.75, 1], abs=0.02)
    assert soft[:3].tolist() == pytest.approx([0.25, 0.5, 0.75] if wraps else [1, 1, 1], abs=0.02)
    smaller = MaskFile.read(path, 16, 64, feather_px=6.0, wraps=wraps).levels[0, 0, 4]
    assert torch.equal(smaller, soft)  # of the picture's pixels, whatever the mask's size


def test_shares_of_a_plan():
    a, b, c = (Sentence("a", Everywhere()), Sentence("b", Span(0.0, 0.5, 0.0)), Sentence("c", Span(0.3, 0.6, 0.0)))
    x, y = at(0.1, 0.4, 0.55, 0.9)
    assert torch.allclose(
        Plan((a, b, c)).shares(x, y),
        torch.tensor([[0.0, 0, 0, 1], [1, 0.5, 0, 0], [0, 0.5, 1, 0]]),
    )
    none = Plan((b, c), base=None)
    assert none.shares(x, y)[:, 3].tolist() == [0, 0]
    assert none.strength(x, y).tolist() == [1, 1, 1, 0]
    assert Plan((a,), mask=Span(0.0, 0.5, 0.0)).strength(x, y).tolist() == [1, 1, 0, 0]


def test_what_people_write():
    assert parse_span('0.25, 0.5=make it "red" = now') == (0.25, 0.5, 'make it "red" = now')
    assert parse_masked("a=b.png=make it red") == (Path("a=b.png"), "make it red")
    for text in ("0,1", "0=x", "0,2=x", "a,b=x", "0.5,0.5=x", "0,1= ", "nan,1=x"):
        with pytest.raises(ValueError, match="prompt-at"):
            parse_span(text)
    for text in ("mask.png", "=x", "m.png="):
        with pytest.raises(ValueError, match="prompt-mask"):
            parse_masked(text)
    sizes = {"height_px": 4, "width_px": 8}
    with pytest.raises(ValueError, match="expected a sentence"):
        make_plan(None, (), (), None, **sizes, wraps=False)
    plan = make_plan(None, ("0.8,0.2=x",), (), None, **sizes, wraps=True)
    assert plan.base is None
    assert make_plan("x", (), (), None, **sizes, wraps=False).everywhere


@pytest.mark.parametrize("region", ["mask", "span"])
def test_a_sentence_that_holds_nowhere_is_said(tmp_path, region):
    picture = save(tmp_path / "a.png", scenery(40, 200))
    black = save(tmp_path / "black.png", np.zeros((40, 200, 3), np.uint8))
    empty, full = {"prompt_mask": (f"{black}=make it dark",)}, {"prompt_at": ("0,1=make it dark",)}
    config = replace(CONFIG, **(empty if region == "mask" else full))
    notes = toy_edit(picture, tmp_path / "run", "make it red", config=config).notes
    [note] = [note for note in notes if "holds nowhere" in note]
    assert note.startswith("'make it dark'" if region == "mask" else "'make it red'")


@pytest.mark.parametrize("wrap", ["none", "cylinder", "sphere"])
@pytest.mark.parametrize("bits", [8, 16])
def test_outside_the_mask_every_bit_stays(tmp_path, wrap, bits):
    import cv2

    array = scenery(48, 96 if wrap == "sphere" else 150, wraps=True)
    path = tmp_path / "a.png"
    if bits == 16:
        noise = np.random.default_rng(0).integers(0, 256, array.shape, dtype=np.uint16)
        cv2.imwrite(str(path), (array.astype(np.uint16) * 256 + noise)[:, :, ::-1])
    else:
        save(path, array)
    mask = np.zeros(array.shape[:2], np.uint8)
    mask[10:40, 20:60] = 255
    mask[20:30, 30:50] = 1  # barely, but not nothing
    save(tmp_path / "m.png", mask)
    config = replace(CONFIG, wrap=wrap, mask=str(tmp_path / "m.png"), csd=replace(CSD, steps=5))
    result = toy_edit(path, tmp_path / "run", config=config, output=tmp_path / "out.png")
    before, after = (open_picture(p).pixels.astype(int) for p in (path, result.path))
    assert np.array_equal(after[mask == 0], before[mask == 0])
    scale = 1 if bits == 8 else 257
    assert np.abs(after - before)[mask == 255].mean() > 8 * scale
    assert np.abs(after - before)[mask == 1].mean() < 2 * scale


def test_masks_for_sentences_mix_them(tmp_path):
    array = scenery(40, 160)
    path = save(tmp_path / "a.png", array)
    ramp = np.repeat(np.linspace(0, 255, 160).astype(np.uint8)[None], 40, 0)
    save(tmp_path / "right.png", ramp)
    config = replace(CONFIG, prompt_mask=(f"{tmp_path / 'right.png'}=make it red",))
    result = toy_edit(path, tmp_path / "run", "make it dark", config=config)
    change = (load(result.path).astype(float) - array).mean(0)[:, 0]  # red of the columns
    assert change[:30].mean() < -20
    assert change[-30:].mean() > 20
    thirds = change.reshape(8, 20).mean(1)
    assert (np.diff(thirds) > -5).all()


def test_a_black_mask_is_a_mistake(tmp_path):
    path = save(tmp_path / "a.png", scenery(40, 80))
    save(tmp_path / "m.png", np.zeros((40, 80), np.uint8))
    with pytest.raises(ValueError, match="nothing to edit"):
        toy_edit(path, tmp_path / "run", config=replace(CONFIG, mask=str(tmp_path / "m.png")))
    assert not (tmp_path / "run").exists()
