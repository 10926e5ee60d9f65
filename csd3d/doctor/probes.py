"""Where the facts of `csd3d doctor` come from: the installed packages, torch, the system. One small probe each.

A probe answers with a fact or, where the thing itself may be broken, with what it said. Imports happen inside, since
each may fail or be slow.
"""

import importlib
import os
import platform
import shutil
import tempfile
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from csd3d.doctor.checks import CudaFacts, Gpu

MODULES = {"opencv-python-headless": "cv2", "pillow": "PIL"}
"""Import names that differ from the package's name."""

CLIP_FRAMES = 8
"""Length of the clip that is made to try decord."""


def requirements(extra: str = "") -> list[Requirement]:
    """What pyproject.toml asks for: the core, or what one extra adds to it. Empty when csd3d is not installed."""
    try:
        lines = metadata.requires("csd3d") or []
    except metadata.PackageNotFoundError:
        return []
    parsed = [Requirement(line) for line in lines]
    if not extra:
        return [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return [
        r for r in parsed if r.marker and r.marker.evaluate({"extra": extra}) and not r.marker.evaluate({"extra": ""})
    ]


def version(package: str) -> str | None:
    """Installed version, None when not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def unmet(extra: str) -> list[str]:
    """The requirements of an extra that the installed packages do not meet, as 'name' or 'name version'."""
    missing = []
    for requirement in requirements(extra):
        if requirement.name == "csd3d":  # an extra made of another
            missing += [name for inner in requirement.extras for name in unmet(inner)]
            continue
        installed = version(requirement.name)
        if installed is None:
            missing.append(requirement.name)
        elif not requirement.specifier.contains(installed, prereleases=True):
            missing.append(f"{requirement.name} {installed}")
    return missing


def distributions() -> set[str]:
    """Names of all installed packages, lower-case, with dashes."""
    names = (d.metadata["Name"] for d in metadata.distributions())
    return {name.lower().replace("_", "-") for name in names if name}


def import_error(module: str) -> str | None:
    """What importing says (its last line), None when it works. Catches everything: broken packages raise anything."""
    try:
        importlib.import_module(module)
    except Exception as error:
        return last_line(error)
    return None


def last_line(error: BaseException) -> str:
    """The last line of an error's text: where wrapped errors put the cause."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def module_of(package: str) -> str:
    """The name under which a package is imported."""
    return MODULES.get(package, package.replace("-", "_"))


def cuda_facts() -> CudaFacts:
    """GPUs as torch sees them, and whether the system has an NVIDIA driver."""
    import torch

    gpus = []
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            gpus.append(Gpu(properties.name, properties.total_memory / 2**30, (properties.major, properties.minor)))
    driver = shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()
    return CudaFacts(torch.__version__, torch.version.cuda, tuple(gpus), driver)


def sdpa_kernels() -> list[str]:
    """Fused attention kernels that are switched on, when there is a GPU to run them."""
    import torch

    if not torch.cuda.is_available():
        return []
    backends = torch.backends.cuda
    names = {
        "flash": "flash_sdp_enabled",
        "memory-efficient": "mem_efficient_sdp_enabled",
        "cudnn": "cudnn_sdp_enabled",
    }
    return [name for name, test in names.items() if getattr(backends, test, lambda: False)()]


def cpu_flags() -> set[str]:
    """The CPU's flags as Linux lists them; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in text.splitlines() if line.startswith("flags")), set())


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu() -> tuple[str, int]:
    """(the instruction set that torch's kernels use, torch's threads)."""
    import torch

    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}", torch.get_num_threads()


def compiler() -> str | None:
    """Path of a C++ compiler."""
    return next((path for path in map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++")) if path), None)


def encoders(wanted: Collection[str] = ("libx264", "libx265", "ffv1")) -> set[str]:
    """Which of these PyAV can write."""
    import av

    found = set()
    for name in wanted:
        try:
            av.Codec(name, "w")
        except Exception:
            continue
        found.add(name)
    return found


def decord_frames() -> int:
    """How many frames decord reads of a clip of `CLIP_FRAMES` that PyAV writes for it."""
    import av
    import decord
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="csd3d-doctor-") as folder:
        path = Path(folder) / "clip.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width = stream.height = 64
            for i in range(CLIP_FRAMES):
                picture = np.full((64, 64, 3), 20 * i, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        return len(decord.VideoReader(str(path)).get_batch(range(CLIP_FRAMES)).asnumpy())


def diffusers_has(pipeline: str) -> bool:
    """Whether the installed diffusers has a pipeline of this name. Reads its list of names, not the pipeline."""
    try:
        return pipeline in dir(importlib.import_module("diffusers"))
    except Exception:
        return False


def bundled_ffmpeg() -> str | None:
    """The ffmpeg program that imageio-ffmpeg brought, if it is installed."""
    try:
        return importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    except Exception:
        return None
