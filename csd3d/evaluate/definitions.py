"""What each number of an evaluation is: the written definition, which way is better, and the papers' choices.

The formulas are in `csd3d.metrics`; here they have the names that tables use.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", "neither"]
ARROWS: Mapping[Better, str] = {"higher": "↑", "lower": "↓", "neither": ""}


@dataclass(frozen=True)
class Metric:
    """A column of the table."""

    name: str
    better: Better
    text: str
    """The definition, in words."""
    papers: str = ""
    """Who reports it, with which network and scaling."""
    factor: float = 1.0
    """What tables for people show it times; JSON and CSV hold it as it is defined."""
    unit: str = ""
    digits: int = 3

    @property
    def heading(self) -> str:
        """For a table."""
        unit = f", {self.unit}" if self.unit else ""
        return f"{self.name}{unit} {ARROWS[self.better]}".strip()


_CLIP = "CSD: OpenCLIP ViT-bigG-14"
METRICS: Mapping[str, Metric] = {
    m.name: m
    for m in (
        Metric(
            "change", "neither",
            "Mean of |result - source| over all pixels and channels: how much was done at all. Whoever does nothing is "
            "consistent, so the others are read beside it.", "", 100.0, "%", 2,
        ),
        Metric(
            "background", "lower",
            "Mean of |result - source| over the pixels that the mask leaves alone (black), at the measured size.",
            "", 100.0, "%", 2,
        ),
        Metric(
            "structure", "lower",
            "Mean squared difference of the cosines between all pairs of cells of 8 x 8 px, described by where their "
            "edges point: blind to colour. The distance of Splice (Tumanyan et al. 2022), with edges in place of DINO.",
            "", 100.0, "x 100", 2,
        ),
        Metric(
            "warp error", "lower",
            "Mean of |first - warped second| over neighbouring frames of the result, along the flow of the source "
            "(DIS, both ways; pixels whose flow does not come home are left out). Read beside the source's own.",
            "Lai et al. 2018 and others, with FlowNet2 or RAFT and squared differences.", 100.0, "%", 2,
        ),
        Metric(
            "WarpSSIM", "higher",
            "SSIM (7 x 7 windows) of neighbouring frames of the result, the second warped onto the first along the "
            "source's flow, over the whole picture.", "RAVE, with RAFT, times 100.",
        ),
        Metric(
            "flicker", "lower",
            "Mean of ((2 x_i - x_(i-1) - x_(i+1)) / 4)^2 over inner frames: energy at the highest frequencies of time. "
            "Motion has some too; read beside the source's own.", "", 1e4, "x 10^4", 2,
        ),
        Metric(
            "feature consistency", "higher",
            "Mean cosine of neighbouring frames' pooled features of EfficientNet-Lite0 (ImageNet, 1280 numbers, whole "
            "picture, shorter side 224 px): image consistency without CLIP.",
            "CLIP image consistency, of another network.",
        ),
        Metric(
            "feature content", "higher",
            "Cosine of the same features of each frame and its source: is what a classifier sees still there. An edit "
            "that replaces things must lower it.", "CLIP-I, of another network.",
        ),
        Metric(
            "feature structure", "lower",
            "Mean squared difference of the self-similarities of the same network's features at a stride of 16 px.",
            "DINO structure distance, of another network.", 100.0, "x 100", 2,
        ),
        Metric(
            "CLIP-T", "higher",
            "Mean cosine of each frame's embedding and the prompt's: the CLIP score. Papers give captions of the "
            "result; an instruction scores lower for any result.",
            "RAVE, FateZero, Tune-A-Video: ViT-B/32; TGVE, InstructPix2Pix: ViT-L/14, TGVE times 100.",
        ),
        Metric(
            "CLIP direction", "higher",
            "Mean cosine of the change of the frame's embedding and that of the sentence's, from the source prompt to "
            "the prompt, embeddings of length 1 (StyleGAN-NADA).",
            f"{_CLIP}; Instruct-NeRF2NeRF, InstructPix2Pix: ViT-L/14. Some give it times 100.",
        ),
        Metric(
            "CLIP consistency", "higher",
            "Mean cosine of neighbouring frames' embeddings: image consistency, Tem-Con, frame consistency. Blur and "
            "standing still raise it.", f"{_CLIP}; FateZero, TokenFlow: ViT-B/32.",
        ),
        Metric(
            "CLIP-F", "higher", "Mean cosine of the embeddings of all pairs of different frames.",
            "RAVE: ViT-B/32; TGVE: ViT-L/14; both times 100.",
        ),
        Metric(
            "CLIP direction consistency", "higher",
            "Mean cosine of the difference of neighbouring views' embeddings after the edit and before it, embeddings "
            "of length 1.", "Instruct-NeRF2NeRF, on novel camera paths; its formula is read as its text describes it.",
        ),
        Metric(
            "Frame-Acc", "higher",
            "Share of frames whose embedding is at least as near to the prompt as to the source prompt.",
            "FateZero, Tune-A-Video: ViT-B/32.",
        ),
        Metric(
            "Q_edit", "higher", "Product of the means WarpSSIM and CLIP-T of a clip.",
            "RAVE: RAFT and ViT-B/32, times 100 where WarpSSIM and CLIP-T are.",
        ),
        Metric(
            "LPIPS", "lower",
            "Learned perceptual distance of each frame to its source, pictures as they are measured.",
            "DDS, CDS and others, with AlexNet (0.1), mostly at 512 px.",
        ),
        Metric(
            "LPIPS neighbours", "lower", "The same of neighbouring frames of the result. Blur lowers it.",
            "CSD, for clips and scenes.",
        ),
        Metric(
            "DINO structure", "lower",
            "Mean squared difference of the cosines between all pairs of keys of the last layer, that of the class "
            "token included, shorter side 224 px (Splice).", "Plug-and-Play, DDS, CDS: DINO ViT-B/8.",
        ),
        Metric(
            "FID", "lower",
            "Frechet distance of the Gaussians through Inception's 2048 features of all frames of a method, and those "
            "of the reference. It falls as the number of pictures grows: compare at equal numbers.",
            "CSD (text to 3-D): against pictures sampled for the prompts, tens of thousands are usual.", 1.0, "", 1,
        ),
    )
}  # fmt: skip
