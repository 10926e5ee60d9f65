"""Controls in UNets: what is left behind (nothing), what an empty one changes (nothing), and the algebra in between."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from csd3d.attention import Control, Controllable, Rows, Site, Tokens, choose, read_maps, refine
from csd3d.attention.sites import Kind
from csd3d.engine.schedule import Schedule
from csd3d.engine.types import Batch, Noised
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.networks.sites import controlled, sites_of
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
from tests.priors.tiny import write_tiny_prior

T = 321


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_prior(tmp_path_factory.mktemp("sites") / "t2i", kind="text-to-image", closed=False)


@pytest.fixture(scope="session")
def t2i(directory: Path) -> TextToImagePrior:
    return TextToImagePrior.load(directory, device="cpu")


@pytest.fixture
def x() -> Noised:
    rng = torch.Generator().manual_seed(5)
    z, s, e = (torch.randn(3, 4, 6, 10, generator=rng) for _ in range(3))
    return Schedule.scaled_linear().noised(Batch(z, s, torch.tensor([4, 0, 2])), T, e)


def names(count: int) -> Rows:
    return Rows.of("target", ["text"], range(count), lambda *_: Tokens((), 5), noise=0.3, size_lat=(8, 8))


def tiny_unet(*, checkpointing: bool = False) -> UNet2DConditionModel:
    """In float64, with an attention on every level."""
    torch.manual_seed(3)
    unet = UNet2DConditionModel(
        in_channels=4,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=6,
        attention_head_dim=2,
    ).double()
    if checkpointing:
        unet.enable_gradient_checkpointing()
        unet.train()
    return unet


def call(unet: Any, z: Tensor, text: Tensor) -> Tensor:
    return unet(z, torch.tensor(T), encoder_hidden_states=text, return_dict=False)[0]


def fingerprint(unet: torch.nn.Module) -> list[Any]:
    """All that a control could have changed."""
    found: list[Any] = [AttnProcessor2_0.__call__, Attention.forward]
    for _, module in unet.named_modules():
        found += [len(module._forward_hooks), sorted(module.__dict__), type(module).forward]
        found += [module.processor] if isinstance(module, Attention) else []
    return found


def test_sites_of_stable_diffusion_are_numbered_as_they_are_computed() -> None:
    """The layout of SD 1.x and 2.x, narrow: which block, which level."""
    unet = UNet2DConditionModel(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=2, cross_attention_dim=4, attention_head_dim=2
    )
    kinds: tuple[Kind, ...] = ("self", "cross", "resnet", "output")
    for kind, name in zip(kinds, ("attn1", "attn2"), strict=False):
        found = choose(sites_of(unet), kind=kind)
        assert [site.order for site in found] == list(range(16))
        assert [site.level for site in found] == [0, 0, 1, 1, 2, 2, 3, 2, 2, 2, 1, 1, 1, 0, 0, 0]
        assert [site.place for site in found] == ["down"] * 6 + ["mid"] + ["up"] * 9
        assert found[8].name == f"up_blocks.1.attentions.1.transformer_blocks.0.{name}"
        assert {site.heads for site in found} == {2}
    calls: list[str] = []
    for site in sites_of(unet):
        module = unet.get_submodule(site.name)
        module.register_forward_hook(lambda _m, _a, _o, name=site.name: calls.append(name))
    call(unet, torch.zeros(1, 4, 16, 16), torch.zeros(1, 3, 4))
    for kind in kinds:
        expected = [site.name for site in choose(sites_of(unet), kind=kind)]
        assert [name for name in calls if name in expected] == expected


def test_sites_say_how_large_their_maps_are(t2i: TextToImagePrior) -> None:
    assert Site("a", "self", "up", 0, 2).size((9, 16)) == (3, 4)
    assert [site.level for site in choose(t2i.denoiser.sites, kind="self")] == [1, 1, 1, 1]


@pytest.mark.parametrize("mode", ["none", "empty", "never", "reading"])
def test_what_changes_nothing_changes_no_bit(mode: str, t2i: TextToImagePrior, x: Noised) -> None:
    score = t2i.score(Prompts("a red ball"), Guidance(7.5))
    seen: list[str] = []

    def reads(site: Site, rows: Rows, *values: Tensor) -> Any:
        seen.append(site.name)
        *_, last = values
        return values if len(values) > 1 else last

    nothing: list[Control] = []
    controls = {
        "none": nothing,
        "empty": [Control(score.sites), Control([], weigh=reads)],
        "never": [Control(score.sites, when=lambda rows: False, weigh=reads, leave=reads)],
        "reading": [Control(score.sites, qkv=reads, bias=lambda *_: None, leave=reads)],
    }[mode]
    before, expected = fingerprint(t2i.denoiser._unet), score.target(x)
    with score.controlled(controls):
        got = score.target(x)
        if mode in ("none", "empty"):
            assert fingerprint(t2i.denoiser._unet) == before, "sites without a control are not touched"
    assert torch.equal(got, expected)
    assert fingerprint(t2i.denoiser._unet) == before
    assert bool(seen) == (mode == "reading")


def test_an_exception_leaves_the_same_processors_behind(t2i: TextToImagePrior, x: Noised) -> None:
    score = t2i.score(Prompts("a red ball"), Guidance(7.5))
    before, expected = fingerprint(t2i.denoiser._unet), score.target(x)

    def fails(*_: Any) -> Any:
        raise RuntimeError("on the way")

    for control in (Control(score.sites, weigh=fails), Control(score.sites, leave=fails)):
        with pytest.raises(RuntimeError, match="on the way"), score.controlled([control]):
            score.target(x)
        assert fingerprint(t2i.denoiser._unet) == before
    assert torch.equal(score.target(x), expected)


def test_networks_that_cannot_be_controlled_are_refused(directory: Path, t2i: TextToImagePrior) -> None:
    compiled = TextToImagePrior.load(directory, device="cpu", compiled=True)
    with pytest.raises(ValueError, match="got one that is compiled"), compiled.denoiser.controlled([]):
        pass
    with t2i.denoiser.controlled([]), pytest.raises(ValueError, match="give all controls at once"):
        t2i.denoiser.controlled([]).__enter__()
    unet = tiny_unet()
    (site, *_) = choose(sites_of(unet), kind="self")
    acting = Control([site], weigh=lambda site, rows, A: A)

    class Foreign:
        def __call__(self, *_: Any) -> Any: ...

    attention: Any = unet.get_submodule(site.name)
    attention.set_processor(Foreign())
    with pytest.raises(ValueError, match=r"expected a stock processor at .*, got Foreign"), controlled(unet, [acting]):
        pass
    attention.set_processor(AttnProcessor2_0())
    attention.residual_connection = True
    with pytest.raises(ValueError, match="as in Stable Diffusion"), controlled(unet, [acting]):
        pass
    elsewhere = Control([Site("nowhere", "self", "up", 0, 0, 1)], weigh=lambda site, rows, A: A)
    with pytest.raises(ValueError, match="sites of this prior's UNet, got nowhere"), controlled(unet, [elsewhere]):
        pass
    with pytest.raises(ValueError, match="Stable Diffusion's kind, got Linear"):
        sites_of(torch.nn.Linear(1, 1))


def test_rows_are_named_never_guessed() -> None:
    unet = tiny_unet()
    control = Control(choose(sites_of(unet), kind="self"), weigh=lambda site, rows, A: A)
    with controlled(unet, [control]) as running:
        for rows in (None, names(3)):
            running.rows = rows
            with pytest.raises(ValueError, match="expected the names of the 2 rows"):
                call(unet, torch.zeros(2, 4, 8, 8).double(), torch.zeros(2, 5, 6).double())


def test_many_places_are_refused_where_probabilities_are_wanted() -> None:
    unet = tiny_unet()
    control = Control(choose(sites_of(unet), kind="self", levels=(0,)), weigh=lambda site, rows, A: A)
    with controlled(unet, [control]) as running:
        running.rows = names(1)
        with pytest.raises(ValueError, match=r"at most 32x32 places .* got 1056 x 1056 at down_blocks.0"):
            call(unet, torch.zeros(1, 4, 32, 33).double(), torch.zeros(1, 5, 6).double())


@pytest.mark.parametrize("times", [1, 3])
def test_copies_of_ones_own_keys_and_values_change_nothing(times: int) -> None:
    """Softmax over duplicates."""
    unet = tiny_unet()
    z, text = torch.randn(2, 4, 8, 8).double(), torch.randn(2, 5, 6).double()

    def beside(site: Site, rows: Rows, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return q, k.repeat(1, 1, times + 1, 1), v.repeat(1, 1, times + 1, 1)

    with controlled(unet, [Control(sites_of(unet), qkv=beside)]) as running:
        running.rows = names(2)
        got = call(unet, z, text)
    torch.testing.assert_close(got, call(unet, z, text), atol=1e-12, rtol=1e-12)


def test_every_part_does_what_the_formula_says() -> None:
    """One attention by hand, place by place: logits, bias, probabilities, values, what leaves."""
    unet = tiny_unet()
    (site,) = choose(sites_of(unet), kind="cross", places=("down",))
    attention: Any = unet.get_submodule(site.name)
    x, text = torch.randn(2, 6, 8).double(), torch.randn(2, 5, 6).double()
    bias = torch.randn(2, 1, 6, 5).double()
    control = Control(
        [site],
        qkv=lambda site, rows, q, k, v: (2 * q, k, v + 1),
        bias=lambda site, rows, q, k: bias,
        weigh=lambda site, rows, A: A**2,
        leave=lambda site, rows, x: x - 3,
    )
    with controlled(unet, [control]) as running:
        running.rows = names(2)
        got = attention(x, encoder_hidden_states=text)
    heads, d = attention.heads, 8 // attention.heads
    expected = torch.empty(2, 6, 8).double()
    for i in range(2):
        q, k, v = x[i] @ attention.to_q.weight.T, text[i] @ attention.to_k.weight.T, text[i] @ attention.to_v.weight.T
        for p in range(6):
            parts = []
            for h in range(heads):
                own = slice(h * d, (h + 1) * d)
                logits = torch.stack([2 * q[p, own] @ k[j, own] / d**0.5 + bias[i, 0, p, j] for j in range(5)])
                A = logits.exp() / logits.exp().sum()
                parts.append(sum(A[j] ** 2 * (v[j, own] + 1) for j in range(5)))
            expected[i, p] = attention.to_out[0](torch.cat(parts)) - 3
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_go_through_a_controlled_network(checkpointing: bool) -> None:
    """By differences in float64; the context is left after the gradient."""
    unet = tiny_unet(checkpointing=checkpointing)
    sites = sites_of(unet)
    text, along = torch.randn(2, 5, 6).double(), torch.randn(2, 4, 8, 8).double()
    controls = [
        Control(choose(sites, kind="self"), qkv=lambda site, rows, q, k, v: (q, k.flip(0), v)),
        Control(choose(sites, kind="cross"), weigh=lambda site, rows, A: A**2),
        Control(choose(sites, kind="resnet"), leave=lambda site, rows, x: x.tanh()),
    ]

    def value(z: Tensor) -> Tensor:
        return call(unet, z, text).square().sum()

    z = torch.randn(2, 4, 8, 8).double()
    with controlled(unet, controls) as running:
        running.rows = names(2)
        asked = z.clone().requires_grad_()
        (g,) = torch.autograd.grad(value(asked), asked)
        with torch.no_grad():
            slope = (value(z + 1e-5 * along) - value(z - 1e-5 * along)) / 2e-5
    torch.testing.assert_close((g * along).sum(), slope, atol=0, rtol=1e-6)


@pytest.mark.parametrize("most", [1, 2, 16])
def test_every_row_knows_what_it_is(most: int, t2i: TextToImagePrior, prior: InstructPrior, x: Noised) -> None:
    seen: list[tuple[Any, ...]] = []

    def reads(site: Site, rows: Rows, A: Tensor) -> Tensor:
        said = [" ".join(word.text for word in tokens.words) for tokens in rows.tokens]
        seen.extend(zip([rows.role] * len(rows), rows.branch, rows.particle, said, strict=True))
        assert rows.noise == pytest.approx(T / 1000)
        return A

    for chunks in (*t2i.chunks, *prior.chunks):
        chunks.max_rows = most
    caption = Prompts(["make it night", "turn day into night", "make it snowy"], "cover everything with snow",
                      torch.tensor([0, 0, 1, 2, 2]))  # fmt: skip
    said = {4: "make it snowy", 0: "make it night", 2: "turn day into night"}
    score = t2i.score(caption, Guidance(7.5))
    assert isinstance(score, Controllable)
    with score.controlled([Control(score.sites[:3], weigh=reads)]):
        score.target(x)
        score.source(x)
    assert set(seen) == {("target", "null", i, "") for i in said} | {
        ("target", "text", i, w) for i, w in said.items()
    } | {("source", b, i, w) for i in said for b, w in (("null", ""), ("text", "cover everything with snow"))}
    seen.clear()
    instruct = prior.score(Prompts("make it snowy"), Guidance(7.5, 1.5))
    assert isinstance(instruct, Controllable)
    with instruct.controlled([Control(instruct.sites[:3], weigh=reads)]):
        instruct.target(x)
        instruct.source(x)
    branches = {"target": ("00", "I0", "IT"), "source": ("00", "I0")}
    assert set(seen) == {
        (role, b, i, "make it snowy" if b == "IT" else "") for role in branches for b in branches[role] for i in said
    }
    for chunks in (*t2i.chunks, *prior.chunks):
        chunks.max_rows = None


@pytest.mark.parametrize("role", ["target", "source"])
def test_maps_are_those_of_the_network(role: Any, t2i: TextToImagePrior, x: Noised) -> None:
    """Against the inputs of the attentions, caught by hooks, and the definition."""
    score = t2i.score(Prompts("make the ball red", "make it night"), Guidance(1.0))
    maps = read_maps(score, x, role)
    A, S = maps.cross(role, "text", [4, 0, 2], level=1), maps.within(role, "text", [4, 0, 2], level=1)
    assert A.shape == (3, 16, 3, 5)
    assert S.shape == (3, 15, 15)
    torch.testing.assert_close(A.sum(1), torch.ones(3, 3, 5))
    torch.testing.assert_close(S.sum(2), torch.ones(3, 15))
    unet: Any = t2i.denoiser._unet
    caught: dict[str, list[Tensor]] = {"attn1": [], "attn2": []}
    hooks = []
    for site in choose(score.sites, kind="self") + choose(score.sites, kind="cross"):
        module = unet.get_submodule(site.name)

        def catch(module: Any, arguments: Any, options: Any, name: str = site.name.rsplit(".", 1)[-1]) -> None:
            text = options.get("encoder_hidden_states")
            q, k = module.to_q(arguments[0]), module.to_k(arguments[0] if text is None else text)
            parts = zip(q.chunk(module.heads, 2), k.chunk(module.heads, 2), strict=True)
            heads = [(a @ b.transpose(1, 2) / a.shape[2] ** 0.5).softmax(2) for a, b in parts]
            caught[name].append(torch.stack(heads).mean(0))

        hooks.append(module.register_forward_pre_hook(catch, with_kwargs=True))
    with torch.no_grad():
        score.target(x) if role == "target" else score.source(x)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(S, torch.stack(caught["attn1"]).mean(0), atol=1e-5, rtol=1e-4)
    expected = torch.stack(caught["attn2"]).mean(0).transpose(1, 2).unflatten(2, (3, 5))
    torch.testing.assert_close(A, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(refine(A, torch.eye(15).expand(3, -1, -1)), A)
    torch.testing.assert_close(refine(A, S).sum(1), torch.ones(3, 3, 5))
    assert torch.equal(maps.cross(role, "text", [2], level=1)[0], A[2])
    for branch, particle, level in (("null", 4, 1), ("text", 1, 1), ("text", 4, 0)):
        with pytest.raises(ValueError, match=r"^(attention|maps): expected"):
            maps.cross(role, branch, [particle], level=level)


def test_words_have_the_tokens_that_the_encoder_reads(t2i: TextToImagePrior) -> None:
    cut = t2i.text.tokens("make the ball Red, snowy")
    ids: Sequence[int] = t2i.text._tokenizer("make the ball Red, snowy").input_ids
    assert cut.length == 16
    assert cut.end == len(ids) - 1
    assert "".join(word.text for word in cut.words) == "maketheballred,snowy"
    (ball,) = cut.find("ball")
    assert ids[ball] == t2i.text._tokenizer("ball").input_ids[1]
    assert t2i.text.tokens("") == Tokens((), 16)
    long = t2i.text.tokens("make the ball red " * 20)
    assert long.end == 15, "what is cut off is not there"
