"""Translation networks: they begin as nothing, learn what the gradient says, go on where they stopped, are applied."""

import json
import math
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from csd3d.cli.main import main
from csd3d.cli.translate import read_tasks
from csd3d.engine.config import METHODS, PAPER
from csd3d.engine.step import StepResult
from csd3d.media.geometry import read_square
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.checkpoint import load_checkpoint, save_checkpoint
from csd3d.runs.manifest import Manifest
from csd3d.runs.progress import RunProgress
from csd3d.translate import train as training
from csd3d.translate.apply import load_trained
from csd3d.translate.config import TranslateConfig
from csd3d.translate.job import train_network, with_residual
from csd3d.translate.network import make_translator
from csd3d.translate.train import Trainer
from tests.priors.families.tiny import write_family
from tests.priors.tiny import write_tiny_prior
from tests.stopped import Stopped, stopped_once

TASKS = {"night": "{}, at night", "blue": "a blue ball"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image prior that was trained at 32 px."""
    return write_tiny_prior(tmp_path_factory.mktemp("prior") / "t2i", kind="text-to-image", closed=False, sample_size=4)


@pytest.fixture(scope="module")
def prior(folder: Path) -> TextToImagePrior:
    return TextToImagePrior.load(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    for k in range(3):
        levels = np.random.default_rng(k).integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(levels).save(path / f"{k}.png")
    (path / "captions.json").write_text(json.dumps({f"{k}.png": f"a ball {k}" for k in range(3)}))
    return path


def test_an_untrained_network_changes_nothing_and_begins_with_the_captions(prior: TextToImagePrior) -> None:
    network = make_translator(prior, list(TASKS.values()))
    s = torch.randn(2, 4, 4, 4)
    assert torch.equal(network(s, torch.tensor([0, 1])), s)
    torch.testing.assert_close(network.text.detach(), prior.embed(["at night", "a blue ball"]))
    table = network.state_dict()["unet.time_proj.weight"]
    assert torch.equal(table[0], table[1])
    torch.testing.assert_close(table[:1], prior.denoiser._unet.time_proj(torch.tensor([500.0])))
    assert not isinstance(prior.denoiser._unet.time_proj, torch.nn.Embedding), "the prior itself stays as it is"


def test_the_first_step_moves_the_last_layer_alone(prior: TextToImagePrior) -> None:
    config = TranslateConfig(tasks=TASKS, steps=4, batch=2, lr=0.05)
    s = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    trainer = Trainer(prior, make_translator(prior, list(TASKS.values())), config, s, ["a", "b", "c"])
    before = trainer.network.text.detach().clone()
    info = trainer.step(0)
    assert info.change_rms == 0
    assert info.s_text == 1
    assert info.gradient_rms > 0
    assert torch.equal(trainer.network.text, before), "through a last layer of zeros nothing else learns at first"
    assert trainer.step(1).change_rms > 0
    assert not torch.equal(trainer.network.text, before)


def test_the_loss_has_the_gradient_of_the_engine_and_of_staying(prior: TextToImagePrior) -> None:
    config = TranslateConfig(tasks=TASKS, steps=1, batch=2, identity=0.7, identity_end=0.7)
    z = torch.randn(2, 4, 4, 4, requires_grad=True)
    s, g = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    loss = training.surrogate_loss(z, g) / z.numel() + config.identity_at(0) * (z - s).square().mean()
    loss.backward()
    assert z.grad is not None
    torch.testing.assert_close(z.grad, (g + 2 * 0.7 * (z.detach() - s)) / z.numel())


def test_guidance_rises_and_staying_falls() -> None:
    config = TranslateConfig(
        tasks=TASKS, csd=replace(PAPER["dds"], s_text=7.0), steps=101, identity=3.0, identity_end=1.0
    )
    assert [config.guidance_at(k) for k in (0, 51, 100)] == [1.0, 7.0, 7.0]
    assert config.guidance_at(25) == pytest.approx(1 + 6 * 25 / 50.5)
    assert [config.identity_at(k) for k in (0, 50, 100)] == pytest.approx([3.0, 2.0, 1.0])
    assert config.identity_at(25) == pytest.approx(2 + math.cos(math.pi / 4))
    assert replace(config, warmup=0.0).guidance_at(0) == 7.0


def test_pictures_are_upright(tmp_path: Path) -> None:
    picture = Image.fromarray(np.repeat(np.arange(8, dtype=np.uint8)[:, None, None] * 30, 8, 1).repeat(3, 2))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.save(tmp_path / "a.png", exif=exif)
    column = read_square(tmp_path / "a.png", 8)[0, :, 0]
    assert bool((column.diff() < 0).all())


def test_names_of_tasks_are_told_apart_without_spaces() -> None:
    with pytest.raises(ValueError, match="every name once"):
        read_tasks(["night=a", "night =b"])


def test_captions_are_the_pictures_own_with_what_the_task_adds() -> None:
    config = TranslateConfig(tasks=TASKS)
    assert config.caption("night", "a red ball") == "a red ball, at night"
    assert config.caption("blue", "a red ball") == "a blue ball"
    assert read_tasks(["night={}, at night"]) == {"night": "{}, at night"}
    sds = with_residual(config, "sds")
    assert (sds.engine.residual, sds.engine.coupling) == ("noise", "independent")


def test_it_learns_to_lower_the_gradient_that_it_is_given(
    prior: TextToImagePrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the engine whose minimum is known: every latent half a unit above its source."""
    config = TranslateConfig(tasks={"up": "b"}, steps=120, batch=4, lr=5e-3, identity=0.0, identity_end=0.0)

    def step(score, x, config):
        return StepResult(x.z - (x.s + 0.5), x.z, None)

    monkeypatch.setattr(training, "csd_step", step)
    sources = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    trainer = Trainer(prior, make_translator(prior, ["b"]), config, sources, ["a"] * 4)
    first = trainer.step(0).gradient_rms
    last = [trainer.step(k).gradient_rms for k in range(1, config.steps)][-1]
    assert first == pytest.approx(0.5, abs=1e-5)
    assert last < 0.1


def test_a_stopped_run_goes_on_to_the_same_network(prior: TextToImagePrior, pictures: Path, tmp_path: Path) -> None:
    config = TranslateConfig(tasks=TASKS, prior=str(prior.path), steps=4, batch=2, lr=1e-2, checkpoint_every=1)
    config = replace(config, captions=str(pictures / "captions.json"))
    quiet = RunProgress(quiet=True)
    whole = train_network(pictures, config, run_dir=tmp_path / "whole", prior=prior, progress=quiet).path

    with pytest.MonkeyPatch.context() as patch, stopped_once(Trainer, 2) as calls:
        patch.setattr("csd3d.runs.estimate.LEAST", 1)  # measuring what a step takes changes no bit
        with pytest.raises(Stopped):
            train_network(pictures, config, run_dir=tmp_path / "parts", prior=prior, progress=quiet)
        parts = train_network(None, run_dir=tmp_path / "parts", prior=prior, progress=quiet, resume=True).path
    assert calls == [0, 1, 2, 2, 3]
    assert whole.read_bytes() == parts.read_bytes()
    manifest = Manifest.read(tmp_path / "parts" / "manifest.json")
    assert manifest.status == "finished"
    assert list(manifest.written) == [str(parts.resolve())]
    assert set(manifest.timing_s) == {"encode", "train", "write"}
    assert "estimated (s)" in manifest.numbers
    with pytest.raises(ValueError, match="other settings"):
        train_network(None, replace(config, lr=1.0), run_dir=tmp_path / "parts", prior=prior, resume=True)


def test_train_and_apply_from_the_command_line(
    folder: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, network = tmp_path / "run", tmp_path / "run" / "network.safetensors"
    words = ["translate", "train", str(pictures), "--prior", str(folder), "--steps", "2", "--batch", "1"]
    words += ["--captions", str(pictures / "captions.json"), "--lr", "0.1", "--run-dir", str(run_dir)]
    assert main([*words, "--task", "night={}, at night", "--task", "blue=a blue ball"]) == 0
    assert "Gradient" in (run_dir / "report.html").read_text()

    picture = pictures / "0.png"
    apply = ["translate", "apply", str(network)]
    assert main([*apply, str(picture), "--task", "blue", "--output", str(tmp_path / "out.png")]) == 0
    source, edited = (np.array(Image.open(p)) for p in (picture, tmp_path / "out.png"))
    assert source.shape == edited.shape
    assert not np.array_equal(source, edited)

    clip = tmp_path / "clip.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for k in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 60 * k, dtype=np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert main([*apply, str(clip), "--task", "night", "--output", str(tmp_path / "out.mp4")]) == 0
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3

    before = network.read_bytes()
    assert main(["runs", "undo", str(run_dir)]) == 0
    assert not network.exists()
    assert main(["translate", "train", "--resume", "--run-dir", str(run_dir)]) == 0
    assert network.read_bytes() == before

    assert main([*apply, str(picture), "--task", "day", "--output", str(tmp_path / "x.png")]) == 2
    assert "task: expected night or blue, got 'day'" in capsys.readouterr().err
    assert main(["translate", "train", str(pictures), "--prior", str(folder), "--task", "a=b"]) == 2
    assert "source-prompt: expected what the pictures show" in capsys.readouterr().err
    family = ["--prior", str(write_family("sdxl", tmp_path / "sdxl")), "--source-prompt", "a", "--task", "a=b"]
    assert main([*words[:3], *family, "--run-dir", str(tmp_path / "none")]) == 2
    assert (
        "expected a text-to-image model of Stable Diffusion 1 or 2, whose UNet learns, got one of"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "none").exists()
    assert main([*words[:3], "--source-prompt", "a", "--prior", str(folder)]) == 2
    assert "task: expected at least one" in capsys.readouterr().err


def test_a_network_belongs_to_its_prior(prior: TextToImagePrior, pictures: Path, tmp_path: Path) -> None:
    tasks = {"blue": "a blue ball"}
    config = TranslateConfig(tasks=tasks, prior=str(prior.path), source_prompt="a", steps=1, batch=1)
    quiet = RunProgress(quiet=True)
    path = train_network(pictures, config, run_dir=tmp_path / "run", prior=prior, progress=quiet).path
    other = TextToImagePrior.load(write_tiny_prior(tmp_path / "other", kind="text-to-image", closed=False, seed=1))
    with pytest.raises(ValueError, match="another version of the prior"):
        load_trained(path, prior=other)
    saved = load_checkpoint(path)
    save_checkpoint(path, dict(saved.tensors), dict(saved.record) | {"prior": "some/body"})  # of a stranger
    with pytest.raises(FileNotFoundError, match=r"'some/body': it is not in the hub's cache .* --prior some/body"):
        load_trained(path)
    assert load_trained(path, prior=str(prior.path)).tasks == ("blue",)
    with pytest.raises(ValueError, match="expected independent for a network"):
        TranslateConfig(csd=METHODS["csd"])
