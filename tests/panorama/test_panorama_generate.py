"""Pictures from a caption: particles of one canvas, repeatable, resumable, refused with a reason."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from csd3d.cli.main import main
from csd3d.engine.config import METHODS
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.manifest import Manifest
from panorama.generate import decode_canvas, generate, spread
from panorama.generate_config import GenerateConfig
from panorama.windows import make_windows
from tests.priors.tiny import write_tiny_prior


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image prior that was trained at 32 px, four latents."""
    return write_tiny_prior(tmp_path_factory.mktemp("prior") / "t2i", kind="text-to-image", closed=False, sample_size=4)


def test_windows_share_every_place_of_every_layer() -> None:
    windows = make_windows(2, (8, 20), 8, wrap=True)
    total = torch.zeros(2, 1, 8, 20)
    windows.scatter_add(total, torch.ones(len(windows), 1, 8, 8))
    torch.testing.assert_close(total, torch.ones_like(total))
    assert bool((windows.columns.diff(dim=1) < 0).any()), "one goes on over the seam"
    single = make_windows(3, (8, 8), 8, wrap=False)
    assert single.layer.tolist() == [0, 1, 2]


def bordered(z: torch.Tensor) -> torch.Tensor:
    """Three channels of latents, twice as large; wrong at both ends, as codecs are that see nothing there."""
    rgb = z[:, :3].repeat_interleave(2, 2).repeat_interleave(2, 3)
    rgb[..., :2] += 1
    rgb[..., -2:] += 1
    return rgb


def test_a_closed_canvas_is_decoded_over_its_seam() -> None:
    z = torch.rand(2, 4, 5, 130, generator=torch.Generator().manual_seed(0))
    expected = z[:, :3].repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(decode_canvas(z, bordered, 2, wrap=True), expected, atol=0.03, rtol=0)
    open_ends = decode_canvas(z, bordered, 2, wrap=False)
    torch.testing.assert_close(open_ends[..., 2:-2], expected[..., 2:-2], atol=0.03, rtol=0)
    assert bool((open_ends[..., :2] == expected[..., :2] + 1).all()), "there is nobody to ask"


