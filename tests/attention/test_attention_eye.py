"""Hidden states along motion: loops written from the definition, what must be exactly equal, and refusals."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from csd3d.attention.attended import AttendedScore, anchors_of
from csd3d.attention.compositions import KvFusion
from csd3d.attention.eye import EyeForEye, at_size
from csd3d.attention.presets import Attention, parse
from csd3d.engine import Batch, Noised, Schedule
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
from panorama import PanoramaConfig, edit_image
from tests.priors.tiny import write_tiny_prior
from video import VideoConfig, edit_video

T = 500


class Shifted:
    """Particle j shows what particle i does, 2 (j - i) latents further to the right."""

    def __init__(self, by: float = 2.0, sure: float = 1.0) -> None:
        self.by, self.sure = by, sure

    def __call__(self, i: int, index: Tensor) -> tuple[Tensor, Tensor]:
        y, x = torch.meshgrid(torch.arange(8) + 0.5, torch.arange(8) + 0.5, indexing="ij")
        moves = [self.by * (j - int(index[i])) for j in index.tolist()]
        return torch.stack([torch.stack([x + move, y], -1) for move in moves]), torch.full(
            (len(index), 8, 8), self.sure
        )


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> TextToImagePrior:
    folder = write_tiny_prior(tmp_path_factory.mktemp("eye") / "t2i", kind="text-to-image", closed=False)
    loaded = TextToImagePrior.load(folder, device="cpu")
    unet: Any = loaded.denoiser._unet
    for name, module in unet.named_modules():
        if name.endswith(("to_q", "to_k", "to_v")):
            module.weight.data *= 6  # random attentions look everywhere alike
    return loaded


def step(n: int, t: int = T) -> Noised:
    rng = torch.Generator().manual_seed(5)
    z, s, e = (torch.randn(n, 4, 8, 8, generator=rng) for _ in range(3))
    return Schedule.scaled_linear().noised(Batch(z, s, torch.arange(n)), t, e)


def score_of(prior: TextToImagePrior) -> Any:
    return prior.score(Prompts("a red ball", "a ball"), Guidance(3.0))


def test_places_at_the_size_of_a_site() -> None:
    position, v = Shifted(4.0)(0, torch.tensor([0, 1]))
    position[1, 0, 0] = torch.nan
    places, known = at_size(position, v, (4, 4))
    assert places[0].tolist() == list(range(16))
    assert known[0].all()
    assert known[1].view(4, 4)[1].tolist() == [True, True, False, False], "what leaves the picture is not known"
    assert places[1].view(4, 4)[1, :2].tolist() == [6, 7]


def test_latents_that_are_not_known_move_no_place() -> None:
    """Of the four latents of the first place one is hidden, and said to stay: the others decide where it is."""
    position, v = Shifted(6.0)(0, torch.tensor([0, 1]))
    position[1, 0, 0], v[1, 0, 0] = torch.tensor([0.5, 0.5]), 0.0
    places, known = at_size(position, v, (4, 4))
    assert known[1, 0]
    assert places[1, 0] == 3
    position[1, :2, 0], v[1, :2, 0] = torch.nan, 0.0
    places, known = at_size(position, v, (4, 4))
    assert not known[1, 0], "half is not enough"
    v[1, 0, 1] = 0.0
    v[1, 1, 0], position[1, 1, 0] = 1.0, torch.tensor([6.5, 1.5])
    assert not at_size(position, v, (4, 4))[1][1, 0]


def test_it_is_its_definition(prior: TextToImagePrior) -> None:
    """One row at a time: anchors first, whose hidden states a hook keeps, then the others with theirs moved."""
    x, unet, kept = step(6), prior.denoiser._unet, dict[tuple[int, int, str], Tensor]()
    anchors = anchors_of(x).tolist()
    assert anchors == [0, 2, 3, 5]

    def call(i: int, branch: int, *, moved: bool) -> Tensor:
        def before(name: str) -> Any:
            def hook(module: Any, args: Any, kwargs: Any) -> Any:
                h = args[0]
                if not moved:
                    kept[i, branch, name] = h
                    return None
                changed = h.clone()
                for p in range(16):  # of 4 x 4 places; a shift of 2 latents is one of them
                    known = [a for a in anchors if 0 <= p % 4 + (a - i) < 4]
                    if known:
                        a = min(known, key=lambda a: abs(a - i))
                        changed[0, p] = kept[a, branch, name][0, p + (a - i)]
                return (changed, *args[1:]), kwargs

            return hook

        named: Any = dict(unet.named_modules())
        hooks = [
            module.register_forward_pre_hook(before(name), with_kwargs=True)
            for name, module in named.items()
            if name.startswith("up_blocks") and name.endswith("attn1")
        ]
        text = prior.text.encode([("", "a red ball")[branch]])
        with torch.no_grad():
            network: Any = unet
            out = network(x.z_t[i : i + 1], torch.tensor(T), encoder_hidden_states=text).sample
        for hook in hooks:
            hook.remove()
        return out

    for a in anchors:
        for branch in (0, 1):
            call(a, branch, moved=False)
    expected = []
    for i in range(6):
        null, text = (call(i, branch, moved=i not in anchors) for branch in (0, 1))
        expected.append(null + 3.0 * (text - null))
    score = score_of(prior)
    got = AttendedScore(score, (EyeForEye(correspondences=Shifted()),)).target(x)
    torch.testing.assert_close(got, torch.cat(expected), atol=1e-3, rtol=1e-3)
    assert (got - score.target(x))[[1, 4]].abs().max() > 1e-2
    torch.testing.assert_close(got[anchors], score.target(x)[anchors], atol=1e-4, rtol=1e-4)


def test_what_nobody_knows_changes_nothing(prior: TextToImagePrior) -> None:
    x, score = step(6), score_of(prior)
    unsure = AttendedScore(score, (EyeForEye(correspondences=Shifted(sure=0.4)),))
    torch.testing.assert_close(unsure.target(x), score.target(x), atol=1e-4, rtol=1e-4)
    for t in (950, 200):
        late = AttendedScore(score, (EyeForEye(correspondences=Shifted()),))
        assert torch.equal(late.target(step(6, t)), score.target(step(6, t)))


@pytest.mark.parametrize("shares", [False, True])
def test_pieces_and_order_change_nothing(prior: TextToImagePrior, shares: bool) -> None:
    x = step(6)
    eye = EyeForEye(correspondences=Shifted())
    score = AttendedScore(score_of(prior), (KvFusion(), eye), shares=shares)
    whole = score.for_step(x)
    target, source = whole.target(x), whole.source(x)
    again = score.for_step(x)
    for part, all_of in ((again.target, target), (again.source, source)):
        alone = torch.cat([part(x.rows([i])) for i in range(6)])
        torch.testing.assert_close(alone, all_of, atol=1e-3, rtol=1e-3)
    for chunks in prior.chunks:
        chunks.max_rows = 2
    torch.testing.assert_close(score.for_step(x).target(x), target, atol=1e-3, rtol=1e-3)
    for chunks in prior.chunks:
        chunks.max_rows = None


def test_clips_take_it_and_others_do_not(prior: TextToImagePrior, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    field = np.kron(rng.integers(0, 255, (8, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    for k in range(6):
        Image.fromarray(np.roll(field, 2 * k, 1)).save(tmp_path / f"{k}.png")
    csd = replace(prior.defaults(), steps=4, s_text=2.0)
    config = VideoConfig(
        csd=csd, prior=str(prior.path), source_prompt="a ball", size=64, attention=("eye:after=0,until=1",)
    )

    def edit(name: str, config: VideoConfig, **more: Any) -> np.ndarray:
        run = tmp_path / f"run-{name}"
        edit_video(tmp_path / "?.png", "a red ball", tmp_path / name, config, run_dir=run, prior=prior, **more)
        return np.stack([np.array(Image.open(path)) for path in sorted((tmp_path / name).glob("*.png"))])

    whole = edit("whole", config)
    assert config.csd is not None
    edit("parts", replace(config, csd=replace(config.csd, steps=2)))
    assert np.array_equal(edit("parts", config, resume=True), whole)
    assert not np.array_equal(edit("without", replace(config, attention=())), whole)
    assert parse("eye:until=0.5") == EyeForEye(until=0.5)
    assert Attention.of("none", ("eye",)).follows
    picture = PanoramaConfig(csd=csd, prior=str(prior.path), source_prompt="a ball", attention=("eye",))
    with pytest.raises(ValueError, match="eye: expected frames of a clip"):
        edit_image(tmp_path / "0.png", "a red ball", None, picture, run_dir=tmp_path / "p", prior=prior)
