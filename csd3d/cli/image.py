"""`csd3d image`: the panorama editor with one window, all of the picture."""

from csd3d.cli.panorama import main_image as main

__all__ = ["main"]
