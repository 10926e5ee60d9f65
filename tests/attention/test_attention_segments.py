"""DiffSeg: on attention that is known, by loops, over particles whose points are known, and as files."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from csd3d.attention.segments import divergence, enlarged, labels, linked, proposals, winners
from csd3d.cli.main import main
from csd3d.media.clip.probe import probe
from csd3d.media.masks import ClipMask
from csd3d.world.sample import sample_photo


def of_regions(numbers: Int[Tensor, "h w"], noise: float = 0.0) -> Float[Tensor, "p p"]:
    """Every place looks at those of its region."""
    flat = numbers.flatten()
    A = (flat[:, None] == flat[None]).float() + 0.01
    A = A + noise * torch.rand(A.shape, generator=torch.Generator().manual_seed(0))
    return A / A.sum(1, keepdim=True)


def test_the_divergence_is_its_definition() -> None:
    rng = torch.Generator().manual_seed(1)
    P, Q = torch.rand(2, 5, generator=rng).softmax(1), torch.rand(3, 5, generator=rng).softmax(1)
    for a, p in enumerate(P.tolist()):
        for b, q in enumerate(Q.tolist()):
            d = sum(x * math.log(x / y) + y * math.log(y / x) for x, y in zip(p, q, strict=True)) / 2
            assert float(divergence(P, Q)[a, b]) == pytest.approx(d, abs=1e-6)


def test_regions_of_known_attention_are_found() -> None:
    truth = torch.zeros(8, 12, dtype=torch.int64)
    truth[:4, 6:], truth[5:, :5] = 1, 2
    merged = winners(proposals(of_regions(truth, 0.1), (8, 12), threshold=0.9), (8, 12))
    found = labels(merged, (8, 12), (8, 12))
    assert len(merged) == 3
    for number in range(3):
        assert len(found[truth == number].bincount().nonzero()) == 1
    assert labels(merged, (8, 12), (16, 24)).shape == (16, 24)
    assert len(proposals(of_regions(truth, 0.1), (8, 12), threshold=100.0)) == 1, "all are near enough"


def test_maps_are_enlarged_as_the_paper_does() -> None:
    A = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(2)).softmax(2)
    large = enlarged(A, (2, 3), (4, 6))
    torch.testing.assert_close(large.sum(2), torch.ones(1, 24))
    for r in range(4):
        for c in range(6):
            torch.testing.assert_close(large[0, r * 6 + c], large[0, (r // 2 * 2) * 6 + c // 2 * 2])
    torch.testing.assert_close(enlarged(A, (2, 3), (2, 3)), A)


class Shifted:
    """Frame j shows what frame 0 does, j places further to the right."""

    def __call__(self, i: int, index: Tensor) -> tuple[Tensor, Tensor]:
        y, x = torch.meshgrid(torch.arange(6) + 0.5, torch.arange(10) + 0.5, indexing="ij")
        here = torch.stack([x, y], -1)
        moved = torch.stack([here + torch.tensor([float(j - int(index[i])), 0.0]) for j in index.tolist()])
        return moved, torch.ones(len(index), 6, 10)


def test_numbers_follow_what_moves() -> None:
    frames = []
    for j in range(4):
        own = torch.zeros(6, 10, dtype=torch.int64)
        own[1:4, 1 + j : 4 + j] = 1
        if j >= 2:
            own[4:, :] = 2  # which is new
        if j % 2:
            own = torch.tensor([1, 0, 2])[own]  # in another order
        frames.append(own)
    names = linked(frames, Shifted())
    everywhere = [name[own] for name, own in zip(names, frames, strict=True)]
    for j, own in enumerate(everywhere):
        assert own[2, 2 + j] == everywhere[0][2, 2], "the thing"
        assert own[0, 0] == everywhere[0][0, 0], "what is behind"
    assert everywhere[2][5, 5] == everywhere[3][5, 5] == 2


def save(rgb: Float[Tensor, "3 h w"], path: Path) -> None:
    Image.fromarray((255 * rgb.permute(1, 2, 0)).round().byte().numpy()).save(path)


def test_a_clip_and_a_picture_become_masks(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    picture = sample_photo(8, height_px=64, width_px=64).source()[0]
    for k in range(3):
        save(picture.roll(2 * k, 2), frames / f"{k}.png")
    assert main(["segments", str(frames), "--output", str(tmp_path / "seg")]) == 0
    shown = {path.name for path in (tmp_path / "seg").iterdir()}
    names = sorted(int(name) for name in shown - {"labels", "segments.png"})
    assert {"labels", "segments.png"} <= shown
    assert names == list(range(1, len(names) + 1))
    assert len(names) > 1
    masks = np.stack(
        [[np.array(Image.open(tmp_path / "seg" / str(n) / f"{k:05d}.png")) for k in range(3)] for n in names]
    )
    assert (masks.astype(int).sum(0) == 255).all(), "every pixel is of one segment"
    numbers = np.array(Image.open(tmp_path / "seg" / "labels" / "00001.png"))
    assert (numbers == masks[:, 1].argmax(0) + 1).all()
    with ClipMask(tmp_path / "seg" / "1", probe(frames)) as mask:
        assert mask(range(3)).shape == (3, 1, 64, 64)

    assert main(["segments", str(frames / "0.png"), "--output", str(tmp_path / "one")]) == 0
    assert {"1.png", "2.png", "labels.png", "segments.png"} <= {path.name for path in (tmp_path / "one").iterdir()}
    first = np.array(Image.open(tmp_path / "one" / "labels.png"))
    assert (first == np.array(Image.open(tmp_path / "seg" / "labels" / "00000.png"))).all(), "the same noise, the same"
    assert main(["segments", str(frames), "--output", str(tmp_path / "seg")]) == 2, "what is there is left alone"
    assert main(["segments", str(tmp_path / "none.mp4"), "--output", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_how_long_it_takes_is_said_before_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for k in range(3):
        save(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(k)), frames / f"{k}.png")
    labels = []
    for name in ("silent", "said"):
        assert main(["segments", str(frames), "--output", str(tmp_path / name)]) == 0
        labels.append((tmp_path / name / "labels" / "00002.png").read_bytes())
        error = capsys.readouterr().err
        assert ("this takes about" in error) == (name == "said")
        monkeypatch.setattr("video.segments.AT_ONCE", 2)
        monkeypatch.setattr("csd3d.runs.estimate.LONG_S", 0.0)
    assert error.index("3 frames at") < error.index("look: ") < error.index("write: 3/3")
    assert labels[0] == labels[1]


def test_a_place_where_no_folder_can_be_is_refused_before_the_work(tmp_path: Path, capsys) -> None:
    save(torch.zeros(3, 8, 8), tmp_path / "0.png")
    assert main(["segments", str(tmp_path / "0.png"), "--output", str(tmp_path / "0.png" / "seg")]) == 2
    error = capsys.readouterr().err
    assert "expected a folder in which files can be made" in error
    assert error.count("\n") == 1
