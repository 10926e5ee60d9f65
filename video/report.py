"""What the page of a video run shows."""

from csd3d.media.clip.source import Clip
from csd3d.runs.manifest import Manifest
from csd3d.runs.report import Clip as Player
from csd3d.runs.report import Report


def make_report(clip: Clip, prompt: str, manifest: Manifest) -> Report:
    """What the page of a finished run shows of its own."""
    info, edit = clip.info, manifest.config
    facts = [
        f"{info.width_px} × {info.height_px} px",
        f"{info.frames} frames",
        f"{float(info.fps):.5g} fps",
        "by sampling" if edit["by"] == "sampling" else f"{edit['csd']['coupling']} coupling",
        f"prior {manifest.prior['name']}",
        manifest.said_steps,
    ]
    return Report(
        title=prompt,
        subtitle=info.path.name,
        facts=facts,
        clips=(Player("Source", "media/source.mp4"), Player("Edited", "media/edited.mp4")),
        fps=float(info.fps),
    )
