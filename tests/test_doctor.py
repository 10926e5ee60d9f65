"""`csd3d doctor`: each check with made-up facts, the probes against this machine, the command as a whole."""

import json
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from rich.console import Console

from csd3d.cli import doctor as command
from csd3d.doctor import checks, probes
from csd3d.doctor.checks import CudaFacts, Gpu
from csd3d.doctor.findings import Finding, core_works

H200 = Gpu("H200", 139.8, (9, 0))
OLD = Gpu("GTX 1080", 8.0, (6, 1))


def test_a_finding_that_wants_something_says_what() -> None:
    with pytest.raises(ValueError, match="what to do"):
        Finding("g", "n", "problem", "broken")


def test_core_works_unless_something_is_a_problem() -> None:
    fine = [Finding("g", "a", "ok", ""), Finding("g", "b", "absent", ""), Finding("g", "c", "warning", "", "do")]
    assert core_works(fine)
    assert not core_works([*fine, Finding("g", "d", "problem", "", "do")])


@pytest.mark.parametrize(
    ("version", "level"), [((3, 9), "problem"), ((3, 10), "ok"), ((3, 12), "ok"), ((3, 13), "problem")]
)
def test_python_range(version: tuple[int, int], level: str) -> None:
    assert checks.check_python(version).level == level


@pytest.mark.parametrize(
    ("installed", "error", "level", "words"),
    [
        ("2.12.1", None, "ok", "2.12.1"),
        ("2.13.0+cpu", None, "ok", "2.13.0+cpu"),
        ("2.4.0", None, "problem", "needs >=2.5"),
        (None, None, "problem", "not installed"),
        ("2.12.1", "libcudart.so: cannot open", "problem", "libcudart.so"),
    ],
)
def test_package_against_its_range(installed: str | None, error: str | None, level: str, words: str) -> None:
    finding = checks.check_package(Requirement("torch>=2.5"), installed, error)
    assert finding.level == level
    assert words in finding.detail
    assert ("torch>=2.5" in finding.remedy) == (level == "problem")


@pytest.mark.parametrize(
    ("torch", "install", "index"),
    [
        ("2.13.0+cpu", "torchvision==0.28.*", "/cpu"),
        ("2.12.1", "torchvision==0.27.*", None),
        ("2.5.1+cu124", "torchvision==0.20.*", "/cu124"),
    ],
)
def test_broken_torchvision_pair_names_the_partner(torch: str, install: str, index: str | None) -> None:
    finding = checks.check_torch_pair(torch, "0.24.0", "operator torchvision::nms does not exist")
    assert finding.level == "problem"
    assert install in finding.remedy
    assert "--no-deps" in finding.remedy  # a bare install of torchvision would replace torch
    assert (index in finding.remedy) if index else ("--index-url" not in finding.remedy)


def test_torchvision_absent_working_or_broken_otherwise() -> None:
    assert checks.check_torch_pair("2.12.1", None, None).level == "absent"
    assert checks.check_torch_pair("2.12.1", "0.27.1", None).level == "ok"
    other = checks.check_torch_pair("2.12.1", "0.27.1", "libpng16.so: cannot open")
    assert other.level == "problem"
    assert "libpng16.so" in other.detail


def test_cv2_clash_is_recognised() -> None:
    both = {"opencv-python", "opencv-python-headless", "numpy"}
    assert checks.check_cv2({"opencv-python-headless"}, None).level == "ok"
    clash = checks.check_cv2(both, None)
    assert clash.level == "warning"
    assert "opencv-python and opencv-python-headless" in clash.detail
    assert "uninstall -y opencv-python opencv-python-headless" in clash.remedy
    assert checks.check_cv2(both, "No module named 'cv2'").level == "problem"
    assert checks.check_cv2({"opencv-python-headless"}, "libGL.so.1").level == "problem"


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        (CudaFacts("2.12.1", "13.0", (H200,), True), "ok", "H200, 140 GiB, sm_90"),
        (CudaFacts("2.12.1", "13.0", (), False), "absent", "CPU"),
        (CudaFacts("2.13.0+cpu", None, (), False), "absent", "CPU"),
        (CudaFacts("2.13.0+cpu", None, (), True), "warning", "build for the CPU"),
        (CudaFacts("2.12.1", "13.0", (), True), "warning", "sees no GPU"),
    ],
)
def test_cuda(facts: CudaFacts, level: str, words: str) -> None:
    finding = checks.check_cuda(facts)
    assert finding.level == level
    assert words in finding.detail


