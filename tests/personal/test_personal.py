"""Personal priors: nothing but the adapter learns, files say what was learnt, runs go on where they stopped."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from csd3d.cli.editors import flags_for
from csd3d.cli.main import main
from csd3d.cli.personalise import FORM
from csd3d.engine.config import CsdConfig
from csd3d.personal.adapters import Adapter, NewWord, make_adapter
from csd3d.personal.config import PersonalConfig, Way
from csd3d.personal.job import personal_prior, personalise
from csd3d.personal.subject import find_subject
from csd3d.personal.train import Lesson, Trainer
from csd3d.priors.loading import Loading
from csd3d.priors.networks.sites import readers_of
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.manifest import Manifest
from csd3d.runs.progress import RunProgress
from tests.clips import encode, moving_picture
from tests.priors.tiny import write_tiny_prior
from tests.stopped import Stopped, stopped_once

WAYS: tuple[Way, ...] = ("embedding", "xti", "lora")
QUIET = RunProgress(quiet=True)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of reports and of classes in two steps."""
    monkeypatch.setattr("csd3d.personal.job.SAMPLER_STEPS", 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image prior that was trained at 32 px."""
    return write_tiny_prior(tmp_path_factory.mktemp("prior") / "t2i", kind="text-to-image", closed=False, sample_size=4)


@pytest.fixture(scope="module")
def prior(folder: Path) -> TextToImagePrior:
    return TextToImagePrior.load(folder, device="cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    for k in range(3):
        levels = np.random.default_rng(k).integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(levels).save(path / f"{k}.png")
    return path


def config_for(way: Way, prior: TextToImagePrior, **settings: object) -> PersonalConfig:
    csd = replace(prior.generation("ddim"), t_min=0, t_max=1000)
    plain: dict[str, object] = {"method": way, "csd": csd, "prior": str(prior.path), "batch": 2, "lr": 0.05}
    return PersonalConfig(**(plain | settings))  # pyright: ignore[reportArgumentType]  # settings by name


def trained(prior: TextToImagePrior, config: PersonalConfig, steps: int = 2) -> Adapter:
    s = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    trainer = Trainer(prior, make_adapter(prior, config), config, [Lesson(s, ["a {} ball"] * 3)])
    for k in range(steps):
        trainer.step(k)
    return trainer.adapter


def said(unet: nn.Module, text: Tensor) -> Tensor:
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return unet(z, torch.tensor([300]), encoder_hidden_states=text, return_dict=False)[0]


def test_an_untrained_lora_changes_no_bit(prior: TextToImagePrior) -> None:
    config = config_for("lora", prior)
    text = prior.embed(["a sks ball"])
    adapter = make_adapter(prior, config)
    assert torch.equal(adapter.text(["a {} ball"]), text)
    assert torch.equal(said(adapter.unet, text), said(prior.copy_unet(), text))
    assert adapter.size == 0


@pytest.mark.parametrize("way", WAYS)
def test_gradients_reach_the_adapter_alone(way: Way, prior: TextToImagePrior) -> None:
    config = config_for(way, prior, vectors=1 if way == "lora" else 2)
    before = {name: value.clone() for name, value in prior.copy_unet().state_dict().items()}
    rows: Any = prior.text._encoder.get_input_embeddings()
    table = rows.weight.clone()
    first = {name: p.detach().clone() for name, p in make_adapter(prior, config).parameters.items()}
    adapter = trained(prior, config, steps=1)
    own = {id(p) for p in adapter.parameters.values()}
    others = [p for p in adapter.unet.parameters() if id(p) not in own]
    others += list(adapter._encoder.parameters()) if isinstance(adapter, NewWord) else []
    assert all(p.grad is None for p in others)
    moved = {name: not torch.equal(p, first[name]) for name, p in adapter.parameters.items()}
    assert moved
    assert all(moved.values()) if way != "lora" else all(v == ("lora_B" in name) for name, v in moved.items())
    assert all(torch.equal(value, before[name]) for name, value in prior.copy_unet().state_dict().items())
    assert torch.equal(rows.weight, table)
    assert "<own>" not in prior.text._tokenizer.get_vocab()


@pytest.mark.parametrize("way", WAYS)
def test_what_is_written_is_read_back_as_it_was_learnt(way: Way, prior: TextToImagePrior, tmp_path: Path) -> None:
    config = config_for(way, prior, vectors=1 if way == "lora" else 2)
    adapter = trained(prior, config)
    file = tmp_path / "learnt.safetensors"
    save_file({name: value.detach().contiguous() for name, value in adapter.tensors().items()}, file)
    personal = personal_prior(prior, file, config)
    with torch.no_grad():
        text = adapter.text(["a {} ball"])
    read = personal.embed([f"a {config.word} ball"])
    torch.testing.assert_close(read, text, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(said(personal.copy_unet(), read), said(adapter.unet, text), atol=1e-5, rtol=1e-4)
    plain = said(prior.copy_unet(), prior.embed(["a ball"]))
    assert (said(personal.copy_unet(), read) - plain).abs().max() > 1e-3
    if way != "lora":
        others = personal.embed(["a ball"])
        assert torch.equal(said(personal.copy_unet(), others), plain), "sentences without the word stay as they were"


def test_the_same_vectors_in_all_layers_are_a_plain_embedding(prior: TextToImagePrior, tmp_path: Path) -> None:
    vectors = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    count = len(readers_of(prior.copy_unet()))
    assert count == 5, "four cross-attentions and the text beside the timestep"

    def at(name: str, tensor: Tensor) -> tuple[TextToImagePrior, Tensor]:
        save_file({"<toy>": tensor}, tmp_path / name)
        read = TextToImagePrior.load(prior.path, device="cpu", how=Loading(embedding=(str(tmp_path / name),)))
        return read, read.embed(["a <toy> ball"])

    plain, text = at("plain.safetensors", vectors)
    layered, texts = at("layered.safetensors", vectors.repeat(count, 1, 1))
    assert torch.equal(texts, text.repeat(1, count, 1))
    assert torch.equal(said(layered.copy_unet(), texts), said(plain.copy_unet(), text))
    other = vectors.repeat(count, 1, 1)
    other[2] += 1
    changed, mixed = at("other.safetensors", other)
    assert torch.equal(mixed[:, :32], texts[:, :32])
    assert not torch.equal(mixed[:, 32:48], texts[:, 32:48])
    assert not torch.equal(said(changed.copy_unet(), mixed), said(plain.copy_unet(), text))
    with pytest.raises(ValueError, match="embedding: expected none with vectors for each layer"):
        make_adapter(layered, config_for("embedding", prior))
    with pytest.raises(ValueError, match="expected vectors for 5 layers, got 3"):
        at("few.safetensors", other[:3])


def test_each_layer_reads_its_own_text(prior: TextToImagePrior, tmp_path: Path) -> None:
    save_file({"<toy>": torch.randn(5, 1, 64)}, tmp_path / "toy.safetensors")
    how = Loading(embedding=(str(tmp_path / "toy.safetensors"),))
    unet = TextToImagePrior.load(prior.path, device="cpu", how=how).copy_unet()
    read: list[Tensor] = []
    readers: Any = readers_of(unet)
    for module in (*(cross.to_k for cross in readers[:-1]), readers[-1].norm1):
        module.register_forward_hook(lambda module, inputs, output: read.append(inputs[0]))
    texts = torch.arange(5.0).repeat_interleave(16)[None, :, None].expand(1, 80, 64)
    said(unet, texts)
    assert sorted(float(text.mean()) for text in read) == [0, 1, 2, 3, 4]
    assert all(text.shape == (1, 16, 64) for text in read)
    assert float(read[0].mean()) == 4, "the timestep comes first, and its text is the last"


def test_a_mask_says_where_is_learnt(prior: TextToImagePrior, pictures: Path, tmp_path: Path) -> None:
    config = config_for("embedding", prior)
    s = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))

    def loss(where: Tensor | None) -> float:
        lesson = Lesson(s, ["a {}"] * 2, where)
        return Trainer(prior, make_adapter(prior, config), config, [lesson]).step(0).loss

    left = torch.zeros(2, 1, 4, 4)
    left[..., :1] = 1
    assert loss(torch.ones(2, 1, 4, 4)) == pytest.approx(loss(None), rel=1e-5)
    assert 0.25 * loss(left) + 0.75 * loss(1 - left) == pytest.approx(loss(None), rel=1e-5)
    Image.new("L", (48, 40)).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match="mask: expected the subject in every picture, got a black one"):
        personalise(pictures, replace(config, mask=str(tmp_path / "black.png")), run_dir=tmp_path / "run", prior=prior)
    assert not (tmp_path / "run").exists()


def test_pictures_of_the_class_are_a_lesson_beside_it(prior: TextToImagePrior, pictures: Path, tmp_path: Path) -> None:
    config = config_for("lora", prior, steps=2, class_prompt="a ball", class_pictures=2, rank=2)
    losses: dict[float, bytes] = {}
    for weight in (0.0, 5.0):
        run = tmp_path / str(weight)
        path = personalise(
            pictures, replace(config, preservation=weight), run_dir=run, prior=prior, progress=QUIET
        ).path
        losses[weight] = path.read_bytes()
        assert len(load_file(run / "sources.safetensors")["s"]) == 5
    plain = replace(config, class_prompt=None)
    personalise(pictures, plain, run_dir=tmp_path / "plain", prior=prior, progress=QUIET)
    assert losses[0.0] != losses[5.0]


@pytest.mark.parametrize("way", WAYS)
def test_a_stopped_run_goes_on_to_the_same_bytes(
    way: Way, prior: TextToImagePrior, pictures: Path, tmp_path: Path
) -> None:
    config = config_for(way, prior, steps=4, checkpoint_every=1, source_prompt="a {} ball")
    whole = personalise(pictures, config, run_dir=tmp_path / "whole", prior=prior, progress=QUIET).path

    with stopped_once(Trainer, 2) as calls:
        with pytest.raises(Stopped):
            personalise(pictures, config, run_dir=tmp_path / "parts", prior=prior, progress=QUIET)
        parts = personalise(None, run_dir=tmp_path / "parts", prior=prior, progress=QUIET, resume=True).path
    assert calls == [0, 1, 2, 2, 3]
    assert whole.read_bytes() == parts.read_bytes()
    manifest = Manifest.read(tmp_path / "parts" / "manifest.json")
    assert list(manifest.written) == [str(parts.resolve())]
    assert (tmp_path / "parts" / "report.html").is_file()
    with pytest.raises(ValueError, match="other settings"):
        personalise(None, replace(config, lr=1.0), run_dir=tmp_path / "parts", prior=prior, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["embedding", "lora"])
def test_how_long_it_takes_is_said_before_it_is_done(
    way: Way, folder: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = ["personalise", str(pictures), f"--prior={folder}", "--steps=2", "--batch=1", f"--method={way}"]
    words += ["--class-prompt=a ball", "--class-pictures=1"] if way == "lora" else []
    for name in ("silent", "said"):
        file = tmp_path / f"{name}.safetensors"
        assert main([*words, f"--output={file}", f"--run-dir={tmp_path / name}"]) == 0
        error = capsys.readouterr().err
        assert ("this takes about" in error) == (name == "said")
        monkeypatch.setattr("csd3d.personal.job.LEAST", 1)
        monkeypatch.setattr("csd3d.runs.estimate.LONG_S", 0.0)
    assert error.index("2 steps at") < error.index("train: ")
    silent, said = (load_file(tmp_path / f"{name}.safetensors") for name in ("silent", "said"))
    assert all(torch.equal(value, said[key]) for key, value in silent.items())
    assert "estimated (s)" in Manifest.read(tmp_path / "said" / "manifest.json").numbers


def test_learn_and_use_from_the_command_line(
    folder: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["personalise", str(pictures), "--prior", str(folder), "--steps=1", "--batch=1", "--source-prompt=a {}"]
    words += ["--token=<toy>", "--init=ball", "--method=xti", f"--run-dir={tmp_path / 'run'}"]
    file = tmp_path / "toy.safetensors"
    assert main([*words, f"--output={file}"]) == 0
    assert main(["priors", "show", str(folder), f"--embedding={file}"]) == 0
    assert "'<toy>', 5 x 1 x 64" in capsys.readouterr().out
    made = ["generate", "--prompt=a <toy>", f"--prior={folder}", f"--embedding={file}", "--n=1", "--method=ddim"]
    look = ["--steps=1", "--attention=reweight:word=<toy>,scale=1.5"]
    assert main([*made, *look, f"--run-dir={tmp_path / 'made'}"]) == 0
    entry = json.loads((tmp_path / "made" / "manifest.json").read_text())["prior"]["added"]
    assert [e["path"] for e in entry] == [str(file)]
    assert main([*made, "--steps=1", "--attention=structure", f"--run-dir={tmp_path / 'no'}"]) == 2
    assert "structure: expected words that all layers read alike" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"token": "ball"}, "token: expected a word that the prior does not have, such as <own>, got 'ball"),
        ({"token": "two words"}, "token: expected one word, got 'two words'"),
        ({"init": "snowy night"}, "init: expected a word of one token, got 'snowy night'"),
        ({"source_prompt": "a ball"}, "source_prompt: expected a caption with {} for the subject, got 'a ball'"),
        ({"class_prompt": "a ball"}, "class_prompt: expected none but with --method lora"),
        ({"method": "lora", "vectors": 2}, "vectors: expected none with --method lora"),
        ({"source_prompt": "a ball " * 8 + "and {}"}, "captions: expected {} within the 16 tokens that are read, got"),
        ({"quantise": "fp8"}, "quantise: expected none where a prior learns"),
        ({"size": 36}, "size: expected a multiple of 8 px, got 36"),
        ({"lr": 0.0}, "lr: expected a number above 0"),
    ],
)
def test_what_cannot_be_is_refused(
    settings: dict[str, object], message: str, prior: TextToImagePrior, pictures: Path, tmp_path: Path
) -> None:
    def learn() -> None:
        config = config_for("embedding", prior, **settings)
        personalise(pictures, config, run_dir=tmp_path / "run", prior=prior, progress=QUIET)

    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        learn()
    assert not (tmp_path / "run").exists()


def test_words_of_the_built_in_prior_are_joined_by_the_new_one() -> None:
    prior = TextToImagePrior.load("builtin:t2i", device="cpu")
    adapter = make_adapter(prior, PersonalConfig(init="golden"))
    with torch.no_grad():
        assert torch.equal(adapter.text(["A {} ball, on grass."]), prior.embed(["a golden ball, on grass"]))


def test_a_subject_is_a_folder_a_scene_a_clip_or_a_picture(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "transforms.json").write_text(
        json.dumps({"frames": [{"file_path": str(pictures / f"{k}.png")} for k in (2, 0, 1)]})
    )
    found = {name: find_subject(path, 2) for name, path in (("folder", pictures), ("scene", tmp_path))}
    assert [p.name for p in found["folder"].files] == ["0.png", "1.png", "2.png"]
    assert [p.name for p in found["scene"].files] == ["2.png", "1.png"]
    encode(tmp_path / "clip.mkv", moving_picture(7, 24, 32), codec="ffv1")
    clip = find_subject(tmp_path / "clip.mkv", 3)
    assert (clip.files, clip.frames, clip.reads) == ((), (0, 3, 6), (tmp_path / "clip.mkv",))
    assert clip.squares(16).shape == (3, 3, 16, 16)
    Image.new("L", (32, 24), 255).save(tmp_path / "white.png")
    torch.testing.assert_close(clip.masks(tmp_path / "white.png", 16), torch.ones(3, 1, 16, 16))
    one = find_subject(pictures / "1.png", 2)
    assert one.squares(16).shape == (1, 3, 16, 16)
    assert one.masks(pictures / "0.png", 16).shape == (1, 1, 16, 16)
    (tmp_path / "transforms.json").write_text("{}")
    with pytest.raises(ValueError, match="expected frames with a file_path"):
        find_subject(tmp_path, 2)


def test_settings_are_flags_and_of_the_engine_those_that_count(capsys: pytest.CaptureFixture[str]) -> None:
    flags = flags_for(FORM)
    assert {f.name for f in fields(PersonalConfig)} - {"csd"} <= set(flags)
    assert all(flag.help for flag in flags.values())
    assert {f.name for f in fields(CsdConfig)} & set(flags) == {"t_min", "t_max", "s_text", "steps", "lr"}
    assert main(["personalise", "--help"]) == 0
    page = capsys.readouterr().out
    assert "--coupling" not in page
    assert page.index("--token") < page.index("--t-min")
