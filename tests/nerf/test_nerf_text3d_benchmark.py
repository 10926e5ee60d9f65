"""The benchmark of scenes from a sentence, from end to end in a few steps. Needs nerfstudio."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("nerfstudio", reason="the nerf extra is not installed")

from safetensors.torch import save_file

from csd3d.nerf import configs
from csd3d.nerf.text3d.data import cameras_at
from csd3d.runs.progress import RunProgress
from csd3d.world.edits import describe
from scripts import benchmark_text3d
from scripts.benchmark_text3d import ROWS, SCENES, Settings, verdict
from scripts.benchmarks.composition import Content, Reader, content_of
from scripts.benchmarks.text3d_views import colours_apart, opposite, ring_warp
from tests.nerf.tiny import make_small_thing

pytestmark = pytest.mark.slow


class Knowing(Reader):
    """A network that sees a red ball on grass in every other picture."""

    def read(self, rgb: torch.Tensor) -> Content:
        wanted, other = content_of([SCENES[0]]), content_of([SCENES[1]])
        rows = [wanted if i % 2 == 0 else other for i in range(len(rgb))]
        return Content(*(torch.cat([getattr(r, n) for r in rows]) for n in ("present", "look", "ground", "time")))


def test_a_verdict_is_the_share_of_views() -> None:
    assert describe(SCENES[0]) == "a red ball on grass"
    shares = verdict(Knowing(), torch.zeros(4, 3, 8, 8), SCENES[0])
    assert shares == {"found": 0.5, "right": 0.5, "exact": 0.5}


def test_what_views_of_one_ball_have_in_common() -> None:
    """A ball about the origin, red on one side and blue on the other, in a white room, drawn without any field."""
    places: Any = configs.csd_3d_cpu.config.pipeline.datamanager
    cameras = cameras_at(places.orbit().ring(12), 32)
    rays = [cameras.generate_rays(camera_indices=i, keep_shape=True) for i in range(12)]
    o, d = (torch.stack([getattr(r, name) for r in rays]) for name in ("origins", "directions"))
    b = (o * d).sum(-1)
    root = b**2 - (o * o).sum(-1) + 0.25
    hit = root > 0
    distance = torch.where(hit, -b - root.clamp(min=0).sqrt(), 4.0)
    red = (o + distance[..., None] * d)[..., 0] > 0
    rgb = torch.ones(12, 3, 32, 32)
    rgb[:, 1:] = rgb[:, 1:] * ~(hit & red)[:, None]
    rgb[:, :2] = rgb[:, :2] * ~(hit & ~red)[:, None]
    opacity = hit[:, None].float()
    agreeing = ring_warp(cameras, rgb, distance[:, None], opacity)
    assert agreeing < 0.05  # where red meets blue
    one = rgb.clone()
    one[0] = 1 - one[0]
    assert ring_warp(cameras, one, distance[:, None], opacity) > agreeing + 0.05
    assert opposite(rgb) > 0.05
    assert opposite((rgb[:1] + rgb[:1].flip(-1)).expand(12, -1, -1, -1) / 2) == 0  # the same face on both sides
    assert colours_apart(rgb) > 0.02
    assert colours_apart(rgb[:1].expand(12, -1, -1, -1)) < 1e-6


def test_from_end_to_end_and_again_from_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = copy.deepcopy(configs.csd_3d_cpu)
    make_small_thing(method.config.pipeline.model)
    monkeypatch.setattr(configs, "csd_3d_cpu", method)
    save_file(Reader().state_dict(), tmp_path / "reader.safetensors")
    settings = Settings(work=tmp_path, out=tmp_path / "out", quick=True, rows=("csd", "sds", "csd, N = 1"))
    with RunProgress(quiet=True) as progress:
        benchmark_text3d.benchmark(settings, progress)
        first = (tmp_path / "out" / "text3d.json").read_text()
        benchmark_text3d.benchmark(settings, progress)
    assert (tmp_path / "out" / "text3d.json").read_text() == first  # seconds too: nothing was made again
    found = json.loads(first)
    assert [r["row"] for r in found["records"]] == ["csd", "sds", "csd, N = 1"]
    assert "csd, kernel on features" in ROWS
    assert all(0 <= r[name] <= 1 for r in found["records"] for name in ("warp", "colours", "opposite"))
    assert all(0 <= r["right"] <= r["found"] <= 1 for r in found["records"])
    assert "| a red ball on grass |" in (tmp_path / "out" / "text3d.md").read_text()
    assert (tmp_path / "out" / "sheets" / "a-red-ball-on-grass.png").is_file()


def test_mistakes_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert benchmark_text3d.main(Settings(work=tmp_path, rows=("best",))) == 2
    assert "rows: expected names among csd, sds" in capsys.readouterr().err
    assert benchmark_text3d.main(Settings(work=tmp_path)) == 2
    assert "expected shards of pictures" in capsys.readouterr().err
    with pytest.raises(ValueError, match="scenes: expected at most 12"):
        Settings(scenes=13)
    with pytest.raises(ValueError, match="azimuths: expected an even number"):
        Settings(azimuths=3)
