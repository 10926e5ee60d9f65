"""The checks of `csd3d doctor`: facts in, a finding out. Nothing here imports, runs or reads anything."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from csd3d.doctor.findings import Finding

BROKEN_PAIR = "torchvision::nms"
"""What torch says when torchvision was built for another torch: 'operator torchvision::nms does not exist'."""

TORCHVISION_OFFSET = 15
"""torch 2.N and torchvision 0.(N + 15) are released as a pair (2.0 with 0.15 ... 2.12 with 0.27)."""


@dataclass(frozen=True)
class Gpu:
    """One CUDA device: memory in GiB, compute capability as (major, minor)."""

    name: str
    memory_gib: float
    capability: tuple[int, int]


@dataclass(frozen=True)
class CudaFacts:
    """What torch and the system say about CUDA. `built`: the CUDA version torch is for, None on a CPU build."""

    torch: str
    built: str | None
    gpus: tuple[Gpu, ...]
    driver: bool


def check_python(version: tuple[int, int]) -> Finding:
    """Python 3.10 to 3.12, as pyproject.toml asks for."""
    text = f"{version[0]}.{version[1]}"
    if (3, 10) <= version <= (3, 12):
        return Finding("packages", "Python", "ok", text)
    return Finding(
        "packages", "Python", "problem", f"{text}, needs 3.10 to 3.12", "install Python 3.11 and set up anew"
    )


def check_package(requirement: Requirement, installed: str | None, error: str | None = None) -> Finding:
    """A required package: is it there, in range, and does it import? `error` is what its import said."""
    name, wanted = requirement.name, str(requirement.specifier) or "any version"
    install = f'pip install "{name}{requirement.specifier}"'
    if installed is None:
        return Finding("packages", name, "problem", f"not installed, needs {wanted}", install)
    if error is not None:
        return Finding(
            "packages",
            name,
            "problem",
            f"{installed} does not import: {error}",
            f"{install} --force-reinstall --no-deps",
        )
    if not requirement.specifier.contains(installed, prereleases=True):
        return Finding("packages", name, "problem", f"{installed}, needs {wanted}", install)
    return Finding("packages", name, "ok", f"{installed} (needs {wanted})")


def check_extra(extra: str, what_for: str, missing: Sequence[str]) -> Finding:
    """An optional set of packages: `missing` lists the requirements that are not met here."""
    if not missing:
        return Finding("extras", extra, "ok", f"installed ({what_for})")
    remedy = f'pip install "csd3d[{extra}]" (in a checkout: scripts/setup.sh {extra})'
    return Finding("extras", extra, "absent", f"not installed: {', '.join(missing)} ({what_for})", remedy)


def check_torch_pair(torch: str | None, torchvision: str | None, error: str | None) -> Finding:
    """torch and torchvision must come from one release and one build. `error` is what importing torchvision said."""
    if torchvision is None:
        return Finding("packages", "torchvision", "absent", "not installed; the core does not need it")
    if error is None:
        return Finding("packages", "torchvision", "ok", f"{torchvision} works with torch {torch}")
    detail = f"{torchvision} does not work with torch {torch}: {error}"
    remedy = "pip uninstall torchvision, which the core does not need"
    if BROKEN_PAIR in error:
        detail = (
            f"{torchvision} was built for another torch than the {torch} here; diffusers and nerfstudio fail with it"
        )
        remedy = f"{_pair_install(torch)}; or {remedy}"
    return Finding("packages", "torchvision", "problem", detail, remedy)


def _pair_install(torch: str | None) -> str:
    """The command that installs the torchvision of this torch, from the index that this torch came from."""
    try:
        version = Version(torch or "")
    except InvalidVersion:
        return "install the torchvision of this torch"
    command = f'pip install --no-deps --force-reinstall "torchvision==0.{version.minor + TORCHVISION_OFFSET}.*"'
    if version.local:
        command += f" --index-url https://download.pytorch.org/whl/{version.local}"
    return command


def check_cv2(distributions: Collection[str], error: str | None) -> Finding:
    """OpenCV's builds all write the same `cv2` folder: two of them overwrite each other."""
    builds = sorted(name for name in distributions if name.startswith("opencv-") and "python" in name)
    anew = f"pip uninstall -y {' '.join(builds)}; pip install --force-reinstall --no-deps opencv-python-headless"
    if len(builds) > 1:
        detail = f"{' and '.join(builds)} overwrite each other's cv2"
        return Finding("packages", "cv2", "problem" if error else "warning", detail, anew)
    if error is not None:
        remedy = "pip install --force-reinstall --no-deps opencv-python-headless"
        return Finding("packages", "cv2", "problem", f"does not import: {error}", remedy)
    return Finding("packages", "cv2", "ok", f"from {builds[0] if builds else 'a build of its own'}, alone")


