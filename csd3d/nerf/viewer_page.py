"""What we change of nerfstudio's viewer (1.1.5) itself, besides adding controls to it."""

import math

import viser
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from torch import Tensor
from viser import transforms

CPU_MAX_PX = 128
"""Longer side of renders on a CPU, where 512 px take most of a minute; a person can set another one in the page."""
CPU_TRAIN_UTIL = 0.5
"""Share of the time that training takes while somebody looks; the rest is for renders."""


def set_up(viewer: Viewer, cameras: Cameras, *, on_cpu: bool) -> None:
    """Whoever opens the page looks as a training camera did, and renders have a size that the machine can serve."""
    if on_cpu:
        viewer.control_panel._max_res.value, viewer.control_panel._train_util.value = CPU_MAX_PX, CPU_TRAIN_UTIL
    first = middle_camera(cameras.camera_to_worlds)
    c2w = cameras.camera_to_worlds[first].double().cpu()
    fov = 2 * math.atan(float(cameras.height[first]) / 2 / float(cameras.fy[first]))
    to_viser = transforms.SO3.from_x_radians(math.pi)  # whose cameras look along +z
    wxyz = (transforms.SO3.from_matrix(c2w[:3, :3].numpy()) @ to_viser).wxyz
    past = 1.1 * photograph_distance(fov, float(cameras.width[first] / cameras.height[first]))
    forward = -c2w[:3, 2] * past * viewer.config.camera_frustum_scale
    position = (c2w[:3, 3] * VISER_NERFSTUDIO_SCALE_RATIO + forward).numpy()

    def look_as_it(client: viser.ClientHandle) -> None:
        with client.atomic():
            client.camera.position, client.camera.wxyz, client.camera.fov = position, wxyz, fov

    viewer.viser_server.on_client_connect(look_as_it)


def photograph_distance(fov: float, aspect: float) -> float:
    """How far in front of a training camera the page shows its photograph, which hides the scene from there, in units
    of the frustum's scale: viser draws pyramids of the volume 1. `fov` is vertical, in radians."""
    half = math.tan(fov / 2)
    return (half * half * aspect / 3) ** (-1 / 3)


def middle_camera(c2w: Float[Tensor, "n 3 4"]) -> int:
    """The camera that is nearest to the middle of all."""
    centre = c2w[:, :, 3]
    return int((centre - centre.mean(dim=0)).norm(dim=-1).argmin())


def update(viewer: Viewer, step: int) -> None:
    """Show the step, and let the page's slider say how much of the time training takes, as it promises."""
    viewer.update_step(step)
    viewer.train_util = viewer.control_panel.train_util


def finish(viewer: Viewer, step: int) -> None:
    """Training has ended at `step`: it can be neither paused nor resumed."""
    viewer.update_step(step)
    viewer.pause_train.visible = viewer.resume_train.visible = False
    viewer._trigger_rerender()
