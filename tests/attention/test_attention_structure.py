"""Structure Diffusion: values of phrases, against loops; what must be equal; that it needs no source."""

from typing import Any

import pytest
import torch
from torch import Tensor

from csd3d.attention import Attention, Rows, Site, Tokens
from csd3d.attention.attended import AttendedScore
from csd3d.attention.bank import Bank
from csd3d.attention.presets import parse
from csd3d.attention.structure import StructureDiffusion
from csd3d.engine import Batch, Noised, Schedule
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
from tests.priors.tiny import write_tiny_prior

CAPTION = "a red ball and a snowy cover"


@pytest.fixture(scope="module")
def t2i(tmp_path_factory: pytest.TempPathFactory) -> TextToImagePrior:
    folder = write_tiny_prior(tmp_path_factory.mktemp("structure") / "t2i", kind="text-to-image", closed=False)
    return TextToImagePrior.load(folder, device="cpu")


def step() -> Noised:
    z, e = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    return Schedule.scaled_linear().noised(Batch(z, z, torch.arange(2)), 500, e)


def read(prior: TextToImagePrior, groups: str, y: Tensor) -> tuple[Tensor, Tensor]:
    """What keys and values are made of."""
    score: Any = prior.score(Prompts(CAPTION), Guidance(6.0))
    (control,) = StructureDiffusion(groups).take(score, Bank(), (8, 8))
    rows = Rows.of(
        "target", ["null", "text"], [0], lambda b, _: score.read("target")[0] if b == "text" else Tokens((), 16),
        noise=0.5, size_lat=(8, 8),
    )  # fmt: skip
    assert control.text is not None
    return control.text(Site("any", "cross", "up", 0, 1, 2), rows, y, y)


def test_values_are_means_over_the_caption_and_its_phrases(t2i: TextToImagePrior) -> None:
    own, null = t2i.embed([CAPTION, ""])
    y = torch.stack([null, own])
    for groups, placed in (
        ("", {"a red ball": (1, 2, 3), "a snowy cover": (7, 8, 9)}),
        ("red ball", {"red ball": (2, 3)}),
    ):
        k, v = read(t2i, groups, y)
        assert torch.equal(k, y), "keys are the caption's"
        assert torch.equal(v[0], null), "without a caption there are no phrases"
        every = [own.clone() for _ in range(1 + len(placed))]
        for one, (phrase, places) in zip(every[1:], placed.items(), strict=True):
            alone = t2i.embed([phrase])[0]
            for token, place in enumerate(places, start=1):
                one[place] = alone[token]
        torch.testing.assert_close(v[1], torch.stack(every).mean(0))


def test_it_acts_and_leaves_no_trace(t2i: TextToImagePrior) -> None:
    x, score = step(), t2i.score(Prompts(CAPTION, "a ball"), Guidance(6.0))
    plain = score.target(x)
    attended = Attention.of("none", ("structure",)).over(score)
    assert isinstance(attended, AttendedScore)
    got = attended.target(x)
    assert (got - plain).abs().max() > 1e-4
    for chunks in t2i.chunks:
        chunks.max_rows = 1
    torch.testing.assert_close(attended.target(x), got, atol=1e-5, rtol=1e-4)
    for chunks in t2i.chunks:
        chunks.max_rows = None
    assert torch.equal(score.target(x), plain)
    with score.controlled(Attention.of("none", ("structure",)).alone(score, (8, 8))):
        torch.testing.assert_close(score.target(x), got)


def test_a_phrase_that_is_the_whole_caption_changes_nothing(t2i: TextToImagePrior) -> None:
    score = t2i.score(Prompts("a red ball"), Guidance(6.0))
    attended: Any = Attention.of("none", ("structure",)).over(score)
    torch.testing.assert_close(attended.target(step()), score.target(step()), atol=1e-5, rtol=1e-5)


def test_what_cannot_be_served_is_one_line(t2i: TextToImagePrior) -> None:
    assert parse("structure:groups=red ball | snowy cover") == StructureDiffusion("red ball | snowy cover")
    with pytest.raises(ValueError, match="structure: expected things in the prompt"):
        Attention.of("none", ("structure",)).over(t2i.score(Prompts("a photo"), Guidance(1.0)))
    score = t2i.score(Prompts(CAPTION), Guidance(1.0))
    for attention in (Attention.of("none", ("pnp",)), Attention.of("anchors", ("structure",))):
        with pytest.raises(ValueError, match="attention: expected one of reweight, structure, sag, like, dense"):
            attention.alone(score, (8, 8))
    assert Attention().alone(score, (8, 8)) == []
