"""A prior over several GPUs, without any: which layer lies where, that hooks carry tensors between GPUs which have no
memory, that they change no value, and what is refused.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from csd3d.attention.presets import Attention
from csd3d.priors.auto import load_prior
from csd3d.priors.families.record import network_of
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.loading import Loading
from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.store import placement, savings
from csd3d.priors.store.placement import layers_of, place, size_bytes, spread
from csd3d.runs.mask_words import read_words
from csd3d.runs.sampling import score_of_edit
from tests.priors.families.tiny import write_family
from tests.priors.no_memory import GPUS, memoryless
from tests.priors.test_priors_savings import target
from video.config import VideoConfig
from video.follow import readable

BALANCED = Loading(device_map="balanced")


@pytest.fixture(scope="module")
def kontext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family("kontext", tmp_path_factory.mktemp("families") / "kontext")


@pytest.fixture
def all_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three GPUs, whose tensors are on the CPU."""
    monkeypatch.setattr(placement, "gpu_of", lambda number: torch.device("cpu"))
    monkeypatch.setattr(savings, "require_gpus", lambda device: None)
    monkeypatch.setattr(savings, "free_bytes", lambda: dict.fromkeys(range(3), 10**9))


def test_cards_are_filled_in_order_and_evenly() -> None:
    sizes = {f"layer{i}": 10 for i in range(9)}
    assert list(place(sizes, {0: 1000, 1: 1000, 2: 1000}).values()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert list(place(sizes, {1: 40, 0: 80}).values()) == [1, 1, 1, 0, 0, 0, 0, 0, 0], "each by its room"
    assert place({"a": 10, "b": 90}, {0: 20, 1: 90}) == {"a": 0, "b": 1}


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"device-map: expected room for 3 GB of weights, got 2\.5 GB on 2 GPUs"):
        place({"a": 2 * 10**9, "b": 10**9}, {0: 10**9, 1: 15 * 10**8})
    whole = (
        r"room for 3 GB of weights in layers of up to 2 GB \(a\), which stay whole, got 3\.1 GB: 1\.6, 1\.5 on 2 GPUs"
    )
    with pytest.raises(ValueError, match=whole):
        place({"a": 2 * 10**9, "b": 10**9}, {0: 16 * 10**8, 1: 15 * 10**8})


def test_every_weight_lies_on_a_card_and_blocks_stay_whole(tiny: Path) -> None:
    unet: Any = InstructPrior.load(tiny, device="cpu").denoiser._unet
    layers = layers_of(unet)
    assert sum(layers.values()) == size_bytes(unet)
    assert all(
        any(name == path or name.startswith(f"{path}.") for path in layers) for name, _ in unet.named_parameters()
    )
    inside = [path for path in layers if ".resnets." in path]
    assert inside
    assert all(path.rsplit(".", 2)[-2] == "resnets" for path in inside)


def test_a_unet_over_two_gpus_mixes_no_devices(tiny: Path) -> None:
    config = dict(InstructPrior.load(tiny, device="cpu").denoiser._unet.config)
    with memoryless():
        unet: Any = UNet2DConditionModel.from_config(config)
        unet.requires_grad_(False)
        gpus = spread({"unet": unet}, [], main=GPUS[1], free=dict.fromkeys(range(2), 2 * size_bytes(unet)))
        assert gpus == GPUS[::-1], "the GPU of latents first"
        assert {p.device for p in unet.parameters()} == set(GPUS)
        x = torch.empty(3, 8, 8, 8, device=GPUS[1])
        text = torch.empty(3, 16, config["cross_attention_dim"], device=GPUS[1])
        with torch.no_grad():
            out = unet(x, torch.zeros((), device=GPUS[1]), encoder_hidden_states=text, return_dict=False)[0]
        assert (out.device, out.shape) == (GPUS[1], (3, 4, 8, 8))


@pytest.mark.usefixtures("all_on_cpu")
@pytest.mark.parametrize("quantise", ["none", "fp8"])
def test_hooks_change_no_value(quantise: Any, tiny: Path, kontext: Path) -> None:
    plain = Loading(quantise=quantise)
    spread_out = Loading(quantise=quantise, device_map="balanced")
    for path in (tiny, kontext):
        one, several = (load_prior(path, device="cpu", how=how) for how in (plain, spread_out))
        assert torch.equal(target(several), target(one))
        assert several.decode(several.encode(torch.rand(1, 3, 64, 64))).isfinite().all()
        network = network_of(several.pipe) if hasattr(several, "pipe") else several.denoiser._unet  # pyright: ignore[reportAttributeAccessIssue]
        assert len(network.hf_device_map) > 3


@pytest.mark.usefixtures("all_on_cpu")
def test_controls_of_attention_are_refused_with_it(tiny: Path) -> None:
    prior = load_prior(tiny, device="cpu", how=BALANCED)
    score = prior.score(Prompts("make it snowy"), Guidance(1.0, 1.0))
    with pytest.raises(ValueError, match=r"attention: expected none .* with --device-map balanced"):
        prior.attended(score, Attention(share="anchors"))
    with pytest.raises(ValueError, match="mask-words: expected none with --device-map balanced, got 'the ball'"):
        read_words("the ball", Prompts("make it snowy"), prior, editor=prior)
    with pytest.raises(ValueError, match="motion: expected flow with --device-map balanced, got features"):
        readable(prior, Prompts("make it snowy"))
    assert prior.attended(score, Attention()) is score
    score_of_edit(prior, Prompts("make it snowy"), VideoConfig(csd=prior.defaults()))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (Loading(device_map="balanced", offload=True), "offload: expected none with --device-map balanced"),
        (Loading(device_map="balanced", quantise="nf4"), "quantise: expected none or fp8 with --device-map balanced"),
        (Loading(device_map="balanced", control=("edge", "x")), "control: expected none with --device-map balanced"),
    ],
)
def test_settings_that_contradict_it(how: Loading, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        how.check()


def test_one_card_is_refused_before_weights_are_read(tiny: Path) -> None:
    with pytest.raises(ValueError, match="device-map: balanced expected two GPUs or more, found"):
        load_prior(tiny, device="cpu", how=BALANCED)


def test_a_call_is_planned_by_the_fullest_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {GPUS[0]: 1000, GPUS[1]: 500}
    monkeypatch.setattr("csd3d.priors.networks.chunks._free_bytes", free.__getitem__)
    assert Chunks(GPUS[0], also=GPUS[1:]).rows(100) == 4
    assert Chunks(GPUS[0]).rows(100) == 8
