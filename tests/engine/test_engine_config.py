"""Settings: what is refused and in which words; that presets are what DESIGN's tables say."""

import dataclasses
from typing import Any

import pytest

from csd3d.engine import METHODS, PAPER, CsdConfig


def validate(changes: dict[str, Any]) -> None:
    """What a user's `CsdConfig(**changes)` checks. Here the run-time type checks of the tests would come first."""
    config = object.__new__(CsdConfig)
    for name, value in (dataclasses.asdict(CsdConfig()) | changes).items():
        object.__setattr__(config, name, value)
    config.__post_init__()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"residual": "nosie"}, "residual: expected one of source, noise, got 'nosie'"),
        ({"coupling": "SVGD"}, "coupling: expected one of svgd, motion, depth, independent, got 'SVGD'"),
        ({"kernel_on": "pixels"}, "kernel_on: expected one of noisy, clean, features, got 'pixels'"),
        ({"normalise": "sum"}, "normalise: expected one of row-sum, count, got 'sum'"),
        ({"weight": "none"}, "weight: expected one of variance, one, velocity, got 'none'"),
        ({"noise": "same"}, "noise: expected one of independent, shared, got 'same'"),
        ({"optimizer": "lbfgs"}, "optimizer: expected one of sgd, adam, got 'lbfgs'"),
        ({"bandwidth": "mean"}, "bandwidth: expected median, paper, or a finite gamma of 0 or more, got 'mean'"),
        ({"bandwidth": -1.0}, "bandwidth: expected median, paper, or a finite gamma of 0 or more, got -1.0"),
        ({"bandwidth": float("nan")}, "bandwidth: expected median, paper, or a finite gamma of 0 or more, got nan"),
        ({"steps": -1}, "steps: expected 0 or more, got -1"),
        ({"lr": 0.0}, "lr: expected a number above 0, got 0.0"),
        ({"lr": float("inf")}, "lr: expected a finite number, got inf"),
        ({"s_text": float("nan")}, "s_text: expected a finite number, got nan"),
        ({"lr_decay": 1.1}, r"lr_decay: expected a number in \(0, 1\], got 1.1"),
        ({"lr_decay_every": 0}, "lr_decay_every: expected 1 or more, got 0"),
        ({"repulsion": -0.1}, "repulsion: expected 0 or more, got -0.1"),
        ({"regulariser": "nce"}, "regulariser: expected one of none, patch-nce, got 'nce'"),
        (
            {"nce_layers": "up"},
            "nce_layers: expected one of self-attention, cross-attention, score, got 'up'",
        ),
        ({"nce_weight": -1.0}, "nce_weight: expected 0 or more, got -1.0"),
        ({"nce_temperature": 0.0}, "nce_temperature: expected a number above 0, got 0.0"),
        ({"nce_patches": 1}, "nce_patches: expected 2 or more, got 1"),
        ({"nce_patch_sizes": ()}, r"nce_patch_sizes: expected whole numbers of 1 or more, got \(\)"),
        ({"nce_patch_sizes": (1, 0)}, r"nce_patch_sizes: expected whole numbers of 1 or more, got \(1, 0\)"),
        ({"tolerance": -0.1}, "tolerance: expected 0 to 1, got -0.1"),
        ({"guide_min": 300, "guide_max": 300}, "guide_min: expected a timestep below guide_max = 300, got 300"),
        ({"t_min": -5}, "t_min: expected 0 or more and below t_max = 500, got -5"),
        ({"t_min": 500}, "t_min: expected 0 or more and below t_max = 500, got 500"),
    ],
)
def test_bad_values_are_refused_with_name_expected_and_got(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        validate(changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 10.5}, "steps: expected a whole number, got 10.5"),
        ({"t_max": True}, "t_max: expected a whole number, got True"),
        ({"lr": "fast"}, "lr: expected a number, got 'fast'"),
        ({"s_image": None}, "s_image: expected a number, got None"),
    ],
)
def test_bad_kinds_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{message}$"):
        validate(changes)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(TypeError, match="leraning_rate"):
        CsdConfig(leraning_rate=1.0)  # pyright: ignore[reportCallIssue]


def test_whole_numbers_will_do_for_numbers() -> None:
    validate({"lr": 2, "s_text": 7, "bandwidth": 0})


def test_methods_are_the_table_of_the_design() -> None:
    rows = {name: (config.residual, config.coupling, config.regulariser) for name, config in METHODS.items()}
    assert rows == {
        "sds": ("noise", "independent", "none"),
        "csd": ("noise", "svgd", "none"),
        "dds": ("source", "independent", "none"),
        "cds": ("source", "independent", "patch-nce"),
        "csd-edit": ("source", "svgd", "none"),
    }
    assert METHODS["csd-edit"] == CsdConfig()


@pytest.mark.parametrize("name", [name for name in PAPER if name.startswith("csd-edit")])
def test_csd_edit_presets_are_the_published_ones(name: str) -> None:
    config = PAPER[name]
    assert (config.residual, config.coupling, config.kernel_on) == ("source", "svgd", "noisy")
    assert (config.bandwidth, config.normalise, config.repulsion, config.weight) == ("paper", "count", 1.0, "variance")
    assert (config.optimizer, config.lr_decay, config.lr_decay_every) == ("sgd", 0.9, 20)
    assert (config.t_min, config.t_max, config.steps) == (20, 500, 200)


@pytest.mark.parametrize("name", ["dds", "cds"])
def test_dds_and_cds_presets_are_the_published_ones(name: str) -> None:
    config = PAPER[name]
    assert (config.residual, config.coupling, config.weight) == ("source", "independent", "one")
    assert config.lr == pytest.approx(0.1 * 2000 / (64 * 64))
    assert (config.lr_decay, config.t_min, config.t_max, config.steps, config.s_text) == (1.0, 50, 950, 200, 7.5)


def test_the_cds_preset_has_the_published_term() -> None:
    config = PAPER["cds"]
    assert (config.regulariser, config.nce_weight, config.nce_layers) == ("patch-nce", 3.0, "self-attention")
    assert (config.nce_patches, config.nce_patch_sizes, config.nce_temperature) == (256, (1, 2), 0.07)


def test_frozen_and_shared_presets_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        METHODS["sds"].lr = 3.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        METHODS["sds"] = CsdConfig()  # type: ignore[index]
