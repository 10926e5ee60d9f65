"""In which precision a run computes where nobody has asked for one."""

import pytest
import torch

from csd3d.priors.defaults import Precision
from csd3d.priors.store.device import IN_BFLOAT16, has_bfloat16
from csd3d.runs.job import Request, load_for
from panorama import PanoramaConfig
from tests.toys import ToyPrior


@pytest.mark.parametrize(
    ("prior", "asked", "there", "taken"),
    [
        ("builtin", "auto", True, "bfloat16"),
        ("builtin", "auto", False, "auto"),
        ("builtin", "float32", True, "float32"),
        ("builtin:t2i", "auto", True, "auto"),
    ],
)
def test_the_built_in_editor_takes_bfloat16_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, prior: str, asked: Precision, there: bool, taken: Precision
) -> None:
    loaded: list[Precision] = []

    def load(*_: object, precision: Precision, **__: object) -> ToyPrior:
        loaded.append(precision)
        return ToyPrior()

    monkeypatch.setattr("csd3d.runs.job.load_shared", load)
    monkeypatch.setattr("csd3d.runs.job.has_bfloat16", lambda device: there and device.type == "cpu")
    config = PanoramaConfig(prior=prior, precision=asked, device="cpu")
    said = load_for(Request(None, None, None, config)).said
    assert loaded == [taken]
    assert (IN_BFLOAT16 in said) == (asked != taken)


def test_only_a_processor_computes_bfloat16_by_itself() -> None:
    assert not has_bfloat16(torch.device("cuda"))
    assert has_bfloat16(torch.device("cpu")) == torch.cpu._is_avx512_bf16_supported()
