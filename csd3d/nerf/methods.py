"""The plugin's entry points. nerfstudio loads them unguarded: whatever is wrong with us, `ns-train` keeps working."""

from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.plugins.types import MethodSpecification

METHODS = ("csd-edit", "csd-edit-small", "csd-edit-cpu", "csd-edit-ngp", "csd-edit-splat", "csd-3d", "csd-3d-cpu")


def _unavailable(name: str, reason: Exception) -> MethodSpecification:
    return MethodSpecification(TrainerConfig(method_name=name), description=f"not available here: {reason}")


try:
    from csd3d.nerf.configs import (
        csd_3d,
        csd_3d_cpu,
        csd_edit,
        csd_edit_cpu,
        csd_edit_ngp,
        csd_edit_small,
        csd_edit_splat,
    )
except Exception as error:  # of any kind: another release of nerfstudio may have moved anything
    csd_edit, csd_edit_small, csd_edit_cpu, csd_edit_ngp, csd_edit_splat, csd_3d, csd_3d_cpu = (
        _unavailable(m, error) for m in METHODS
    )
