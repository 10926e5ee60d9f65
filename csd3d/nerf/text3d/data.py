"""Cameras in the place of photographs: a data manager of nerfstudio (1.1.5) that needs no data."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import DataManager
from nerfstudio.data.datamanagers.random_cameras_datamanager import (
    RandomCamerasDataManager,
    RandomCamerasDataManagerConfig,
    TrivialDataset,
)
from nerfstudio.data.utils.dataloaders import RandIndicesEvalDataloader

from csd3d.nerf.text3d.orbit import Orbit, Places, Range, focal_px, poses

RING = 24
"""Cameras that stand for a data set: in the viewer, for `ns-render` and `ns-export`."""


@dataclass
class OrbitDataManagerConfig(RandomCamerasDataManagerConfig):
    """Random cameras on a sphere about the origin."""

    _target: type = field(default_factory=lambda: OrbitDataManager)
    radius: Range = (1.8, 2.4)
    """Least and largest distance of a camera; the box of the scene reaches from -1 to 1."""
    elevation: Range = (-10.0, 60.0)
    """Least and largest angle above the horizon, in degrees."""
    azimuth: Range = (0.0, 360.0)
    """Range of directions, in degrees; 0 is the front."""
    fov: Range = (40.0, 60.0)
    """Least and largest field of view, in degrees."""
    eval_px: int = 256
    """Side of the views that are looked at: the turntable, the viewer's cameras."""

    def orbit(self) -> Orbit:
        """What cameras are drawn from. Raises `ValueError` for ranges that cannot be."""
        return Orbit(self.radius, self.elevation, self.azimuth, self.fov)


class CameraDataset(TrivialDataset):
    """Cameras, and a grey picture for each where one is wanted."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": torch.full((8, 8, 3), 0.5), "image_idx": index}


class OrbitDataManager(RandomCamerasDataManager):
    """A ring of cameras as the data set; those of training are drawn by the pipeline."""

    # nerfstudio's own is not to be called either: it draws its cameras and refuses data by ending the program
    def __init__(
        self,
        config: OrbitDataManagerConfig,
        device: torch.device | str = "cpu",
        test_mode: str = "val",
        world_size: int = 1,
        local_rank: int = 0,
        **_: Any,
    ) -> None:
        self.config, self.device, self.test_mode = config, device, test_mode
        self.world_size, self.local_rank, self.sampler = world_size, local_rank, None
        self.orbit, self.eval_px = config.orbit(), config.eval_px
        cameras = cameras_at(self.orbit.ring(RING), self.eval_px)
        self.ring = CameraDataset(cameras)
        self.train_dataset = self.eval_dataset = self.ring
        self.eval_dataloader = RandIndicesEvalDataloader(input_dataset=self.ring, device=device)
        self.train_pixel_sampler = SimpleNamespace(num_rays_per_batch=4096)
        """What `ns-export` sets: how many rays `next_train` gives."""
        DataManager.__init__(self)

    def next_train(self, step: int) -> tuple[RayBundle, dict[str, Any]]:
        """Rays of the ring, at random, for `ns-export`."""
        cameras = self.ring.cameras.to(self.device)
        count, side = self.train_pixel_sampler.num_rays_per_batch, self.eval_px
        which = torch.randint(len(self.ring), (count, 1), device=self.device)
        at = torch.randint(side, (count, 2), device=self.device) + 0.5
        return cameras.generate_rays(camera_indices=which, coords=at), {}

    def next_eval(self, step: int) -> tuple[RayBundle, dict[str, Any]]:
        """The same."""
        return self.next_train(step)


def cameras_at(places: Places, side_px: int) -> Cameras:
    """Square views from these places."""
    focal, middle = focal_px(places.fov, side_px), side_px / 2
    return Cameras(poses(places), fx=focal, fy=focal, cx=middle, cy=middle, width=side_px, height=side_px)


def rays_of(cameras: Cameras, device: torch.device) -> RayBundle:
    """The rays of all pixels, camera by camera, row by row."""
    rays = [cameras.generate_rays(camera_indices=i, keep_shape=True).flatten() for i in range(len(cameras))]
    return RayBundle(
        origins=torch.cat([r.origins for r in rays]).to(device),
        directions=torch.cat([r.directions for r in rays]).to(device),
        pixel_area=torch.cat([r.pixel_area for r in rays]).to(device),
    )
