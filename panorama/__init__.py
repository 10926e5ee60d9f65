"""The panorama editor: overlapping windows of one picture are the particles of one collaborative edit.

from panorama import edit_panorama
edit_panorama("wide.jpg", "make it sunset", "sunset.jpg")
"""

from panorama.config import PanoramaConfig
from panorama.edit import edit_image, edit_panorama

__all__ = ["PanoramaConfig", "edit_image", "edit_panorama"]
