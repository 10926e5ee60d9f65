"""Settings are checked at the door, and built from flags in the order prior, preset, flag."""

import json
from fractions import Fraction

import pytest

from csd3d.engine.config import CsdConfig
from csd3d.priors.store.resolve import Resolved
from csd3d.runs.settings import override, to_plain
from video.config import VideoConfig


@pytest.fixture(autouse=True)
def _any_prior(monkeypatch):
    """Names resolve without weights."""

    def resolve(name):
        builtin = name == "builtin"
        return Resolved(name, None, "instruct" if builtin else None, builtin=builtin)

    monkeypatch.setattr("csd3d.priors.lookup.resolve", resolve)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"size": 4}, ValueError, "size: expected 8 or more, got 4"),
        ({"frames_per_step": 0}, ValueError, "frames_per_step"),
        ({"frames_per_step": 2.5}, TypeError, "whole number"),
        ({"draw": "random"}, ValueError, "one of stratified, window"),
        ({"detail": 1.5}, ValueError, "0 to 1"),
        ({"detail": float("nan")}, ValueError, "0 to 1"),
        ({"crf": 52}, ValueError, "0 to 51"),
        ({"seed": -1}, ValueError, "seed"),
        ({"csd": CsdConfig(coupling="depth")}, ValueError, "coupling: expected svgd, motion or independent"),
        ({"max_frames": 0}, ValueError, "max_frames"),
        ({"fps": Fraction(0)}, ValueError, "fps"),
        ({"checkpoint_every": True}, TypeError, "whole number"),
    ],
)
def test_refusals(change, error, match):
    config = VideoConfig()  # values are put in by hand: the shape checker of the tests would refuse some before us
    for name, value in change.items():
        object.__setattr__(config, name, value)
    with pytest.raises(error, match=match):
        config.__post_init__()


def test_settings_survive_the_manifest():
    config = VideoConfig(csd=CsdConfig(lr=1.0, bandwidth=0.5), fps=Fraction(30000, 1001), size=64)
    plain = json.loads(json.dumps(to_plain(config)))
    assert override(VideoConfig(), plain) == config
    assert override(VideoConfig(), json.loads(json.dumps(to_plain(VideoConfig())))) == VideoConfig()
