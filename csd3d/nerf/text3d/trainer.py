"""nerfstudio's trainer for scenes from a sentence."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from csd3d.nerf.backends import require_device
from csd3d.nerf.checkpoints import checkpoint_path
from csd3d.nerf.host import CsdTrainer, CsdTrainerConfig


@dataclass
class Text3dTrainerConfig(CsdTrainerConfig):
    """nerfstudio's trainer, with checkpoints that load safely and resume exactly."""

    _target: type = field(default_factory=lambda: Text3dTrainer)

    def set_experiment_name(self) -> None:
        """By the sentence, where no name is given."""
        if self.experiment_name is None:
            pipeline: Any = self.pipeline
            words = "".join(c if c.isalnum() else " " for c in pipeline.asked_prompt or "").split()
            self.experiment_name = "-".join(words)[:60].lower() or "unnamed"

    def refuse(self) -> None:
        """Raises `ValueError` or `FileNotFoundError` for what can be refused before anything is made."""
        pipeline: Any = self.pipeline
        pipeline.check()
        pipeline.datamanager.orbit()
        require_device(self, on_cpu="csd-3d-cpu")
        checkpoint_path(self)


class Text3dTrainer(CsdTrainer):
    """Starts from nothing, or from a checkpoint of its own, which it resumes exactly."""

    program: ClassVar[str] = "csd-3d"

    def _foresee(self) -> None:
        """Nothing: there are no edits."""

    def _estimate(self, step: int) -> None:
        """nerfstudio's own estimate of the time that is left stands: all steps take about as long."""

    def end_text(self) -> str:
        """What the viewer shows when training has ended."""
        return (
            f"**Finished at step {self.step}.** Look around; Ctrl-C in the terminal ends. turntable.mp4 is in "
            f"{self.base_dir}; to go on, start again with --load-dir {self.checkpoint_dir}"
        )
