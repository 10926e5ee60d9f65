"""What every prior promises: its size, its settings, what it refuses, and what is said of prompts."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from csd3d.attention.presets import Attention
from csd3d.engine.config import METHODS, CsdConfig
from csd3d.engine.stein import RbfKernel
from csd3d.engine.types import Batch
from csd3d.priors.auto import load_prior
from csd3d.priors.defaults import GenerateMethod, Particle, default_config, generation_config, trained_side_lat
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.loading import Loading
from csd3d.priors.prior import Codec, Guidance, Prior, Prompts
from csd3d.priors.store.resolve import resolve
from csd3d.priors.text_to_image import TextToImagePrior
from tests.priors.families.tiny import write_family
from tests.priors.tiny import write_tiny_prior
from tests.toys import ToyPrior


@pytest.fixture(scope="module")
def t2i(tmp_path_factory: pytest.TempPathFactory) -> TextToImagePrior:
    return TextToImagePrior.load(
        write_tiny_prior(tmp_path_factory.mktemp("priors") / "t2i", kind="text-to-image", closed=False), device="cpu"
    )


def test_a_prior_without_a_score_is_none() -> None:
    class Dumb(Prior):
        kind = "instruct"

    with pytest.raises(TypeError, match="abstract"):
        Dumb()  # pyright: ignore[reportAbstractUsage, reportCallIssue]


def test_codecs_are_codecs(prior: InstructPrior) -> None:
    assert isinstance(prior.codec, Codec)
    assert isinstance(ToyPrior().codec, Codec)


@pytest.mark.parametrize(
    ("sample_size", "side"),
    [(8, 8), ([8, 12], 8), ([12, 8], 8), ((8, 8), 8), (None, None), (0, None), (True, None), ([8, None], None),
     ([], None), ("8", None), (8.0, None)],
)  # fmt: skip
def test_the_side_a_unet_was_trained_at(sample_size: object, side: int | None) -> None:
    assert trained_side_lat({"sample_size": sample_size}) == side
    assert trained_side_lat({}) is None


@pytest.mark.parametrize(("sample_size", "px"), [(None, 512), (8, 64), ([8, 12], 64), ([12, 8], 64)])
def test_the_size_of_a_prior(tmp_path: Path, sample_size: int | list[int] | None, px: int) -> None:
    directory = write_tiny_prior(tmp_path / "prior", sample_size=sample_size)  # pyright: ignore[reportArgumentType]
    assert InstructPrior.load(directory, device="cpu").native_px == px


def test_defaults_suit_the_kind(prior: InstructPrior, t2i: TextToImagePrior) -> None:
    assert prior.defaults() == prior.defaults("csd-edit") == replace(METHODS["csd-edit"], lr=0.45)
    assert prior.defaults(of="frames") == replace(METHODS["csd-edit"], lr=0.08)
    assert t2i.defaults() == default_config(builtin=False, kind="text-to-image")
    assert t2i.defaults("dds") == default_config("dds", builtin=False, kind="text-to-image")
    assert replace(prior, builtin=True).defaults() == default_config(builtin=True)


def test_settings_for_making_pictures_start_from_noise() -> None:
    for builtin in (True, False):
        csd, sds, ddim = (generation_config(method, builtin=builtin) for method in get_args(GenerateMethod))
        assert (csd.coupling, sds.coupling, csd.residual, sds.residual) == ("svgd", "independent", "noise", "noise")
        assert (ddim.steps, ddim.s_text) == (50, 7.5), "as the pipeline of Stable Diffusion takes them"


def test_an_editor_refuses_a_source_prompt(prior: InstructPrior) -> None:
    prompts = Prompts("make it snowy", source="a ball")
    for refused in (
        lambda: prior.score(prompts, Guidance(7.5, 1.5)),
        lambda: prior.require(METHODS["csd-edit"], prompts),
        lambda: prior.score_under(METHODS["csd-edit"], prompts),
    ):
        with pytest.raises(ValueError, match="source-prompt: expected none, an instruction editor reads"):
            refused()


@pytest.mark.parametrize("method", ["dds", "cds", "csd-edit"])
def test_a_text_to_image_model_wants_what_it_compares_with(t2i: TextToImagePrior, method: str) -> None:
    with pytest.raises(ValueError, match=r"source-prompt: expected what the source shows, .*only sds and csd can do"):
        t2i.score_under(METHODS[method], Prompts("a ball"))
    t2i.require(METHODS[method], Prompts("a ball", "a cube"))
    for free in ("sds", "csd"):
        t2i.score_under(METHODS[free], Prompts("a ball"))
    with pytest.raises(ValueError, match="source-prompt"):
        t2i.require(replace(METHODS["sds"], regulariser="patch-nce"), Prompts("a ball"))


def test_layers_that_are_not_there_are_refused(t2i: TextToImagePrior, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in t2i.denoiser._unet.up_blocks:
        if hasattr(block, "attentions"):
            monkeypatch.setattr(block, "attentions", torch.nn.ModuleList())
    with pytest.raises(ValueError, match="nce_layers: expected layers that the prior's UNet has"):
        t2i.require(METHODS["cds"], Prompts("a ball", "a cube"))
    t2i.require(METHODS["dds"], Prompts("a ball", "a cube"))


def test_guidance_is_that_of_the_settings() -> None:
    assert Guidance.of(METHODS["csd-edit"]) == Guidance(7.5, 1.5)


def test_settings_suit_priors_of_other_numbers_of_timesteps(tmp_path: Path) -> None:
    path = write_tiny_prior(tmp_path / "short")
    scheduler = path / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace('"num_train_timesteps": 1000', '"num_train_timesteps": 100'))
    assert resolve(path).num_timesteps == 100
    prior = InstructPrior.load(path)
    suited = prior.defaults()
    assert (suited.t_min, suited.t_max) == (2, 50)
    prior.score_under(suited, Prompts("make it snowy"))
    with pytest.raises(ValueError, match="t_max: expected at most 100, the number of timesteps of this prior, got 500"):
        prior.score_under(METHODS["csd-edit"], Prompts("make it snowy"))  # before anything is encoded


@pytest.mark.parametrize(("n", "lr", "of"), [(24, 1.0, "frames"), (8, 2.0, "windows")])
def test_a_step_of_a_big_editor_is_as_long_as_the_published_one(n: int, lr: float, of: Particle) -> None:
    """Where all particles want the same: published, sum_j K_ij r / N times lr; here the learning rate times r."""
    x = torch.randn(n, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    (bands,) = RbfKernel("paper")(torch.ones_like(x), x, torch.arange(n))
    published = lr * float(bands.weights.sum(1).mean()) / n
    assert default_config(builtin=False, of=of).lr == pytest.approx(published, rel=0.05)


def test_a_source_has_a_scale_of_its_own(tiny: Path, t2i: TextToImagePrior) -> None:
    s = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    x = t2i.schedule.noised(Batch(s, s, torch.arange(1)), 300, s.flip(-1))
    t2i = TextToImagePrior.load(t2i.path, device="cpu")  # other tests change the one that all share
    prompts = Prompts("a cat", "a dog")
    one, other, both = (t2i.score(prompts, g) for g in (Guidance(5.0), Guidance(5.0, 1.0, 2.0), Guidance(2.0)))
    assert torch.equal(one.target(x), other.target(x))
    assert torch.equal(other.source(x), both.source(x))
    assert not torch.equal(one.source(x), other.source(x))
    editor = InstructPrior.load(tiny, device="cpu")
    with pytest.raises(
        ValueError, match="s-source: expected none, the source of an instruction editor has no text, got 2"
    ):
        editor.require(CsdConfig(s_source=2.0), Prompts("make it snowy"))


def test_what_attention_looks_at_in_the_source_is_predicted(tiny: Path, t2i: TextToImagePrior) -> None:
    looks, editor = Attention.of("none", ("pnp",)), InstructPrior.load(tiny, device="cpu")
    captions, sentence = Prompts("a cat", "a dog"), Prompts("make it snowy")
    for w, source in ((5.0, 1.0), (5.0, 0.0), (1.0, 0.0)):
        with pytest.raises(ValueError, match=f"^s-source: expected other than {source:g}, .* beside --s-text {w:g}$"):
            t2i.score_under(CsdConfig(s_text=w, s_source=source), captions, looks)
    with pytest.raises(ValueError, match=r"^s-image: expected other than 0, .*, got 0 beside --s-text 5$"):
        editor.score_under(CsdConfig(s_text=5.0, s_image=0.0), sentence, looks)
    for w, source in ((5.0, 2.0), (1.0, 1.0), (0.0, 0.0), (1.0, 2.0)):
        t2i.score_under(CsdConfig(s_text=w, s_source=source), captions, looks)
    t2i.score_under(CsdConfig(s_text=5.0, s_source=1.0), captions)
    editor.score_under(CsdConfig(s_text=5.0, s_image=1.0), sentence, looks)


def test_what_the_published_code_shows_an_editor_is_fainter(tiny: Path) -> None:
    s = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    plain, faint = (InstructPrior.load(tiny, device="cpu", how=Loading(scaled_condition=b)) for b in (False, True))
    torch.testing.assert_close(faint.condition(s), plain.codec.scaling * plain.condition(s))
    x = plain.schedule.noised(Batch(s, s, torch.arange(1)), 300, s.flip(-1))
    a, b = (p.score(Prompts("make it snowy"), Guidance(2.0, 1.5)).target(x) for p in (plain, faint))
    assert not torch.allclose(a, b, atol=1e-3)


def test_a_fainter_picture_is_shown_to_nobody_else(t2i: TextToImagePrior, tmp_path: Path) -> None:
    how, wanted = Loading(scaled_condition=True), "scaled-condition: expected InstructPix2Pix of Stable Diffusion"
    with pytest.raises(ValueError, match=f"{wanted} 1 or 2, got a text-to-image model$"):
        load_prior(t2i.path, device="cpu", how=how)
    klein = write_family("klein", tmp_path / "klein")
    with pytest.raises(ValueError, match=rf"{wanted} 1 or 2, got FLUX.2 \[klein\]$"):
        load_prior(klein, device="cpu", how=how)