def check_cuda(facts: CudaFacts) -> Finding:
    """Which GPUs torch can use; a GPU that it cannot use is worth a warning, none at all is normal."""
    if facts.gpus:
        names = "; ".join(
            f"{g.name}, {g.memory_gib:.0f} GiB, sm_{g.capability[0]}{g.capability[1]}" for g in facts.gpus
        )
        return Finding("devices", "CUDA", "ok", f"{names} (torch for CUDA {facts.built})")
    if not facts.driver:
        return Finding("devices", "CUDA", "absent", "no NVIDIA driver found; everything runs on the CPU")
    if facts.built is None:
        detail = f"an NVIDIA driver is here, but torch {facts.torch} is a build for the CPU"
        plain = facts.torch.partition("+")[0]
        return Finding("devices", "CUDA", "warning", detail, f'pip install --force-reinstall "torch=={plain}"')
    detail = f"an NVIDIA driver is here, but torch for CUDA {facts.built} sees no GPU"
    remedy = "update the driver to one for that CUDA version (nvidia-smi shows it) and look at CUDA_VISIBLE_DEVICES"
    return Finding("devices", "CUDA", "warning", detail, remedy)


def check_bf16(gpus: Sequence[Gpu], cpu_flags: Collection[str]) -> Finding:
    """bfloat16 in hardware: NVIDIA from compute capability 8.0, CPUs with avx512_bf16 or amx_bf16."""
    where = [gpu.name for gpu in gpus if gpu.capability >= (8, 0)]
    where += [f"CPU ({flag})" for flag in ("amx_bf16", "avx512_bf16") if flag in cpu_flags]
    if where:
        return Finding("devices", "bf16", "ok", "in hardware: " + ", ".join(where))
    return Finding("devices", "bf16", "absent", "not in hardware; fp16 on the GPU and fp32 on the CPU serve")


def check_sdpa(kernels: Sequence[str]) -> Finding:
    """torch's fused attention: which kernels are switched on for CUDA (the plain one always is)."""
    if kernels:
        return Finding("devices", "SDPA", "ok", "fused attention: " + ", ".join(kernels))
    return Finding("devices", "SDPA", "absent", "no GPU to fuse attention on; the CPU uses what torch chooses")


def check_compile(*, cuda: bool, triton: bool, compiler: str | None) -> Finding:
    """torch.compile needs a C++ compiler, and on CUDA triton as well. It is optional everywhere."""
    missing = ([] if compiler else ["a C++ compiler"]) + ([] if triton or not cuda else ["triton"])
    if missing:
        return Finding("devices", "torch.compile", "absent", f"needs {' and '.join(missing)}; optional")
    return Finding("devices", "torch.compile", "ok", f"usable ({compiler}{', triton' if cuda else ''})")


def check_tinycudann(version: str | None, error: str | None, *, cuda: bool) -> Finding:
    """tiny-cuda-nn serves hash grids in the nerf extra. It is built by its user, and normal not to have."""
    if version is None:
        return Finding("devices", "tinycudann", "absent", "not installed; torch hash grids serve")
    if error is None:
        return Finding("devices", "tinycudann", "ok", version)
    if not cuda:
        return Finding("devices", "tinycudann", "absent", f"{version}, of no use without a GPU; torch hash grids serve")
    return Finding(
        "devices",
        "tinycudann",
        "warning",
        f"{version} does not import: {error}",
        "build it for this torch and CUDA, or uninstall it",
    )


def check_cpu(capability: str, cores: int, threads: int, wait_policy: str | None) -> Finding:
    """Instruction set and threads. More threads than cores, or spinning ones beside other work, cost up to 20 times."""
    detail = f"{capability}, {threads} torch threads on {cores} cores"
    if threads > cores:
        return Finding("devices", "CPU", "warning", detail, f"export OMP_NUM_THREADS={cores}")
    if wait_policy is None and cores < 8:
        detail += "; with other jobs beside it: export OMP_WAIT_POLICY=PASSIVE"
    return Finding("devices", "CPU", "ok", detail)


