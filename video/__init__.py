"""The video editor: frames of a clip are the particles of one collaborative edit.

from video import edit_video
edit_video("clip.mp4", "make it snowy", "snowy.mp4")
"""

from video.config import VideoConfig
from video.edit import edit_video

__all__ = ["VideoConfig", "edit_video"]
