"""A prior is found and loaded by its name alone, and nothing is looked up or fetched twice."""

from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from csd3d.priors import auto, latent_diffusion
from csd3d.priors.auto import find_prior, load_prior
from csd3d.priors.defaults import default_config
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.lookup import resolve_for
from csd3d.priors.store import load, resolve
from csd3d.priors.text_to_image import TextToImagePrior
from tests.priors.tiny import write_tiny_prior


class Counted:
    """How often names are resolved, directories checked, and hub ids fetched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
        self.resolved, self.checked = Mock(side_effect=resolve.resolve), Mock(side_effect=resolve.check_directory)
        self.fetched = Mock(return_value=str(hub))
        for room in (auto, latent_diffusion):
            monkeypatch.setattr(room, "resolve", self.resolved)
        for room in (load, resolve):
            monkeypatch.setattr(room, "check_directory", self.checked)
        monkeypatch.setattr("csd3d.priors.lookup.resolve", self.resolved)
        monkeypatch.setattr(DiffusionPipeline, "download", self.fetched)

    @property
    def calls(self) -> tuple[int, int, int]:
        return self.resolved.call_count, self.checked.call_count, self.fetched.call_count


@pytest.fixture(scope="module")
def t2i(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_prior(tmp_path_factory.mktemp("priors") / "t2i", kind="text-to-image")


def test_the_files_say_which_kind_it_is(tiny: Path, t2i: Path) -> None:
    assert isinstance(load_prior(tiny, device="cpu"), InstructPrior)
    assert isinstance(load_prior(t2i, device="cpu"), TextToImagePrior)


@pytest.mark.parametrize("name", ["owner/name", None])
def test_a_start_resolves_checks_and_fetches_once(t2i: Path, monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    counted = Counted(monkeypatch, t2i)
    found = find_prior(name or str(t2i), device="cpu")
    assert (found.path, found.kind) == (t2i, "text-to-image")
    default_config(builtin=found.builtin, kind=found.kind)
    assert find_prior(found, device="cpu") is found
    prior = load_prior(found, device="cpu")
    assert (prior.name, prior.path, prior.kind) == (name or str(t2i), t2i, "text-to-image")
    assert counted.calls == (1, 1, 1 if name else 0)


@pytest.mark.parametrize("name", ["owner/name", None])
def test_loading_by_name_looks_once_too(t2i: Path, monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    counted = Counted(monkeypatch, t2i)
    load_prior(name or t2i, device="cpu")
    assert counted.calls == (1, 1, 1 if name else 0)
    TextToImagePrior.load(name or t2i, device="cpu")
    assert counted.calls == (2, 2, 2 if name else 0)


def test_settings_fetch_only_where_the_kind_decides(t2i: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch, t2i)
    assert resolve_for("dds", "owner/name").kind is None
    assert counted.calls == (1, 0, 0)
    found = resolve_for(None, "owner/name", device="cpu")
    assert found.kind == "text-to-image"
    load_prior(found, device="cpu")
    assert counted.calls == (2, 1, 1)


def test_precision_reaches_the_networks(tiny: Path) -> None:
    prior = load_prior(tiny, device="cpu", precision="bfloat16")
    assert isinstance(prior, InstructPrior)
    assert prior.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="precision: expected float32 or bfloat16 on a CPU, got float16"):
        load_prior(tiny, device="cpu", precision="float16")
