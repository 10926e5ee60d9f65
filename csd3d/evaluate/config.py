"""The settings of an evaluation."""

from dataclasses import dataclass
from pathlib import Path

from csd3d.engine.validate import require, require_int, require_side


@dataclass(frozen=True)
class EvaluateConfig:
    """What is measured and how. Without networks: pixels and edges; each network that is named adds its metrics."""

    size: int = 512
    """Shorter side in px at which frames are measured; smaller ones are not enlarged. Papers measure at 512."""
    max_frames: int | None = None
    """Measure only the first frames. None: all that source and result both have."""
    ordered: bool = True
    """Frames follow one another, as in a clip or along a camera path; else nothing is measured between them."""
    features: str | None = None
    """File of EfficientNet-Lite0's weights, for the learned features. None: those that csd3d[metrics] brings, where it
    is installed."""
    clip: str | None = None
    """CLIP: a folder, or a model id such as openai/clip-vit-base-patch32 (FateZero, RAVE),
    openai/clip-vit-large-patch14 (Instruct-NeRF2NeRF, TGVE) or laion/CLIP-ViT-bigG-14-laion2B-39B-b160k (CSD).
    None: no metrics of CLIP."""
    dino: str | None = None
    """DINO: a folder, or a model id such as facebook/dino-vitb8 (Splice, Plug-and-Play, CDS). None: none of DINO."""
    lpips: Path | None = None
    """LPIPS: file of torchvision's AlexNet (the papers') or VGG16 weights. None: no LPIPS."""
    fid: Path | None = None
    """FID: file of Inception's weights as torch-fidelity publishes them. None: no FID."""
    reference: Path | None = None
    """Folder of pictures that the FID compares results with. None: the sources."""
    fetch: bool = False
    """Fetch networks that are named by an id and not on this machine yet."""
    device: str | None = None
    """Where networks compute. None: CUDA when there is one."""
    chunk_frames: int = 8
    """Frames of the source and of each result that are held at a time."""

    def __post_init__(self) -> None:
        require_side(self, 16, "size")
        require_int(self, 1, None, "max_frames", "chunk_frames")
        require(self, "reference", self.reference is None or self.fid is not None, "--fid, which it is for")
