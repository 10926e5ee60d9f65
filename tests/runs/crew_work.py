"""What each of several processes does in `test_runs_crew.py`."""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from csd3d.attention.dense import Dense, Regions
from csd3d.attention.presets import Attention
from csd3d.engine import Batch, csd_step
from csd3d.engine.config import CsdConfig
from csd3d.priors.auto import find_prior
from csd3d.priors.prior import Prompts
from csd3d.runs.checkpoint import load_checkpoint
from csd3d.runs.crew import load_shared, together
from csd3d.runs.progress import RunProgress
from panorama import PanoramaConfig, edit_image, edit_panorama
from video import VideoConfig, edit_video

CSD = CsdConfig(steps=2, lr=0.05, s_text=2.0)
QUIET = RunProgress(quiet=True)


def edits(folder: Path) -> Iterator[tuple[str, Any, Path, Any]]:
    """(name, function, source, settings) of all."""
    video = VideoConfig(csd=CSD, prior=str(folder / "prior"), device="cpu", size=32, frames_per_step=3, chunk_frames=2)
    wide = PanoramaConfig(csd=CSD, prior=str(folder / "prior"), device="cpu", window=4, windows_per_step=3, wrap="none")
    yield "clip", edit_video, folder / "clip.mp4", video
    reused = replace(CSD, guide_every=2, timesteps="descending", s_image=1.5)
    yield "reused", edit_video, folder / "clip.mp4", replace(video, csd=reused)
    looking = replace(
        video, share="anchors", attention=("masactrl",), csd=replace(CSD, coupling="motion", optimizer="adam")
    )
    yield "attending", edit_video, folder / "clip.mp4", looking
    yield "like", edit_video, folder / "clip.mp4", replace(video, like=str(folder / "wide.png"), share="anchors")
    sampled = {"by": "sampling", "csd": replace(CSD, coupling="independent", t_max=900)}
    yield "sampled", edit_video, folder / "clip.mp4", replace(looking, start="inverted", **sampled)
    yield "wide sampled", edit_panorama, folder / "wide.png", replace(wide, share="anchors", **sampled)
    yield "wide", edit_panorama, folder / "wide.png", wide
    cds = {"residual": "source", "coupling": "independent", "regulariser": "patch-nce", "nce_patches": 4}
    caption = replace(
        wide, csd=replace(CSD, **cds), prior=str(folder / "t2i"), source_prompt="a blue ball", steer="excite:until=1"
    )
    yield "cds", edit_image, folder / "wide.png", replace(caption, window=None, size=32)


def in_regions(folder: Path) -> torch.Tensor:
    """The direction of a step in which phrases hold in regions (dense), of whatever processes there are."""
    prior = load_shared(find_prior(folder / "t2i"), device="cpu", precision="float32")
    masks = torch.zeros(3, 2, 8, 8)
    masks[:, 0, :, :4] = masks[:, 1, :, 4:] = 1
    dense = Attention(compositions=(Dense(until=1.0),), regions=Regions(("ball", "cube"), masks))
    csd = CsdConfig(residual="noise", s_text=2.0)
    score = prior.score_under(csd, Prompts("a ball, a cube"), dense)
    z, s, e = (torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(k)) for k in range(3))
    return csd_step(score, score.schedule.noised(Batch(z, s, torch.arange(3)), 800, e), csd).g


def run_all(folder: Path, out: Path) -> int:
    """Every edit into a folder of its own below `out`; then one that is refused, which harms nobody."""
    out.mkdir()
    torch.save(in_regions(folder), out / "dense.pt")
    for name, edit, source, config in edits(folder):
        sentence = "a red ball" if name == "cds" else "make it snowy"
        edit(source, sentence, None, config, run_dir=out / name, progress=QUIET)
    first = next(edits(folder))[3]
    for config in (replace(first, device="cuda:1"), replace(first, attention=("eye",))):
        try:
            edit_video(folder / "clip.mp4", "make it snowy", None, config, run_dir=out / "none", progress=QUIET)
        except ValueError as error:
            print(error)
    return 0


def latents(run: Path) -> torch.Tensor:
    """The last saved ones of a run."""
    state = load_checkpoint(run / "state.safetensors")
    own = state.tensors.get("particles.z")
    return torch.from_numpy(np.load(run / f"state-{state.record['step']}-z.npy")) if own is None else own


def main() -> None:
    """Of a process; its words are the folder."""
    place = Path(sys.argv[1])
    sys.exit(together(lambda: run_all(place, place / f"by-{os.environ['RANK']}")))
