"""The picture in the README: a sample clip and a sample turn, each with edits by the built-in prior, as one sheet.

python scripts/make_images.py docs/images/edits.jpg
"""

import sys
import tempfile
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from csd3d.media.sheet import contact_sheet, save_picture
from csd3d.priors.auto import load_prior
from csd3d.priors.defaults import BUILTIN
from csd3d.world.export import write_clip, write_panorama
from csd3d.world.sample import sample_clip, sample_panorama
from panorama import PanoramaConfig, edit_panorama
from scripts.benchmarks.shown import shown
from video import VideoConfig, edit_video

SENTENCES = ("make it snowy", "make it sunset")
CSD = BUILTIN
COLUMNS, CELL_PX = 5, 190


def main(output: Path) -> None:
    """Sample, edit, lay out."""
    prior = load_prior("builtin")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip, turn = folder / "clip.mp4", folder / "turn.jpg"
        write_clip(sample_clip(8, frames=12, height_px=192, width_px=320, moving=True), clip)
        write_panorama(sample_panorama(2, kind="strip", height_px=128, turn=360), turn)
        frames, wide = {"a clip": shown(clip, COLUMNS)}, {"a full turn": shown(turn, COLUMNS)}
        for k, sentence in enumerate(SENTENCES):
            config, run_dir = VideoConfig(csd=CSD), folder / f"clip-{k}"
            edited = edit_video(clip, sentence, folder / f"{k}.mkv", config, run_dir=run_dir, prior=prior)
            frames[sentence] = shown(edited.path, COLUMNS)
        config, run_dir = PanoramaConfig(csd=CSD), folder / "turn"
        edited = edit_panorama(turn, "make it night", folder / "night.png", config, run_dir=run_dir, prior=prior)
        wide["make it night"] = shown(edited.path, COLUMNS)
    save_picture(_below(_sheet(frames), _sheet(wide)), output)


def _sheet(rows: dict[str, Float[Tensor, "_n 3 _H _W"]]) -> Image.Image:
    """Rows of the same width, whether of many frames or of one picture."""
    several = max(len(pictures) for pictures in rows.values()) > 1
    return contact_sheet(rows, cell_px=CELL_PX if several else COLUMNS * (CELL_PX + 6) - 6)


def _below(*sheets: Image.Image) -> Image.Image:
    page = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)), sheets[0].getpixel((0, 0)))
    top = 0
    for sheet in sheets:
        page.paste(sheet, (0, top))
        top += sheet.height
    return page


if __name__ == "__main__":
    main(Path(sys.argv[1]))
