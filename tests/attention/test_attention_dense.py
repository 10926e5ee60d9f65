"""Dense text-to-image: the formula by loops, what must be exactly equal, and regions as a person writes them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from csd3d.attention import Bank, Rows, Site
from csd3d.attention.attended import AttendedScore
from csd3d.attention.dense import Dense, Regions
from csd3d.attention.layout import Box
from csd3d.attention.presets import Attention, parse
from csd3d.engine import Batch, Noised, Schedule
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
from panorama.generate import generate
from panorama.generate_config import GenerateConfig
from panorama.phrases import parse_regions, regions_of
from panorama.windows import make_windows
from tests.priors.tiny import write_tiny_prior

CAPTION = "a red ball and a night snow"
PHRASES = ("a red ball", "night snow")


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> TextToImagePrior:
    folder = tmp_path_factory.mktemp("dense") / "t2i"
    write_tiny_prior(folder, kind="text-to-image", closed=False, sample_size=4)
    loaded = TextToImagePrior.load(folder, device="cpu")
    unet: Any = loaded.denoiser._unet
    for name, module in unet.named_modules():
        if name.endswith(("to_q", "to_k")):
            module.weight.data *= 6  # random attentions look everywhere alike
    return loaded


def step(t: int = 900, n: int = 3) -> Noised:
    rng = torch.Generator().manual_seed(5)
    z, s, e = (torch.randn(n, 4, 8, 8, generator=rng) for _ in range(3))
    return Schedule.scaled_linear().noised(Batch(z, s, torch.randperm(n, generator=rng)), t, e)


def regions(n: int = 3) -> Regions:
    masks = torch.zeros(n, 2, 8, 8)
    masks[:, 0, :, :4] = 1
    masks[:, 1, 4:, 6:] = 1
    masks[1] = masks[1].flip(2)
    return Regions(PHRASES, masks)


def test_the_bias_is_the_papers(prior: TextToImagePrior) -> None:
    tokens = prior.score(Prompts(CAPTION), Guidance(3.0)).read("target")[0]
    rng = torch.Generator().manual_seed(3)
    dense = Dense(regions=regions())
    blank = prior.score(Prompts(""), Guidance(1.0)).read("target")[0]
    rows = Rows("target", ("null", "text", "text"), (1, 1, 2), (blank, tokens, tokens), 0.9, (8, 8))
    controls = dense.take(prior.score(Prompts(CAPTION), Guidance(1.0)), Bank(), (8, 8))
    for kind, m, w in (("cross", tokens.length, 1.0), ("self", 16, 0.3)):
        q, k = torch.randn(3, 2, 16, 5, generator=rng), torch.randn(3, 2, m, 5, generator=rng)
        (control,) = [c for c in controls if c.sites[0].kind == kind]
        assert control.bias is not None
        got = control.bias(Site("x", "cross" if kind == "cross" else "self", "up", 0, 1, 2), rows, q, k)
        assert got is not None
        assert torch.equal(got[0], torch.zeros_like(got[0])), "a row that reads no phrase"
        for row, flipped in ((1, True), (2, False)):
            place = {p: 1 if (p % 4 < 2) != flipped else 2 if p // 4 >= 2 and (p % 4 == (0 if flipped else 3)) else 0
                     for p in range(16)}  # fmt: skip
            key = (
                place
                if kind == "self"
                else {
                    j: next((r + 1 for r, phrase in enumerate(PHRASES) if j in tokens.places(phrase)), 0)
                    for j in range(m)
                }
            )
            for h in range(2):
                for i in range(16):
                    L = [float(q[row, h, i] @ k[row, h, j]) / 5**0.5 for j in range(m)]
                    S = sum(place[p] == place[i] for p in range(16)) / 16
                    for j in range(m):
                        R = place[i] == key[j] and (kind == "self" or key[j] > 0)
                        M = w * 0.9**5 * (1 - S) * ((max(L) - L[j]) if R else -(L[j] - min(L)))
                        assert abs(float(got[row, h, i, j]) - M) < 1e-4


def test_a_region_that_is_all_of_the_picture_changes_nothing(prior: TextToImagePrior) -> None:
    x, score = step(), prior.score(Prompts(CAPTION), Guidance(3.0))
    everything = Dense(regions=Regions(("red ball",), torch.ones(3, 1, 8, 8)))
    got = AttendedScore(score, (everything,)).target(x)
    torch.testing.assert_close(got, score.target(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("t", "acts"), [(701, True), (699, False)])
def test_it_acts_near_noise_and_its_strength_counts(prior: TextToImagePrior, t: int, acts: bool) -> None:
    x, score = step(t), prior.score(Prompts(CAPTION), Guidance(3.0))
    got = AttendedScore(score, (Dense(power=1.0, regions=regions()),)).target(x)
    assert torch.equal(got, score.target(x)) != acts
    off = AttendedScore(score, (Dense(cross=0.0, within=0.0, regions=regions()),)).target(x)
    assert torch.equal(off, score.target(x))


def test_pieces_and_order_change_nothing(prior: TextToImagePrior) -> None:
    x, score = step(), AttendedScore(prior.score(Prompts(CAPTION), Guidance(3.0)), (Dense(regions=regions()),))
    whole = score.target(x)
    assert (whole - score.score.target(x)).abs().max() > 1e-3
    alone = torch.cat([score.target(x.rows([i])) for i in (2, 0, 1)])
    torch.testing.assert_close(alone, whole[[2, 0, 1]], atol=1e-3, rtol=1e-3)
    for chunks in prior.chunks:
        chunks.max_rows = 2
    torch.testing.assert_close(score.target(x), whole, atol=1e-3, rtol=1e-3)
    for chunks in prior.chunks:
        chunks.max_rows = None


def test_places_of_regions() -> None:
    masks = torch.zeros(1, 2, 8, 8)
    masks[0, 0, :, :4] = 1
    masks[0, 1, 7, 7] = 1  # covers no half of any place of 2 x 2
    numbers = Regions(("a", "b"), masks).numbers([0, 0], (2, 2))
    assert numbers.tolist() == [[1, 0, 1, 2]] * 2


def test_regions_as_a_person_writes_them(tmp_path: Path) -> None:
    mask = tmp_path / "left, half.png"
    Image.fromarray(np.repeat(np.array([[255, 0]], np.uint8), 4, 0)).save(mask)
    texts = (f"{mask}=a red ball", "0.5,0,1,0.5=a cube")
    assert parse_regions(texts) == [(mask, "a red ball"), (Box(0.5, 0.0, 1.0, 0.5), "a cube")]
    windows = make_windows(2, (4, 8), 4, wrap=False)
    found = regions_of(texts, windows, (4, 8))
    assert found is not None
    assert found.phrases == ("a red ball", "a cube")
    assert found.masks.shape == (len(windows), 2, 4, 4)
    assert found.masks[0, :, 0].tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]
    assert regions_of((), windows, (4, 8)) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ball", "region: expected mask.png="),
        ("0,0,0,1=ball", "region: expected left,top,right,bottom"),
        ("=ball", "region"),
    ],
)
def test_what_makes_no_sense_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        GenerateConfig(region=(text,))
    assert "\n" not in str(error.value)


def test_what_cannot_be_served_is_refused(prior: TextToImagePrior) -> None:
    score = prior.score(Prompts(CAPTION), Guidance(1.0))
    assert parse("dense:cross=2,until=0.5") == Dense(cross=2.0, until=0.5)
    with pytest.raises(ValueError, match="expected dense beside regions"):
        Attention.of("none", ("dense",))
    with pytest.raises(ValueError, match=r"expected dense with cross=\.\.\., within="):
        parse("dense:regions=1")
    with pytest.raises(ValueError, match="dense: expected regions"):
        AttendedScore(score, (Dense(),))
    with pytest.raises(ValueError, match="word: expected one of the prompt"):
        AttendedScore(score, (Dense(regions=Regions(("a fish",), torch.ones(1, 1, 2, 2))),))


@pytest.mark.parametrize("method", ["ddim", "csd"])
def test_pictures_have_regions(prior: TextToImagePrior, tmp_path: Path, method: Any) -> None:
    mask = tmp_path / "mask.png"
    Image.fromarray(np.repeat(np.array([[255, 255, 0, 0]], np.uint8), 4, 0)).save(mask)
    csd = replace(prior.generation(method), steps=2)
    always = ("dense:until=1",)
    config = GenerateConfig(csd=csd, prior=str(prior.path), method=method, n=2)

    def made(name: str, config: GenerateConfig) -> Tensor:
        result = generate(CAPTION, tmp_path / f"{name}.png", config, run_dir=tmp_path / name, prior=prior)
        return torch.stack([torch.from_numpy(np.array(Image.open(path))).float() for path in result.outputs])

    parts = replace(config, region=(f"{mask}=a red ball", "0.5,0,1,1=night snow"), attention=always)
    assert (made("parts", parts) - made("plain", config)).abs().max() > 0
    with pytest.raises(FileNotFoundError):
        made("gone", replace(config, region=("none.png=a red ball",)))
    assert not (tmp_path / "gone").exists()
