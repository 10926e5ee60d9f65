"""The presets in configs/: overrides only, each accepted by the editor that its name begins with."""

from pathlib import Path

import pytest

from csd3d.runs.settings import load_preset, override
from video.config import VideoConfig

PRESETS = sorted((Path(__file__).parents[1] / "configs").glob("video-*.json"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_video_presets_change_something_and_only_what_there_is(path: Path) -> None:
    changed = override(VideoConfig(), load_preset(path, VideoConfig), where=path.name)
    assert changed != VideoConfig()


def test_there_are_presets() -> None:
    assert PRESETS