def check_codecs(encoders: Collection[str], error: str | None = None) -> Finding:
    """PyAV must write H.264 (the default output); FFV1 is the lossless one."""
    wheel = "pip install --force-reinstall --no-deps --only-binary av av"
    if error is not None:
        return Finding("video", "encoders", "problem", f"PyAV does not work: {error}", wheel)
    if "libx264" not in encoders:
        return Finding("video", "encoders", "problem", "this PyAV has no libx264, so no H.264 output", wheel)
    return Finding("video", "encoders", "ok", ", ".join(sorted(encoders)))


def check_decord(frames: int | None, expected: int, error: str | None) -> Finding:
    """decord decoded a clip made on the spot. It is used only where it is asked for."""
    if error is None and frames == expected:
        return Finding("video", "decord", "ok", f"decodes ({frames} frames of {expected})")
    what = error or f"decoded {frames} frames of {expected}"
    remedy = 'pip install --force-reinstall --no-deps "decord>=0.6" (PyAV reads the clips all the same)'
    return Finding("video", "decord", "warning", f"does not decode: {what}", remedy)


def check_ffmpeg(*, nerfstudio: bool, on_path: str | None, bundled: str | None, programs: str) -> Finding:
    """nerfstudio calls an `ffmpeg` program to write mp4. Nothing else here needs one. `programs`: where ours lie."""
    if on_path:
        return Finding("extras", "ffmpeg", "ok", on_path)
    if not nerfstudio:
        return Finding("extras", "ffmpeg", "absent", "not on the PATH; only nerfstudio's mp4 output needs it")
    remedy = (
        f"ln -s {bundled} {programs}/ffmpeg (on the PATH while the environment is active)"
        if bundled
        else "pip install imageio-ffmpeg, or install ffmpeg"
    )
    return Finding("extras", "ffmpeg", "warning", "not on the PATH: `ns-render` cannot write mp4", remedy)


def check_compiler(*, nerfstudio: bool, compiler: str | None) -> Finding:
    """Two of nerfstudio's dependencies (fpsample, pyliblzfse) are built when they are installed."""
    if compiler:
        return Finding("extras", "compiler", "ok", compiler)
    if nerfstudio:
        return Finding(
            "extras", "compiler", "absent", "none; the nerf extra is installed already and works without one"
        )
    remedy = "before the nerf extra: apt install build-essential (or any C and C++ compiler)"
    return Finding("extras", "compiler", "absent", "none; installing the nerf extra needs one", remedy)


def check_families(lacking: Mapping[str, Sequence[str]]) -> Finding:
    """Families of big priors, each with what it lacks here. None of them is needed by the core."""
    missing = {title: list(lacks) for title, lacks in lacking.items() if lacks}
    usable = f"{len(lacking) - len(missing)} of {len(lacking)} can be loaded"
    if not missing:
        return Finding("priors", "families", "ok", usable)
    lines = "; ".join(f"{title} needs {', '.join(lacks)}" for title, lacks in missing.items())
    return Finding("priors", "families", "absent", f'{usable}; {lines}: pip install "csd3d[families]"')


def check_loading(lacking: Mapping[str, str | None]) -> Finding:
    """Flags of how a prior is read that need a package more, each with the one that is not here; None: it is."""
    missing = {flag: package for flag, package in lacking.items() if package is not None}
    works = [flag for flag in lacking if flag not in missing]
    detail = f"{', '.join(works) or 'none of them'} can be used"
    if not missing:
        return Finding("priors", "reading", "ok", detail)
    lines = "; ".join(f"{flag} needs {package}" for flag, package in missing.items())
    return Finding("priors", "reading", "absent", f"{detail}; {lines}", f"pip install {' '.join(missing.values())}")


def check_prior(name: str, detail: str | None, error: str | None) -> Finding:
    """A built-in prior resolves to a directory that holds its parts."""
    if error is None:
        return Finding("priors", name, "ok", detail or "")
    error = error.removeprefix(f"prior {name!r}: ")
    return Finding("priors", name, "problem", error, "install csd3d anew: its weights are part of it")
