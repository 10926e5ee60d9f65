"""Metadata of a picture: which tags are carried over when it is written anew, and which no longer hold."""

import re
import struct
from dataclasses import dataclass, replace

from PIL import Image

EXIF_FAULTS = (
    OSError, SyntaxError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError,
    RuntimeError, struct.error,
)  # fmt: skip
"""What Pillow raises over broken EXIF, of a picture whose pixels may be whole."""
_ORIENTATION, _EXIF_IFD, _WIDTH, _HEIGHT = 0x0112, 0x8769, 0xA002, 0xA003
_LAYERS = 37724
_NOT_KEPT = frozenset({
    *range(254, 260), *range(262, 267), 273, *range(277, 282), 284, *range(288, 294), 297, 301, 317, *range(320, 338),
    *range(338, 348), *range(512, 533), 700, *range(32995, 32999), 33723, 34377, 34675, _LAYERS,
})  # fmt: skip
"""Fields of a TIFF that say how its pixels lie in the file, which are written anew; XMP, IPTC and the profile, which
have a place of their own; and what Photoshop would show in place of the pixels."""
_BROKEN_EXIF = "its EXIF is broken and is left out"
_IPTC_RESOURCE = 0x0404
_XMP_KEY = "XML:com.adobe.xmp"
_GPANO = "http://ns.google.com/photos/1.0/panorama/"
_SPHERE_SLACK = 0.01
_LEFT_BEHIND = {
    "the gain map (HDR) is left out": (rb"(?:hdrgm|HDRGainMap):\w+",) * 2,
    "the motion video behind the picture is left out": (rb"\w+:(?:MicroVideo|MotionPhoto)\w*",) * 2,
    "extended XMP is left out": (rb"\w+:HasExtendedXMP", rb"\w+:HasExtendedXMP|(?:GDepth|GImage|GAudio):\w+"),
}
"""By what is said of it: the sign of what lies behind a picture in its file, and all fields that then speak of it.
Depth maps, further pictures and sound have their bytes in extended XMP."""


@dataclass(frozen=True)
class Tags:
    """Metadata of a picture."""

    exif: bytes = b""
    """As Pillow writes it, orientation set to upright, without fields of a TIFF about its pixels; empty if there is
    none."""
    xmp: bytes = b""
    """The XMP packet; empty if there is none."""
    icc: bytes = b""
    """The RGB colour profile; empty if there is none."""
    iptc: bytes = b""
    """The IPTC record of a JPEG: caption, keywords, ...; empty if there is none."""
    comment: bytes = b""
    """The comment of a JPEG."""
    text: tuple[tuple[str, str], ...] = ()
    """Text of a PNG, by keyword."""
    dpi: tuple[float, float] | None = None
    """Pixels an inch, across and down; None where the file does not say."""

    def gpano(self, name: str) -> str | None:
        """A field of Google's photo sphere schema, such as ProjectionType; None where the packet has none."""
        text = self.xmp.decode("utf-8", "replace")
        prefix = re.escape(_gpano_prefix(text))
        found = re.search(rf"{prefix}:{name}\s*=\s*[\"']([^\"']*)[\"']|<{prefix}:{name}>([^<]*)<", text)
        return re.sub(r"\.0+$", "", (found[1] or found[2] or "").strip()) if found else None


def _gpano_prefix(text: str) -> str:
    found = re.search(rf"xmlns:(\w+)\s*=\s*[\"']{re.escape(_GPANO)}[\"']", text)
    return found[1] if found else "GPano"


