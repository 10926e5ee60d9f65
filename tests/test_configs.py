"""The presets in configs/: overrides only, each accepted by the editor that its name begins with, or by all."""

from pathlib import Path

import pytest

from csd3d.runs.settings import load_preset, override
from panorama.config import PanoramaConfig
from video.config import VideoConfig

CONFIGS = Path(__file__).parents[1] / "configs"
PRESETS = sorted(CONFIGS.glob("video-*.json"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_video_presets_change_something_and_only_what_there_is(path: Path) -> None:
    changed = override(VideoConfig(), load_preset(path, VideoConfig), where=path.name)
    assert changed != VideoConfig()


def test_there_are_presets() -> None:
    assert PRESETS


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.json")), ids=lambda p: p.stem)
def test_presets_of_the_engine_fit_every_editor(path: Path) -> None:
    for config in (VideoConfig(), PanoramaConfig()):
        if not path.stem.startswith("video-"):
            changed = override(config, load_preset(path, type(config)), where=path.name)
            assert changed.csd != config.csd