def test_the_cuda_wheel_to_install_carries_no_local_tag() -> None:
    assert '"torch==2.13.0"' in checks.check_cuda(CudaFacts("2.13.0+cpu", None, (), True)).remedy


@pytest.mark.parametrize(
    ("gpus", "flags", "level"),
    [((H200,), (), "ok"), ((OLD,), ("avx2",), "absent"), ((OLD,), ("amx_bf16",), "ok"), ((), ("avx512_bf16",), "ok")],
)
def test_bf16(gpus: tuple[Gpu, ...], flags: tuple[str, ...], level: str) -> None:
    assert checks.check_bf16(gpus, flags).level == level


def test_accelerations_are_optional() -> None:
    assert checks.check_sdpa(["flash"]).level == "ok"
    assert checks.check_sdpa([]).level == "absent"
    assert checks.check_compile(cuda=False, triton=False, compiler="/usr/bin/c++").level == "ok"
    assert "triton" in checks.check_compile(cuda=True, triton=False, compiler="/usr/bin/c++").detail
    assert "compiler" in checks.check_compile(cuda=True, triton=True, compiler=None).detail
    assert checks.check_tinycudann(None, None, cuda=True).level == "absent"
    assert checks.check_tinycudann("2.0", None, cuda=True).level == "ok"
    assert checks.check_tinycudann("2.0", "no CUDA", cuda=False).level == "absent"
    assert checks.check_tinycudann("2.0", "undefined symbol", cuda=True).level == "warning"


def test_cpu_threads() -> None:
    assert checks.check_cpu("AVX2", 2, 2, "PASSIVE").level == "ok"
    assert "PASSIVE" in checks.check_cpu("AVX2", 2, 2, None).detail
    crowded = checks.check_cpu("AVX2", 2, 16, None)
    assert crowded.level == "warning"
    assert crowded.remedy == "export OMP_NUM_THREADS=2"


def test_codecs_and_decord() -> None:
    assert checks.check_codecs({"libx264", "ffv1"}).level == "ok"
    assert checks.check_codecs({"ffv1"}).level == "problem"
    assert "libavcodec" in checks.check_codecs((), "libavcodec.so.62: cannot open").detail
    assert checks.check_decord(8, 8, None).level == "ok"
    assert checks.check_decord(7, 8, None).level == "warning"
    assert "DECORDError" in checks.check_decord(None, 8, "DECORDError: bad").detail


def test_programs_for_the_nerf_extra() -> None:
    assert checks.check_ffmpeg(nerfstudio=True, on_path="/usr/bin/ffmpeg", bundled=None, programs="/p").level == "ok"
    assert checks.check_ffmpeg(nerfstudio=False, on_path=None, bundled=None, programs="/p").level == "absent"
    assert (
        "ln -s /x/ffmpeg-7 /p/ffmpeg"
        in checks.check_ffmpeg(nerfstudio=True, on_path=None, bundled="/x/ffmpeg-7", programs="/p").remedy
    )
    assert "imageio-ffmpeg" in checks.check_ffmpeg(nerfstudio=True, on_path=None, bundled=None, programs="/p").remedy
    assert checks.check_compiler(nerfstudio=False, compiler="/usr/bin/c++").level == "ok"
    assert "build-essential" in checks.check_compiler(nerfstudio=False, compiler=None).remedy
    assert checks.check_compiler(nerfstudio=True, compiler=None).remedy == ""


