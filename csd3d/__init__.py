"""Edit NeRF scenes, videos, panoramas and photos from one sentence, consistently."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("csd3d")
except PackageNotFoundError:  # a source tree on the path that nobody installed
    __version__ = "0+source"
