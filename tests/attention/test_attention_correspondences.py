"""Matches by features: known shifts exactly, a loop written from the definition, and refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor

from csd3d.attention import correspondences
from csd3d.attention.correspondences import features, matches
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
from tests.priors.tiny import write_tiny_prior


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> TextToImagePrior:
    folder = write_tiny_prior(tmp_path_factory.mktemp("correspondences") / "t2i", kind="text-to-image", closed=False)
    return TextToImagePrior.load(folder, device="cpu")


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (3, 0), (-2, 1), (5, -4)])
def test_a_known_shift_is_found_exactly(dx: int, dy: int) -> None:
    """What is at p in the first picture is at p + (dx, dy) in the second."""
    wide = torch.randn(32, 18, 22, generator=torch.Generator().manual_seed(1))
    first, second = wide[:, 4:14, 5:17], wide[:, 4 - dy : 14 - dy, 5 - dx : 17 - dx]
    there, known, back, back_known = matches(first, second)
    rows, columns = torch.arange(10)[:, None], torch.arange(12)[None]
    for move, sure, sign in ((there, known, 1), (back, back_known, -1)):
        x, y = columns + sign * dx, rows + sign * dy
        inside = (x >= 0) & (x < 12) & (y >= 0) & (y < 10)
        assert sure[inside].all()
        assert (move[inside] == sign * torch.tensor([dx, dy])).all()
        assert not sure[~inside].all() or inside.all()


def test_a_return_to_the_next_place_is_known_and_one_further_is_not() -> None:
    """Places 0, 1, 2 of the first all look like place 1 of the second, which looks most like place 1."""
    f = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.2, 0.0, 0.3, 0.4]])[:, None]
    g = torch.tensor([[-1.0, 1.0, -1.0, -1.0], [0.0, 0.0, 0.1, 0.2]])[:, None]
    there, known, _, _ = matches(f, g)
    assert there[0, :, 0].tolist() == [1, 0, -1, -2]
    assert known[0].tolist() == [True, True, True, False]


def test_features_are_their_definition(prior: TextToImagePrior, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correspondences, "NOISES", 1)
    s = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    score: Any = prior.score(Prompts(""), Guidance(1.0))
    got = features(score, s, torch.arange(2), level=1, seed=3)
    unet: Any = prior.denoiser._unet
    blocks = unet.up_blocks[len(unet.up_blocks) - 2].resnets
    e = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(3))
    t = int(0.26 * prior.schedule.num_timesteps)
    text = prior.text.encode([""])

    def of(latents: Tensor) -> list[Tensor]:
        left = list[Tensor]()
        hooks = [b.conv2.register_forward_hook(lambda module, args, out: left.append(out)) for b in blocks]
        ab = prior.schedule.alpha_bar(t)
        with torch.no_grad():
            unet(ab**0.5 * latents[None] + (1 - ab) ** 0.5 * e, torch.tensor(t), encoder_hidden_states=text)
        for hook in hooks:
            hook.remove()
        return left

    for i in range(2):
        flat = torch.zeros_like(s[i]) + s[i].mean((1, 2), keepdim=True)
        parts = [own - plain for own, plain in zip(of(s[i]), of(flat), strict=True)]
        expected = torch.cat([part / part.square().sum(1, keepdim=True).sqrt() for part in parts], 1)[0]
        torch.testing.assert_close(got[i], expected, atol=1e-4, rtol=1e-3)


def test_pictures_do_not_depend_on_each_other_and_other_levels_are_refused(prior: TextToImagePrior) -> None:
    s = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    score: Any = prior.score(Prompts(""), Guidance(1.0))
    together = features(score, s, torch.arange(3), level=0, seed=0)
    for i in range(3):
        alone = features(score, s[i : i + 1], torch.tensor([i]), level=0, seed=0)
        torch.testing.assert_close(alone[0], together[i], atol=1e-4, rtol=1e-3)
    with pytest.raises(ValueError, match="features: expected a decoder with maps that were halved 7 times, got none"):
        features(score, s, torch.arange(3), level=7, seed=0)