def orientation_of(image: Image.Image, notes: list[str] | None = None) -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none or EXIF is broken, which `notes` receives."""
    try:
        number = image.getexif().get(_ORIENTATION, 1)
    except EXIF_FAULTS:
        if notes is not None:
            notes.append(_BROKEN_EXIF)
        return 1
    return number if isinstance(number, int) and 1 <= number <= 8 else 1


def profile_of(image: Image.Image) -> bytes:
    """The RGB colour profile; empty where there is none, or one of other colours."""
    icc = image.info.get("icc_profile")
    if not isinstance(icc, bytes) or image.mode in ("CMYK", "YCbCr"):
        return b""
    return icc if icc[16:20] == b"RGB " else b""


def tags_of(image: Image.Image, upright_px: tuple[int, int], notes: list[str]) -> Tags:
    """The metadata of a loaded picture as they are right for the upright one.

    Args:
        image: as Pillow opens it.
        upright_px: width and height of the upright picture.
        notes: receives a line for all that is left out.
    """
    info = image.info
    xmp = info.get("xmp") or info.get(_XMP_KEY) or b""
    xmp = xmp.encode("utf-8") if isinstance(xmp, str) else bytes(xmp)
    resources, comment, dpi = info.get("photoshop"), info.get("comment", b""), info.get("dpi")
    iptc = resources.get(_IPTC_RESOURCE, b"") if isinstance(resources, dict) else b""
    is_jpeg = image.format in ("JPEG", "MPO")
    xmp = _without_what_is_gone(_upright(xmp), notes)
    if image.format == "MPO" and not any("gain map" in note or "motion" in note for note in notes):
        notes.append(f"{getattr(image, 'n_frames', 2) - 1} further pictures in the file are left out")
    exif, icc = _exif(image, upright_px, notes), profile_of(image)
    if info.get("icc_profile") and not icc and image.mode not in ("CMYK", "LAB"):
        notes.append("its colour profile is broken or of other colours than RGB, and is left out")
    iptc = iptc if is_jpeg and isinstance(iptc, bytes) else b""
    comment = comment if is_jpeg and isinstance(comment, bytes) else b""
    tags = Tags(exif, xmp, icc, iptc=iptc, comment=comment, text=_text(image), dpi=_dpi(dpi))
    return _without_stale_sphere(tags, upright_px, notes)


def _exif(image: Image.Image, upright_px: tuple[int, int], notes: list[str]) -> bytes:
    """EXIF for the upright picture."""
    try:
        exif = image.getexif()
        if not len(exif):
            return b""
        inner = exif.get_ifd(_EXIF_IFD)
        for tag, side in zip((_WIDTH, _HEIGHT), upright_px, strict=True):
            if tag in inner:
                inner[tag] = side
        if _ORIENTATION in exif:
            exif[_ORIENTATION] = 1
        if _LAYERS in exif:
            notes.append("its layers (Photoshop) are left out")
        for tag in _NOT_KEPT.intersection(exif):
            del exif[tag]
        return exif.tobytes() if len(exif) else b""
    except EXIF_FAULTS:
        if _BROKEN_EXIF not in notes:
            notes.append(_BROKEN_EXIF)
        return b""


def _text(image: Image.Image) -> tuple[tuple[str, str], ...]:
    """Text chunks of a PNG, without those that hold other metadata."""
    found = getattr(image, "text", None) if image.format == "PNG" else None
    others = (key for key in found or {} if key != _XMP_KEY and not key.startswith("Raw profile type"))
    return tuple((key, str((found or {})[key])) for key in others)


def _dpi(value: object) -> tuple[float, float] | None:
    if not (isinstance(value, tuple) and len(value) == 2):
        return None
    try:
        across, down = float(value[0]), float(value[1])
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 1 < across < 65_536 and 1 < down < 65_536 else None


def _upright(xmp: bytes) -> bytes:
    """The packet without word of an orientation that is applied already."""
    text = re.sub(rb"(tiff:Orientation\s*=\s*[\"'])\d([\"'])", rb"\g<1>1\2", xmp)
    return re.sub(rb"(<tiff:Orientation>)\d(<)", rb"\g<1>1\2", text)


def _without_what_is_gone(xmp: bytes, notes: list[str]) -> bytes:
    """The packet without word of what lay behind the picture in its file."""
    for note, (sign, fields) in _LEFT_BEHIND.items():
        if re.search(rb"[\s<]" + sign + rb"[\s=>]", xmp):
            notes.append(note)
            xmp = _without_fields(xmp, rb"(?:" + fields + rb"|\w+:Directory)")
    return xmp


def _without_fields(xmp: bytes, name: bytes) -> bytes:
    """The packet without fields of a name (a pattern), be they attributes or elements, nor idle namespaces."""
    xmp = _without_attributes(xmp, name)
    xmp = re.sub(rb"<(" + name + rb")\b[^>]*?(?:/>|>.*?</\1>)", b"", xmp, flags=re.DOTALL)
    used = set(re.findall(rb"[\s</]([\w.-]+):", xmp))
    for prefix in set(re.findall(rb"\sxmlns:([\w.-]+)", xmp)) - used:
        xmp = _without_attributes(xmp, rb"xmlns:" + re.escape(prefix))
    return xmp


def _without_attributes(xmp: bytes, name: bytes) -> bytes:
    return re.sub(rb"\s" + name + rb"\s*=\s*(?:\"[^\"]*\"|'[^']*')", b"", xmp)


def _without_stale_sphere(tags: Tags, upright_px: tuple[int, int], notes: list[str]) -> Tags:
    """Without photo sphere fields that speak of a picture of another shape, as cropping leaves them behind."""
    sides = [tags.gpano(f"CroppedAreaImage{side}Pixels") for side in ("Width", "Height")]
    width, height = (int(side) if side and side.isascii() and side.isdigit() else 0 for side in sides)
    if not (width and height) or abs(upright_px[0] * height / (upright_px[1] * width) - 1) <= max(
        _SPHERE_SLACK, 1.5 / min(upright_px)
    ):
        return tags
    size = f"{upright_px[0]}x{upright_px[1]}"
    notes.append(f"its photo sphere fields speak of {width}x{height} px, not of {size}, and are left out")
    return without_sphere(tags)


def without_sphere(tags: Tags) -> Tags:
    """Without photo sphere fields."""
    prefix = _gpano_prefix(tags.xmp.decode("utf-8", "replace")).encode()
    return replace(tags, xmp=_without_fields(tags.xmp, re.escape(prefix) + rb":\w+"))
