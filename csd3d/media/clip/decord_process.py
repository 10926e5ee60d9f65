"""Frames through decord in a process that may die: its FFmpeg is of 2019, and some files end it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

_CHILD = Path(__file__).with_name("decord_child.py")


class DecordProcess:
    """An opened file: its number of `frames`, and their pixels."""

    def __init__(self, path: Path) -> None:
        """Start the process.

        Raises:
            ValueError: decord cannot open the file, or the process ended with it.
        """
        self._path = path
        words = [sys.executable, str(_CHILD), str(path.resolve())]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            (self.frames,) = self._numbers(1)
        except ValueError:
            self.close()
            raise ValueError(f"decord: expected a file that it can open, got {path}") from None

    def read(self, start: int, stop: int) -> UInt8[np.ndarray, "n H W 3"]:
        """Frames start to stop - 1, upright RGB.

        Raises:
            ValueError: a frame cannot be decoded, or the process ended.
        """
        mistake = ValueError(f"decord: frames [{start}, {stop}) of {self._path} cannot be decoded")
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(b"%d %d\n" % (start, stop))
            self._process.stdin.flush()
            n, height, width = self._numbers(3)
        except (ValueError, OSError):
            raise mistake from None
        if n < 0:
            raise mistake
        pixels = self._process.stdout.read(n * height * width * 3)
        if len(pixels) < n * height * width * 3:
            raise mistake
        return np.frombuffer(pixels, np.uint8).reshape(n, height, width, 3)

    def _numbers(self, count: int) -> list[int]:
        """What the process says next. Raises ValueError where it says nothing."""
        assert self._process.stdout is not None
        found = [int(word) for word in self._process.stdout.readline().split()]
        if len(found) != count:
            raise ValueError("decord: expected an answer, got none")
        return found

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