def test_what_fits_into_one_tile_is_decoded_as_it_is() -> None:
    z = torch.rand(2, 4, 6, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(decode_canvas(z, bordered, 2, wrap=False), bordered(z))


@pytest.mark.parametrize(
    ("how", "moves"),
    [("csd", 2), ("ddim", 2), ("ddim --steer excite --pick 3 --pick-after 1", 4)],
)
def test_pictures_are_made_and_reported(
    folder: Path,
    tmp_path: Path,
    how: str,
    moves: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    args = ["--prompt", "a red ball", "--prior", str(folder), "--n", "2", "--steps", "2", "--method", *how.split()]
    for k in range(2):
        assert (
            main(["generate", *args, "--output", str(tmp_path / f"{k}.png"), "--run-dir", str(tmp_path / f"r{k}")]) == 0
        )
        assert (f"2 particles x {moves} moves" in capfd.readouterr().err) == bool(k)
        monkeypatch.setattr("csd3d.runs.estimate.LEAST", 1)
        monkeypatch.setattr("csd3d.runs.estimate.LONG_S", 0.0)
    first, second = ([np.array(Image.open(tmp_path / f"{k}-{i}.png")) for i in (1, 2)] for k in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True)), "same seed, same bytes"
    assert not np.array_equal(first[0], first[1])
    manifest = Manifest.read(tmp_path / "r0" / "manifest.json")
    assert manifest.status == "finished"
    assert manifest.numbers["mean distance of two pictures (rms)"] != 0
    assert "a red ball" in (tmp_path / "r0" / "report.html").read_text()


def test_masks_of_phrases_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    placed = GenerateConfig(region=("m.png=a ball", "0,0,1,0.5=a cube")).placed()
    assert placed.region == (f"{tmp_path}/m.png=a ball", "0,0,1,0.5=a cube")


@pytest.mark.parametrize("method", ["csd", "ddim"])
def test_no_source_is_predicted_whose_part_could_be_reused(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["--prompt", "a red ball", "--method", method, "--timesteps", "descending", "--guide-every", "4"]
    assert main(["generate", *args]) == 2
    assert "expected 1, as no source is predicted, got 4" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_wide_picture_is_one_canvas_and_goes_on_where_it_stopped(folder: Path, tmp_path: Path) -> None:
    prior = TextToImagePrior.load(folder)
    csd = METHODS["csd"]
    wide: dict[str, Any] = {"n": 1, "width": 80, "windows_per_step": 2, "prior": str(folder)}

    def make(steps: int, name: str, *, resume: bool = False) -> np.ndarray:
        config = GenerateConfig(csd=replace(csd, steps=steps), **wide)
        run_dir = tmp_path / ("whole" if name == "whole" else "parts")
        result = generate("a ball", tmp_path / f"{name}.png", config, run_dir=run_dir, resume=resume, prior=prior)
        return np.array(Image.open(result.path))

    whole = make(3, "whole")
    assert whole.shape == (32, 80, 3)
    make(1, "part")
    assert np.array_equal(make(3, "rest", resume=True), whole)


@pytest.mark.parametrize("method", ["csd", "ddim"])
def test_pictures_can_be_taken_back_and_made_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    words = ["generate", "--prompt", "a ball", "--prior", str(folder), "--n", "2", "--steps", "2", "--method", method]
    assert main([*words, "--run-dir", str(tmp_path / "run"), "--output", str(tmp_path / "ball.png")]) == 0
    pictures = [tmp_path / f"ball-{k}.png" for k in (1, 2)]
    before = [p.read_bytes() for p in pictures]
    assert main(["runs", "list", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip().endswith("  a ball")
    assert main(["runs", "undo", str(tmp_path / "run")]) == 0
    assert not any(p.exists() for p in pictures)
    assert main(["generate", "--resume", "--run-dir", str(tmp_path / "run")]) == 0
    assert [p.read_bytes() for p in pictures] == before
    page = (tmp_path / "run" / "report.html").read_text()
    assert ("gradient.png" in page) == (tmp_path / "run" / "gradient.png").exists() == (method == "csd")


@pytest.fixture(scope="module")
def composed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[np.ndarray]]:
    """Two pictures of one caption, made as flags say; what is made anywhere is not made again."""
    args = ["generate", "--prompt", "a red ball and a snowy cover", "--prior", str(folder), "--n", "2", "--steps", "2"]
    args += ["--windows-per-step", "1"]

    @cache
    def make(*flags: str, run_dir: Path | None = None) -> list[np.ndarray]:
        out = tmp_path_factory.mktemp("composed")
        run_dir = run_dir or out / "run"
        assert main([*args, *flags, "--output", str(out / "made.png"), "--run-dir", str(run_dir)]) == 0
        return [np.array(Image.open(out / f"made-{i}.png")) for i in (1, 2)]

    return make


@pytest.mark.parametrize(
    "flags",
    [
        ["--steer", "conform:rms=0.05,rounds=1"],
        ["--steer", "excite", "--group", "red ball | snowy", "--pick", "2", "--pick-after", "1"],
        ["--attention", "structure", "--method", "ddim"],
        ["--attention", "reweight:word=red,scale=2", "--method", "csd"],
    ],
    ids=["conform", "excite and pick", "structure", "reweight with csd"],
)
def test_pictures_are_composed_as_asked_for(
    composed: Callable[..., list[np.ndarray]], tmp_path: Path, flags: list[str]
) -> None:
    method = "csd" if "csd" in flags else "ddim"
    before, first, second = composed("--method", method), composed(*flags, run_dir=tmp_path / "a"), composed(*flags)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True)), "same seed, same bytes"
    assert any(not np.array_equal(a, b) for a, b in zip(first, before, strict=True)), "it does something"
    config = Manifest.read(tmp_path / "a" / "manifest.json").config
    assert config["method"] == method, "steering and picking are the sampler's"


def test_what_cannot_be_composed_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "--prompt", "a red ball and a snowy cover", "--prior", str(folder), "--steps", "2"]
    for flags, message in (
        (["--steer", "boost"], "steer: expected conform, excite, layout, got 'boost'"),
        (["--steer", "conform:rounds=2", "--method", "csd"], "steer: expected no rounds where particles are moved"),
        (["--pick", "2", "--method", "sds"], "pick: expected --method ddim beside it"),
        (["--pick", "2", "--pick-after", "2"], "pick_after: expected less than the 2 steps"),
        (["--steer", "excite", "--width", "80"], "steer: expected pictures as large as the prior's own"),
        (["--steer", "excite", "--group", "cone"], "word: expected one of the prompt"),
        (["--attention", "pnp", "--method", "ddim"], "attention: expected one of reweight, structure, sag"),
        (["--attention", "p2p"], "p2p: expected a caption of the source"),
    ):
        assert main([*words, *flags, "--run-dir", str(tmp_path / "run")]) == 2, flags
        captured = capsys.readouterr().err
        assert message in captured
        assert len(captured.strip().splitlines()) == 1
        assert not (tmp_path / "run").exists()


def test_what_makes_no_sense_is_refused_with_the_reason(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate"]) == 2
    assert "expected a caption" in capsys.readouterr().err
    assert main(["generate", "--prompt", "a ball", "--prior", str(folder), "--width", "20"]) == 2
    assert "width: expected a multiple of" in capsys.readouterr().err
    for flag, value in (("--n", "1000000000"), ("--width", "80000000"), ("--steps", "0")):
        assert main(["generate", "--prompt", "a ball", "--prior", str(folder), flag, value]) == 2
        assert f"{flag[2:]}: expected " in capsys.readouterr().err
    assert main(["generate", "--prompt", "a ball", "--prior", str(folder), "--n=10000", "--width=99968"]) == 2
    assert "expected latents that fit into memory" in capsys.readouterr().err
    assert (
        main(["generate", "--prompt", "a ball", "--prior", "builtin:instruct", "--run-dir", str(tmp_path / "a")]) == 2
    )
    assert "expected a text-to-image model, got an instruction editor" in capsys.readouterr().err
    one = GenerateConfig(prior=str(folder), n=1)
    with pytest.raises(ValueError, match="another place than what the run writes"):
        generate("a ball", tmp_path / "run" / "sheet.png", one, run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match="no source to compare with"):
        generate("a ball", tmp_path / "x.png", GenerateConfig(prior=str(folder), csd=METHODS["dds"]))


def test_spread_is_nothing_for_equal_pictures() -> None:
    same = torch.full((3, 3, 4, 4), 0.4)
    assert spread(same) == 0
    same[1] += 0.3
    assert spread(same) == pytest.approx(0.2)