def test_extras_and_priors() -> None:
    assert checks.check_extra("train", "training", []).level == "ok"
    missing = checks.check_extra("train", "training", ["scikit-image"])
    assert missing.level == "absent"
    assert "scripts/setup.sh train" in missing.remedy
    assert checks.check_prior("builtin:instruct", "instruct, 14 MB", None).level == "ok"
    broken = checks.check_prior("builtin:instruct", None, "prior 'builtin:instruct': no weights")
    assert broken.level == "problem"
    assert broken.detail == "no weights"


def test_families_say_what_they_lack() -> None:
    assert checks.check_families({"SDXL": [], "DreamLite": []}).level == "ok"
    found = checks.check_families({"SDXL": [], "DreamLite": ["torchvision"]})
    assert found.level == "absent"
    assert found.detail == ('1 of 2 can be loaded; DreamLite needs torchvision: pip install "csd3d[families]"')


def test_flags_say_what_they_lack() -> None:
    assert checks.check_loading({"--lora": None}).level == "ok"
    found = checks.check_loading({"--lora": None, "--quantise nf4": "bitsandbytes"})
    assert found.level == "absent"
    assert found.detail == "--lora can be used; --quantise nf4 needs bitsandbytes"
    assert found.remedy == "pip install bitsandbytes"


def test_a_section_that_breaks_is_a_finding() -> None:
    def section():
        yield Finding("devices", "CPU", "ok", "")
        raise RuntimeError("libtorch is\nnot there")

    (finding,) = command.guarded("devices", section)
    assert finding.level == "problem"
    assert "not there" in finding.detail


def test_remedies_name_the_installer_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert command.with_installer("pip install a; pip uninstall b") == "uv pip install a; uv pip uninstall b"
    monkeypatch.setattr(command, "find_spec", lambda name: object())
    assert command.with_installer("pip install a") == "pip install a"


def test_the_probes_agree_with_this_machine() -> None:
    assert probes.version("numpy") is not None
    assert probes.version("no-such-package") is None
    assert probes.import_error("numpy") is None
    assert probes.import_error("no_such_module") == "No module named 'no_such_module'"
    assert "numpy" in probes.distributions()
    assert probes.cores() >= 1
    assert probes.decord_frames() == probes.CLIP_FRAMES
    assert "libx264" in probes.encoders()
    assert len(probes.cuda_facts().torch.split(".")) >= 3


def test_requirements_of_the_core_and_of_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "torch>=2.5",
        'beartype>=0.18; extra == "dev"',
        'csd3d[train]; extra == "dev"',
        'nobody>=1; extra == "train"',
    ]
    monkeypatch.setattr(probes.metadata, "requires", lambda name: lines)
    assert [r.name for r in probes.requirements()] == ["torch"]
    assert [r.name for r in probes.requirements("dev")] == ["beartype", "csd3d"]
    assert probes.unmet("dev") == ["nobody"]
    monkeypatch.setattr(probes, "version", lambda name: "0.1")
    assert probes.unmet("dev") == ["beartype 0.1", "nobody 0.1"]


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(("level", "code"), [("ok", 0), ("warning", 0), ("problem", 1)])
def test_output_and_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], level, code: int, as_json: bool
) -> None:
    remedy = "" if level == "ok" else "do [this]"
    monkeypatch.setattr(command, "examine", lambda: [Finding("packages", "torch", level, "2.12 [x]", remedy)])
    assert command.run(command.Command(json=as_json)) == code
    out = capsys.readouterr().out
    if as_json:
        content = json.loads(out)
        assert content["core_works"] == (code == 0)
        assert content["findings"][0]["level"] == level
    else:
        assert "2.12 [x]" in out  # brackets are not markup
        assert remedy in out
        assert ("The core works" in out) == (code == 0)


def test_everything_on_this_machine() -> None:
    findings = command.examine()
    assert {finding.group for finding in findings} == {"packages", "devices", "video", "priors", "extras"}
    console = Console(record=True, width=200)
    command.show(findings, console)
    assert "libx264" in console.export_text()


def test_every_extra_is_looked_at() -> None:
    project = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    asked = project.partition("[project.optional-dependencies]")[2].partition("[project.scripts]")[0]
    assert set(re.findall(r"^(\w+) = \[", asked, re.MULTILINE)) == set(command.EXTRAS)
