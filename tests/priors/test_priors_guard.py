"""ControlNet guards: as the diffusers pipelines, of whatever is shown, and refused where they make no sense."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.pipelines.controlnet.pipeline_controlnet import StableDiffusionControlNetPipeline
from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl import StableDiffusionXLControlNetPipeline
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from csd3d.cli.main import main
from csd3d.engine.config import CsdConfig
from csd3d.engine.types import Batch, Noised
from csd3d.media.clip.source import open_clip
from csd3d.media.pictures.levels import read_levels
from csd3d.priors.auto import load_prior
from csd3d.priors.guards import edges, whole_range
from csd3d.priors.loading import Loading
from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.prior import Guidance, Prior, Prompts, SampledScore, TextToImage
from csd3d.priors.store.fingerprint import fingerprint_of, folders_of, model_fingerprint, pictures_of
from csd3d.priors.store.silence import quiet
from csd3d.runs.job import Request
from panorama.config import PanoramaConfig
from panorama.edit import ImageEditor
from panorama.generate import GenerateEditor
from panorama.generate_config import GenerateConfig
from tests.priors.families.tiny import write_family
from tests.priors.guards import write_control, write_depth
from tests.priors.test_priors_instruct import Spy
from tests.priors.tiny import write_tiny_prior

SDXL = (4, 8)
"""Of the tiny families, whose autoencoders halve once."""
SIDE = 64


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny priors, ControlNets for them, a depth model, and pictures."""
    root = tmp_path_factory.mktemp("guards")
    found = {
        "sd": write_tiny_prior(root / "sd", kind="text-to-image", closed=False, stock=True),
        "editor": write_tiny_prior(root / "editor", closed=False, stock=True),
        **{name: write_family(name, root / name) for name in ("sdxl", "sdxl-ip2p", "klein")},
    }
    found["sd-control"] = write_control(found["sd"], root / "sd-control")
    found["sdxl-control"] = write_control(found["sdxl"], root / "sdxl-control", embedding=SDXL)
    found["depth"] = write_depth(root / "depth")
    rng = np.random.default_rng(0)
    for name, width in (("picture", SIDE), ("other", SIDE), ("wide", 2 * SIDE)):
        blocks = rng.integers(0, 255, (8, width // 8, 3), dtype=np.uint8)
        found[name] = root / f"{name}.png"
        Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(found[name])
    return found


def guarded(places: dict[str, Path], name: str, control: str, kind: str = "edge", **more: Any) -> Prior:
    return load_prior(places[name], device="cpu", how=Loading(control=(kind, str(places[control])), **more))


def noised(prior: Prior, n: int = 1, t: int = 300) -> Noised:
    s = prior.encode(torch.nn.functional.interpolate(torch.rand(n, 3, 8, 8), (SIDE, SIDE)))
    return prior.schedule.noised(Batch(s, s, torch.arange(n)), t, torch.randn(s.shape))


PIPELINES = {"sd": StableDiffusionControlNetPipeline, "sdxl": StableDiffusionXLControlNetPipeline}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_guarded_prediction_and_four_steps_are_those_of_the_pipeline(name: str, places: dict[str, Path]) -> None:
    prior = guarded(places, name, f"{name}-control", "pose", control_scale=0.7, control_picture=places["picture"])
    assert isinstance(prior, TextToImage)
    with quiet():
        own: Any = DiffusionPipeline.from_pretrained(str(places[name]), local_files_only=True)
        net = ControlNetModel.from_pretrained(str(places[f"{name}-control"]), local_files_only=True)
        more = {"safety_checker": None, "feature_extractor": None} if name == "sd" else {"add_watermarker": False}
        parts = {k: v for k, v in own.components.items() if k not in ("feature_extractor", "image_encoder") and v}
        pipe: Any = PIPELINES[name](**parts | more, controlnet=net)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = spy = Spy(pipe.scheduler)
    shape = (1, 4, SIDE // prior.codec.factor, SIDE // prior.codec.factor)
    noise = torch.randn(shape)
    theirs = pipe(
        "a red ball", image=Image.open(places["picture"]), height=SIDE, width=SIDE, num_inference_steps=4,
        guidance_scale=3.0, controlnet_conditioning_scale=0.7, latents=noise.clone(), output_type="latent",
    )[0]  # fmt: skip
    score, index = prior.score(Prompts("a red ball"), Guidance(3.0)), torch.arange(1)
    assert isinstance(score, SampledScore)
    t, z, expected = spy.seen[0]
    z_in = z / (1 + float(spy.sigmas[0]) ** 2) ** 0.5 if name == "sdxl" else z
    found = score.output(z_in, torch.tensor(float(t)), index)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    plain = load_prior(places[name], device="cpu").score(Prompts("a red ball"), Guidance(3.0))
    assert isinstance(plain, SampledScore)
    assert (found - plain.output(z_in, torch.tensor(float(t)), index)).abs().max() > 1e-3
    ours = prior.denoise(lambda z, t: score.output(z, t, index), shape, noise, torch.Generator(), steps=4)
    assert (ours - theirs).abs().max() <= 1e-4 * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("name", ["editor", "sdxl-ip2p"])
def test_an_editor_is_held_to_the_edges_of_each_source(name: str, places: dict[str, Path]) -> None:
    control = "sdxl-control" if name == "sdxl-ip2p" else "sd-control"
    prior = guarded(places, name, control)
    assert prior.looks_at_pictures
    score, x = prior.score(Prompts("make it snowy"), Guidance(2.0, 1.5)), noised(prior, 3)
    together = score.target(x)
    for i in range(3):  # alone as in company
        torch.testing.assert_close(score.target(x.rows([i])), together[i : i + 1], atol=1e-5, rtol=1e-5)
    plain = load_prior(places[name], device="cpu").score(Prompts("make it snowy"), Guidance(2.0, 1.5)).target(x)
    assert (together - plain).abs().max() > 1e-3
    off = guarded(places, name, control, control_scale=0.0)
    off.encode(torch.rand(1, 3, SIDE, SIDE))
    torch.testing.assert_close(off.score(Prompts("make it snowy"), Guidance(2.0, 1.5)).target(x), plain)
    nothing = prior.score(Prompts(""), Guidance(2.0, 1.5))
    torch.testing.assert_close(nothing.target(x), nothing.source(x))


def test_edges_are_those_of_the_picture_that_was_encoded(places: dict[str, Path]) -> None:
    prior = guarded(places, "editor", "sd-control")
    picture = read_levels(places["picture"])
    s = prior.encode(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255)
    assert prior.guard is not None
    with prior.showing(torch.arange(1), s, s.shape):
        assert prior.guard._shown is not None
        shown = (255 * prior.guard._shown[0].permute(1, 2, 0)).byte().numpy()
    assert np.array_equal(shown, edges(picture))
    assert 0.02 < (shown > 0).mean() < 0.6
    assert set(np.unique(shown)) == {0, 255}


def test_depth_is_told_by_a_model_from_near_to_far(places: dict[str, Path]) -> None:
    prior = guarded(places, "editor", "sd-control", "depth", control_depth=str(places["depth"]))
    assert prior.guard is not None
    x = noised(prior)
    with prior.showing(x.index, x.s, x.s.shape):
        assert prior.guard._shown is not None
        assert prior.guard._shown.shape == (1, 3, SIDE, SIDE)
        assert (float(prior.guard._shown.min()), float(prior.guard._shown.max())) == (0.0, 1.0)
    assert prior.score(Prompts("make it snowy"), Guidance(2.0)).target(x).isfinite().all()


def test_what_guards_belongs_to_the_prior(places: dict[str, Path]) -> None:
    plain, strong, weak, other = (
        fingerprint_of(prior)
        for prior in (
            load_prior(places["editor"], device="cpu"),
            guarded(places, "editor", "sd-control"),
            guarded(places, "editor", "sd-control", control_scale=0.5),
            guarded(places, "editor", "sd-control", control_picture=places["picture"]),
        )
    )
    assert len({plain, strong, weak, other}) == 4


def test_a_guard_of_the_hub_is_known_by_its_commit_and_one_of_a_folder_by_its_content(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cached(commit: str) -> str:
        folder = tmp_path / "models--someone--edges" / "snapshots" / commit
        if not folder.exists():
            shutil.copytree(places["sd-control"], folder)
        (tmp_path / "models--someone--edges" / "refs").mkdir(exist_ok=True)
        (tmp_path / "models--someone--edges" / "refs" / "main").write_text(commit)
        prior = load_prior(places["editor"], device="cpu", how=Loading(control=("edge", "someone/edges"), offline=True))
        return fingerprint_of(prior)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    first = cached("0" * 40)
    assert cached("1" * 40) != first, "other commits are other weights"
    assert cached("0" * 40) == first

    copy = tmp_path / "copy"
    shutil.copytree(places["sd-control"], copy)
    found = Loading(control=("edge", str(copy)))
    (folder,) = folders_of(found)
    before = model_fingerprint(folder)
    assert before == model_fingerprint(places["sd-control"]), "wherever it lies"
    config = copy / "config.json"
    config.write_text(config.read_text() + " ")
    assert model_fingerprint(folder) != before
    with pytest.raises(FileNotFoundError, match="control: there is no folder someone/none, and none in the hub's"):
        folders_of(Loading(control=("edge", "someone/none")))


def test_every_control_picture_of_a_folder_is_known(places: dict[str, Path], tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        shutil.copy(places["picture"], tmp_path / name)
    how = Loading(control=("edge", str(places["sd-control"])), control_picture=tmp_path)
    assert [path.name for path in pictures_of(how)] == ["a.png", "b.png"]


@pytest.mark.parametrize(("name", "control"), [("editor", "sd-control"), ("sdxl-ip2p", "sdxl-control")])
def test_chunks_count_what_a_guard_takes(
    name: str, control: str, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, planned = Chunks.map, list[int]()

    def watch(self: Chunks, call: Any, total: int, *, row_bytes: int) -> Any:
        planned.append(row_bytes)
        return own(self, call, total, row_bytes=row_bytes)

    monkeypatch.setattr(Chunks, "map", watch)
    plain, held = load_prior(places[name], device="cpu"), guarded(places, name, control)
    rows = list[int]()
    for prior in (plain, held):
        prior.score(Prompts("make it snowy"), Guidance(2.0, 1.5)).target(noised(prior))
        rows.append(planned[-1])
    assert held.guard is not None
    assert rows[1] - rows[0] == held.guard.row_bytes((SIDE // held.codec.factor) ** 2) > 0


@pytest.mark.parametrize(
    ("name", "control", "more", "message"),
    [
        ("klein", ("edge", "sdxl-control"), {}, "expected a prior of Stable Diffusion's or SDXL's kind"),
        ("sdxl", ("edge", "sd-control"), {}, "is not for SDXL: it was made for another model: expected cross_att"),
        ("editor", ("scribble", "sd-control"), {}, "expected one of depth, edge, pose and a ControlNet"),
        ("editor", ("pose", "sd-control"), {}, "pose expected --control-picture, which no source shows"),
        ("editor", ("edge", "nowhere"), {}, "control: .*nowhere cannot be read"),
        ("editor", None, {"control_picture": Path("x.png")}, "control-picture: expected none without --control"),
        ("editor", ("edge", "sd-control"), {"control_depth": "x"}, "control-depth: expected none but with depth"),
        ("editor", ("edge", "sd-control"), {"control_scale": -1.0}, "control-scale: expected 0 or more"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    name: str, control: tuple[str, str] | None, more: dict[str, Any], message: str, places: dict[str, Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    asked = None if control is None else (control[0], str(places.get(control[1], tmp_path / control[1])))
    with pytest.raises(ValueError, match=message) as caught:
        load_prior(places[name], device="cpu", how=Loading(control=asked, offline=True, **more))
    assert "\n" not in str(caught.value)


def test_a_guard_that_lacks_weights_is_refused(places: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(places["sd-control"], tmp_path / "control")
    file = copy / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_in.weight"]
    save_file(weights, file)
    with pytest.raises(ValueError, match=r"control: .* cannot be read: it lacks 1 of its weights, 'conv_in.weight'"):
        load_prior(places["editor"], device="cpu", how=Loading(control=("edge", str(copy))))


def test_depth_that_nobody_knows_is_refused_and_told_depth_is_shown(places: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="control: depth expected --control-picture or --control-depth"):
        Loading(control=("depth", str(places["sd-control"]))).check()
    prior = guarded(places, "editor", "sd-control", "depth")
    assert prior.guard is not None
    x = noised(prior)
    with pytest.raises(ValueError, match="control: depth expected --control-picture or --control-depth"):
        prior.score(Prompts("make it snowy"), Guidance(2.0)).target(x)
    near = whole_range(torch.rand(1, SIDE, SIDE) + 1)[:, None]
    prior.guard.sees.tell(x.s, near)
    with prior.showing(x.index, x.s, x.s.shape):
        assert prior.guard._shown is not None
        torch.testing.assert_close(prior.guard._shown, near.expand(-1, 3, -1, -1), atol=0.003, rtol=0)
        assert float(near.max()) == 1


def test_a_photo_is_edited_under_a_guard_and_the_run_goes_on(places: dict[str, Path], tmp_path: Path) -> None:
    words = ["image", str(places["picture"]), "--prompt", "make it snowy", "--prior", str(places["editor"])]
    words += ["--device", "cpu", "--size", str(SIDE)]
    control = ["--control", "edge", str(places["sd-control"])]
    for name, steps, more in (("whole", "3", control), ("first", "1", control), ("plain", "3", [])):
        out = ["--output", str(tmp_path / f"{name}.png"), "--run-dir", str(tmp_path / name), "--steps", steps]
        assert main([*words, *more, *out]) == 0
    assert main(["image", "--resume", "--run-dir", str(tmp_path / "first"), "--steps", "3"]) == 0
    whole, first, plain = (read_levels(tmp_path / f"{name}.png") for name in ("whole", "first", "plain"))
    assert np.array_equal(whole, first)
    assert not np.array_equal(whole, plain)


@pytest.mark.parametrize("more", [[], ["--preview"]])
def test_nothing_is_written_into_the_model_of_a_guard(
    more: list[str], places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.delattr("csd3d.runs.job.load_shared")  # it is refused before the prior is loaded
    model = places["sd-control"]
    words = ["image", str(places["picture"]), "--prompt", "make it snowy", "--prior", str(places["editor"])]
    words += ["--device", "cpu", "--control", "edge", str(model), "--run-dir", str(tmp_path / "run"), *more]
    before = sorted(model.iterdir())
    assert main([*words, "--output", str(model / "x.png")]) == 2
    assert "expected a place outside of the model" in capsys.readouterr().err
    assert sorted(model.iterdir()) == before
    assert not (tmp_path / "run").exists()


def test_windows_of_a_panorama_are_held_to_their_own_edges(
    places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["panorama", str(places["wide"]), "--prompt", "make it snowy", "--prior", str(places["editor"])]
    words += ["--device", "cpu", "--size", "64", "--window", "8", "--stride", "4", "--steps", "1"]
    words += ["--output", str(tmp_path / "out.png"), "--run-dir", str(tmp_path / "run")]
    control = ["--control", "edge", str(places["sd-control"])]
    assert main([*words, *control, "--control-picture", str(places["wide"])]) == 2
    assert "control-picture: expected none for 3 windows" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()
    assert main([*words, *control]) == 0


@pytest.mark.parametrize("method", ["ddim", "csd"])
def test_pictures_of_captions_follow_a_picture(
    method: str, places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "--prompt", "a red ball", "--prior", str(places["sd"]), "--device", "cpu", "--n", "1"]
    words += ["--steps", "2", "--method", method, "--height", str(SIDE), "--width", str(SIDE)]
    control = ["--control", "edge", str(places["sd-control"])]
    made = []
    for name in ("picture", "other"):
        out = ["--output", str(tmp_path / f"{name}.png"), "--run-dir", str(tmp_path / name)]
        assert main([*words, *control, "--control-picture", str(places[name]), *out]) == 0
        made.append(read_levels(tmp_path / f"{name}.png"))
    assert not np.array_equal(*made)
    assert main([*words, *control, "--run-dir", str(tmp_path / "none")]) == 2
    assert "control_picture: expected one with --control, got None" in capsys.readouterr().err


@pytest.mark.slow
def test_a_clip_is_held_to_the_frames_of_another(
    make_clip: Callable[..., tuple[Path, torch.Tensor]], places: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    clip, _ = make_clip(frames=3, height=64, width=64)
    poses, _ = make_clip(frames=3, height=64, width=64, name="poses.mp4")
    short, _ = make_clip(frames=2, height=64, width=64, name="short.mp4")
    words = ["video", str(clip), "--prompt", "make it snowy", "--prior", str(places["editor"]), "--size", "64"]
    words += ["--device", "cpu", "--codec", "ffv1", "--steps", "2", "--control", "pose", str(places["sd-control"])]
    out = ["--output", str(tmp_path / "out.mkv"), "--run-dir", str(tmp_path / "run")]
    assert main([*words, "--control-picture", str(poses), *out]) == 0
    with open_clip(tmp_path / "out.mkv") as opened:
        assert opened.info.frames == 3
    out = ["--output", str(tmp_path / "no.mkv"), "--run-dir", str(tmp_path / "no")]
    before = sorted(tmp_path.rglob("*"))
    assert main([*words, "--control-picture", str(short), *out]) == 2
    assert "control-picture: expected 3 frames or more, got 2" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before, "before anything is encoded"


def test_particles_take_the_control_picture_of_their_frame(places: dict[str, Path], tmp_path: Path) -> None:
    for i in range(4):
        Image.new("RGB", (SIDE, SIDE), (60 * i, 0, 0)).save(tmp_path / f"{i}.png")
    prior = guarded(places, "editor", "sd-control", "pose", control_picture=tmp_path)
    assert prior.guard is not None
    prior.assign_pictures([0, 3])  # as key frames
    index, s = torch.tensor([1, 0]), prior.encode(torch.rand(2, 3, SIDE, SIDE))
    shown = prior.guard.sees(index, s, (SIDE, SIDE))
    assert (255 * shown[:, 0, 0, 0]).round().tolist() == [180, 0]
    with pytest.raises(ValueError, match="control-picture: expected 5 frames or more, got 4"):
        prior.guard.sees.assign([0, 4])


def test_a_clip_leaves_pictures_nothing_that_it_was_held_to(places: dict[str, Path], tmp_path: Path) -> None:
    for i in range(3):
        Image.new("RGB", (SIDE, SIDE), (60 * i, 0, 0)).save(tmp_path / f"{i}.png")
    edited, made = (guarded(places, name, "sd-control", "pose", control_picture=tmp_path) for name in ("editor", "sd"))
    how: dict[str, Any] = {"control": edited.how.control, "control_picture": tmp_path}
    for prior in (edited, made):
        prior.assign_pictures([2, 2])
    one = PanoramaConfig(**how, csd=CsdConfig(steps=1))
    with ImageEditor.open(Request(places["picture"], "make it snowy", None, one)) as job:
        job.prepare(edited, one)
    two = GenerateConfig(**how, csd=CsdConfig(residual="noise"), n=2, height=SIDE, width=SIDE)
    with GenerateEditor.open(Request(None, "a red ball", None, two)) as job:
        job.prepare(made, two)
    for prior, levels in ((edited, [0]), (made, [0, 60])):
        assert prior.guard is not None
        shown = prior.guard.sees(torch.arange(len(levels)), None, (SIDE, SIDE))
        assert (255 * shown[:, 0, 0, 0]).round().tolist() == levels
