"""What the page of a video run shows."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from csd3d.engine.loop import StepInfo
from csd3d.runs.curves import Curve
from csd3d.runs.manifest import Manifest
from csd3d.runs.report import Clip as Player
from csd3d.runs.report import Report
from video.source import Clip


def make_report(clip: Clip, prompt: str, manifest: Manifest, curves: Sequence[StepInfo]) -> Report:
    """The page of a finished run."""
    info, edit = clip.info, manifest.config
    facts = [
        f"{info.width_px} × {info.height_px} px", f"{info.frames} frames", f"{float(info.fps):.5g} fps",
        f"{edit['csd']['coupling']} coupling", f"prior {manifest.prior['name']}", f"{manifest.steps_done} steps",
    ]  # fmt: skip
    charts = (
        Curve("Gradient", [i.gradient_rms for i in curves], log=True, hint="root mean square of the update direction"),
        Curve(
            "Residual", [i.residual_rms for i in curves], log=True, hint="what the frames want before they are coupled"
        ),
        Curve("Kernel weight", _kernel_curve(curves), hint="mean weight between different frames; 1 = all move as one"),
        Curve("Learning rate", [i.lr for i in curves]),
    )
    minutes = {f"{k} (s)": v for k, v in manifest.timing_s.items()}
    memory = {f"peak {k} memory (MB)": round(v / 1e6) for k, v in manifest.memory_bytes.items()}
    return Report(
        title=prompt, subtitle=info.path.name, facts=facts,
        clips=(Player("Source", "media/source.mp4"), Player("Edited", "media/edited.mp4")),
        fps=float(info.fps), sheet="sheet.png", curves=[c for c in charts if any(v == v for v in c.values)],
        numbers=manifest.numbers, settings=edit, notes=manifest.notes,
        environment={**minutes, **memory, "versions": manifest.versions, "machine": manifest.machine},
        command=_command_line(info.path, prompt, edit),
    )  # fmt: skip


def _kernel_curve(curves: Sequence[StepInfo]) -> list[float]:
    return [float("nan") if i.kernel_mean is None else i.kernel_mean for i in curves]


def _command_line(path: Path, prompt: str, edit: dict[str, Any]) -> str:
    words = ["csd3d", "video", str(path), "--prompt", prompt, "--prior", edit["prior"]]
    return shlex.join([*words, "--steps", str(edit["csd"]["steps"]), "--seed", str(edit["seed"])])
