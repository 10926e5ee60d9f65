"""Colours of another RGB space as sRGB, for pictures that become frames of a clip.

An ICC profile of the common kind has a curve for each channel and the primaries in XYZ (D50); linear light is
multiplied through and gets sRGB's curve. What lies outside sRGB is clipped.
"""

import struct

import numpy as np
from jaxtyping import Float

from csd3d.media.pictures.levels import Levels

_SRGB_TO_XYZ = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
"""Primaries of sRGB adapted to D50, as columns."""
_SAME_MATRIX, _SAME_CURVE = 0.01, 1 / 255
"""A profile whose matrix and curves differ by no more is sRGB."""
_ROWS = 512

Curve = Float[np.ndarray, " n"]


class Profile:
    """Curves and matrix of an ICC profile."""

    def __init__(self, data: bytes) -> None:
        """Read a profile.

        Raises:
            ValueError: it is broken, or of another kind (tables).
        """
        try:
            (count,) = struct.unpack_from(">I", data, 128)
            table = [struct.unpack_from(">4sII", data, 132 + 12 * k) for k in range(min(count, 100))]
            tags = {name: data[start : start + size] for name, start, size in table}
            columns = [struct.unpack_from(">3i", tags[name], 8) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
            self._curves = [tags[name] for name in (b"rTRC", b"gTRC", b"bTRC")]
            self._matrix = np.linalg.inv(_SRGB_TO_XYZ) @ (np.array(columns, np.float64).T / 65536)
            levels = np.linspace(0, 1, 256)
            curved = [_encoded(_curve(curve, levels)) for curve in self._curves]
        except (struct.error, KeyError, IndexError) as error:
            raise ValueError("profile: expected curves and primaries, got something else") from error
        self.is_srgb = bool(
            np.abs(self._matrix - np.eye(3)).max() < _SAME_MATRIX
            and max(np.abs(curve - levels).max() for curve in curved) < _SAME_CURVE
        )

    def to_srgb(self, levels: Levels) -> Levels:
        """Pixels of this space as sRGB, of as many bits; the same where it is sRGB itself."""
        if self.is_srgb:
            return levels
        top = np.iinfo(levels.dtype).max
        steps = np.arange(top + 1) / top
        linear = [_curve(curve, steps).astype(np.float32) for curve in self._curves]
        matrix, done = self._matrix.astype(np.float32), np.empty_like(levels)
        for first in range(0, len(levels), _ROWS):
            part = levels[first : first + _ROWS]
            light = np.stack([curve[part[..., k]] for k, curve in enumerate(linear)], -1) @ matrix.T
            done[first : first + _ROWS] = np.round(_encoded(light) * top).astype(levels.dtype)
        return done


def profile_from(data: bytes) -> Profile | None:
    """The profile in `data`; None where there is none, or one that cannot be converted."""
    try:
        return Profile(data) if data else None
    except ValueError:
        return None


def _encoded(light: np.ndarray) -> np.ndarray:
    """Linear light with sRGB's curve, in [0, 1]."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _curve(data: bytes, x: Curve) -> Curve:
    """Linear light of levels `x` in [0, 1] by a curve of a profile: a table, an exponent, or a formula."""
    kind = data[:4]
    if kind == b"curv":
        (count,) = struct.unpack_from(">I", data, 8)
        if count == 0:
            return x
        if count == 1:
            return x ** (struct.unpack_from(">H", data, 12)[0] / 256)
        table = np.array(struct.unpack_from(f">{min(count, 65536)}H", data, 12)) / 65535
        return np.interp(x, np.linspace(0, 1, len(table)), table)
    if kind != b"para":
        raise KeyError(kind)
    (form,) = struct.unpack_from(">H", data, 8)
    g, a, b, c, d, e, f = (0.0,) * 7
    values = [v / 65536 for v in struct.unpack_from(f">{(1, 3, 4, 5, 7)[form]}i", data, 12)]
    if form == 0:
        return x ** values[0]
    if form in (1, 2):  # (a x + b)^g (+ c) from x = -b / a on
        g, a, b, *more = values
        e = f = more[0] if more else 0.0
        d = -b / a if a else 0.0
    elif form == 3:
        g, a, b, c, d = values
    else:
        g, a, b, c, d, e, f = values
    return np.where(x >= d, np.maximum(a * x + b, 0) ** g + e, c * x + f)
