"""`csd3d doctor`: gather the facts, check them, print what was found. Exit code 0 when the core works, else 1."""

import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.text import Text

from csd3d import __version__
from csd3d.cli.parse import read_dataclass
from csd3d.doctor import checks, probes
from csd3d.doctor.findings import Finding, core_works
from csd3d.priors.families.table import FAMILIES

EXTRAS = {
    "nerf": "the nerfstudio plugin",
    "ui": "the page in a browser",
    "train": "training the built-in priors",
    "families": "big priors that look at pictures, LoRA",
    "metrics": "learned features, LPIPS and FID of csd3d evaluate",
    "ray": "clips spread over a Ray cluster",
    "dev": "format, lint, types, tests",
}
LOADING_NEEDS = {"--lora": "peft", "--quantise int8": "torchao", "--quantise nf4": "bitsandbytes"}
"""Packages that single flags of how a prior is read want."""

COLOURS = {"ok": "green", "absent": "dim", "warning": "yellow", "problem": "bold red"}


@dataclass(frozen=True)
class Command:
    """Say what is installed and usable here, and what to do about what is not."""

    json: bool = False
    """Print the findings as JSON, for scripts and bug reports."""


def main(argv: Sequence[str]) -> int:
    """Parse and run; returns the exit code."""
    return run(read_dataclass(Command, argv, prog="csd3d doctor"))


def run(command: Command) -> int:
    """Print the findings; 0 when the core works, 1 when it does not."""
    findings = examine()
    if command.json:
        print(json.dumps(as_json(findings), indent=2))
    else:
        show(findings, Console(soft_wrap=True, highlight=False))
    return 0 if core_works(findings) else 1


def examine() -> list[Finding]:
    """Every finding about this machine. A check that fails in an unforeseen way is itself a finding."""
    sections: dict[str, Callable[[], Iterable[Finding]]] = {
        "packages": examine_packages,
        "devices": examine_devices,
        "video": examine_video,
        "priors": examine_priors,
        "extras": examine_extras,
    }
    return [finding for group, section in sections.items() for finding in guarded(group, section)]


def guarded(group: str, section: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings of a section, or one saying why it could not be examined (a broken package raises anything)."""
    try:
        return list(section())
    except Exception as error:
        what = f"could not be examined: {probes.last_line(error)}"
        return [Finding(group, group, "problem", what, "see the packages above; set up anew with scripts/setup.sh")]


def examine_packages() -> Iterable[Finding]:
    """Python and the core's packages: present, in range, importable, and not in each other's way."""
    yield checks.check_python(sys.version_info[:2])
    required = probes.requirements()
    if not required:
        yield Finding("packages", "csd3d", "warning", "runs from a source tree, not installed", "scripts/setup.sh")
    for requirement in required:
        installed = probes.version(requirement.name)
        error = probes.import_error(probes.module_of(requirement.name)) if installed else None
        yield checks.check_package(requirement, installed, error)
    torchvision = probes.version("torchvision")
    error = probes.import_error("torchvision") if torchvision else None
    yield checks.check_torch_pair(probes.version("torch"), torchvision, error)
    yield checks.check_cv2(probes.distributions(), probes.import_error("cv2"))


def examine_devices() -> Iterable[Finding]:
    """What the numbers can be crunched on, and how fast."""
    facts = probes.cuda_facts()
    cuda = bool(facts.gpus)
    yield checks.check_cuda(facts)
    yield checks.check_cpu(*_cpu_facts())
    yield checks.check_bf16(facts.gpus, probes.cpu_flags())
    yield checks.check_sdpa(probes.sdpa_kernels())
    yield checks.check_compile(cuda=cuda, triton=find_spec("triton") is not None, compiler=probes.compiler())
    version = probes.version("tinycudann")
    error = probes.import_error("tinycudann") if version else None
    yield checks.check_tinycudann(version, error, cuda=cuda)


def _cpu_facts() -> tuple[str, int, int, str | None]:
    capability, threads = probes.cpu()
    return capability, probes.cores(), threads, os.environ.get("OMP_WAIT_POLICY")


def examine_video() -> Iterable[Finding]:
    """Can clips be written and read?"""
    try:
        yield checks.check_codecs(probes.encoders())
    except Exception as error:
        yield checks.check_codecs((), probes.last_line(error))
    try:
        yield checks.check_decord(probes.decord_frames(), probes.CLIP_FRAMES, None)
    except Exception as error:
        yield checks.check_decord(None, probes.CLIP_FRAMES, probes.last_line(error))


def examine_priors() -> Iterable[Finding]:
    """Do the built-in priors resolve?"""
    from csd3d.cli.priors import builtin_names, describe

    for name in builtin_names():
        try:
            yield checks.check_prior(name, describe(name).summary(), None)
        except (ValueError, OSError) as error:
            yield checks.check_prior(name, None, probes.last_line(error))
    yield checks.check_families(
        {
            family.title: [name for name in family.needs if probes.version(name) is None]
            + ([] if family.ours or probes.diffusers_has(pipeline) else [f"a diffusers that has {pipeline}"])
            for pipeline, family in FAMILIES.items()
        }
    )
    yield checks.check_loading(
        {flag: None if probes.version(package) else package for flag, package in LOADING_NEEDS.items()}
    )


def examine_extras() -> Iterable[Finding]:
    """The optional sets of packages, and the programs that they want."""
    for extra, what_for in EXTRAS.items() if probes.requirements() else ():
        yield checks.check_extra(extra, what_for, probes.unmet(extra))
    nerfstudio = probes.version("nerfstudio") is not None
    on_path, bundled = shutil.which("ffmpeg"), probes.bundled_ffmpeg()
    programs = str(Path(sys.executable).parent)
    yield checks.check_ffmpeg(nerfstudio=nerfstudio, on_path=on_path, bundled=bundled, programs=programs)
    yield checks.check_compiler(nerfstudio=nerfstudio, compiler=probes.compiler())


def as_json(findings: list[Finding]) -> dict[str, object]:
    """The findings and what they are about, for scripts."""
    return {
        "csd3d": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "core_works": core_works(findings),
        "findings": [asdict(finding) for finding in findings],
    }


def show(findings: list[Finding], console: Console) -> None:
    """Print the findings by group, each that wants something done with what to do."""
    console.print(f"csd3d {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    for group, members in groupby(findings, key=lambda finding: finding.group):
        console.print(f"\n[bold]{group}[/bold]")
        for finding in members:
            line = Text(f"  {finding.level:8s} ", style=COLOURS[finding.level])
            line.append(f"{finding.name:22s} {finding.detail}", style="none")
            console.print(line)
            if finding.remedy:
                console.print(
                    Text(f"{'':11s}{'':22s} -> {with_installer(finding.remedy)}", style=COLOURS[finding.level])
                )
    problems = sum(finding.level == "problem" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    verdict = f"The core does not work: {problems} to mend." if problems else "The core works."
    console.print(f"\n{verdict}" + (f" Worth a look: {warnings}." if warnings else ""), style="bold")


def with_installer(remedy: str) -> str:
    """`pip` in a remedy becomes `uv pip` in an environment that has no pip of its own."""
    return remedy if find_spec("pip") else re.sub(r"\bpip (?=install|uninstall)", "uv pip ", remedy)
