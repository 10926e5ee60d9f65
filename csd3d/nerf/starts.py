"""What is looked at before a scene is trained: its data, as nerfstudio reads it, and whether it would be edited."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils.rich_utils import CONSOLE

from csd3d.nerf.checkpoints import checkpoint_path
from csd3d.nerf.transforms import check_pictures, check_transforms, transforms_path

LEAST_VIEWS = 3
"""Fewer views than this make no scene."""
COUNT_BYTES = 8
"""Of the number of points that a binary file of COLMAP begins with."""


@contextmanager
def data_errors(config: Any) -> Iterator[None]:
    """What nerfstudio finds wrong with data, in one line with its name; `config`: of the data manager."""
    try:
        yield
    except EOFError as error:
        raise ValueError(
            "data: expected pictures of at most 1600 px, or smaller copies in images_2 and so on, got larger ones, "
            "which nerfstudio asks whether to scale down, and nobody to answer; `colmap --downscale-factor 1` takes "
            "them as they are"
        ) from error
    except (AssertionError, LookupError, RuntimeError, TypeError, ValueError, ArithmeticError) as error:
        if isinstance(error, ValueError) and (": expected " in str(error) or str(error).startswith("data:")):
            raise  # one of ours
        where = config.data or config.dataparser.data
        what = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"data: nerfstudio cannot use {where} ({what})") from error


def require_views(dataset: InputDataset) -> None:
    """Raises `ValueError` for a scene of too few views, or of views that differ in size."""
    cameras, where = dataset.cameras, Path(dataset.image_filenames[0]).parent if len(dataset) else "the data"
    if len(dataset) < LEAST_VIEWS:
        raise ValueError(f"data: expected at least {LEAST_VIEWS} training views, got {len(dataset)} in {where}")
    sizes = {(int(w), int(h)) for w, h in zip(cameras.width, cameras.height, strict=True)}
    if len(sizes) > 1:
        some = ", ".join(f"{w}x{h}" for w, h in sorted(sizes)[:3])
        raise ValueError(f"data: expected training images of one size, got {some} in {where}")
    for name in ("camera_to_worlds", "fx", "fy", "cx", "cy", "distortion_params"):
        values = getattr(cameras, name)
        if values is not None and not values.isfinite().all():
            raise ValueError(f"data: expected finite numbers for {name} of all cameras, got others in {where}")


def require_pictures(dataset: InputDataset) -> None:
    """Raises `ValueError` for pictures that are not what their cameras say."""
    cameras = dataset._dataparser_outputs.cameras  # before a resolution that is asked for
    sizes = [(int(w), int(h)) for w, h in zip(cameras.width, cameras.height, strict=True)]
    if check_pictures(zip(dataset.image_filenames, sizes, strict=True)):
        rgb = dataset._dataparser_outputs.alpha_color
        colour = "black" if rgb is None or not rgb.any() else f"RGB {' '.join(f'{v:g}' for v in rgb.tolist())}"
        CONSOLE.log(f"transparent pictures are composited on {colour}, for training and for the prior")


def require_colmap(parser: ColmapDataParserConfig, path: Path) -> None:
    """Raises `FileNotFoundError` or `ValueError` for a folder that COLMAP has not filled."""
    folder = path / parser.colmap_path
    for name in ("cameras", "images", *(["points3D"] if parser.load_3D_points else [])):
        found = [file for suffix in (".bin", ".txt") if (file := folder / f"{name}{suffix}").is_file()]
        if not found:
            raise FileNotFoundError(f"data: expected {name}.txt or {name}.bin in {folder}, which has neither")
        if name == "points3D" and not _has_points(found[0]):
            raise ValueError(
                f"data: expected points in {found[0]}, got none; `colmap --load-3D-points False` does without"
            )


def _has_points(file: Path) -> bool:
    """Whether a file of COLMAP, binary or text, has any points."""
    if file.suffix == ".bin":
        return file.stat().st_size > COUNT_BYTES
    return any(line.strip() and not line.startswith("#") for line in file.read_text(encoding="utf-8").splitlines())


def require_data(config: TrainerConfig) -> None:
    """Raises `FileNotFoundError` or `ValueError` if what a config says to train on is not there, or makes no scene."""
    manager: Any = config.pipeline.datamanager
    path = manager.data or manager.dataparser.data
    if isinstance(manager.dataparser, NerfstudioDataParserConfig):
        check_transforms(transforms_path(path))
    elif not path.exists():
        raise FileNotFoundError(f"data: expected a folder, got {path}, which does not exist")
    elif isinstance(manager.dataparser, ColmapDataParserConfig):
        require_colmap(manager.dataparser, path)


def require_steps(config: TrainerConfig) -> None:
    """Raises `ValueError` for a prompt that would not edit anything, as training ends before.

    Raises:
        FileNotFoundError: the checkpoint to start from is not there.
    """
    pipeline: Any = config.pipeline
    from_nothing = checkpoint_path(config) is None
    if from_nothing and pipeline.asked_prompt is not None and config.max_num_iterations <= pipeline.scene_steps:
        raise ValueError(
            f"max-num-iterations: expected more than the {pipeline.scene_steps} of --pipeline.scene-steps, after which "
            f"the first edit comes, got {config.max_num_iterations}; a trained scene is edited at once, with --load-dir"
        )
    if from_nothing and pipeline.asked_prompt is None and config.max_num_iterations > pipeline.scene_steps:
        require_way_to_edit(
            config, f"the scene alone is trained with --max-num-iterations {pipeline.scene_steps} or less"
        )


def require_way_to_edit(config: TrainerConfig, instead: str) -> None:
    """Raises `ValueError` where there is no prompt, and no viewer in which one could be typed; says so where there is.

    `instead`: what can be done without one.
    """
    if not has_viewer(config):
        raise ValueError(
            f"prompt: expected --pipeline.prompt, got none, and --vis {config.vis} has no viewer for one; {instead}"
        )
    CONSOLE.log("no prompt: nothing is edited until one is typed in the viewer")


def has_viewer(config: TrainerConfig) -> bool:
    """Whether a run can be steered in a browser."""
    return config.is_viewer_enabled() or config.is_viewer_legacy_enabled()
