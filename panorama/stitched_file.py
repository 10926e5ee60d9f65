"""A stitched panorama as a file that says what it shows: photo sphere fields for the part of the turn it covers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from csd3d.media.pictures.profile import profile_from
from csd3d.media.pictures.read import Picture, Tags, open_picture
from csd3d.media.pictures.write import require_writable, write_picture
from csd3d.media.place import require_place
from csd3d.runs.progress import RunProgress
from panorama.stitch import StitchConfig, Stitched, stitch


def stitch_files(
    photos: Sequence[Path],
    output: Path,
    config: StitchConfig | None = None,
    *,
    quality: int = 95,
    progress: RunProgress | None = None,
) -> Stitched:
    """Stitch photos and write the panorama: 8 bits, with the photos' colour profile, or sRGB where these differ.

    Raises:
        ValueError, FileNotFoundError: a photo that cannot be read, photos that do not match, a name that cannot be
            written.
    """
    config = config or StitchConfig()
    require_writable(output, 1, 1)
    require_place(output, inputs=photos)
    pictures, converted = in_one_space([open_picture(photo) for photo in photos])
    with progress or RunProgress() as shown:
        made = stitch(pictures, config, progress=shown)
    height, width = made.pixels.shape[:2]
    require_writable(output, height, width)
    xmp = panorama_fields(height, width, made.turn, config) if made.turn else b""
    lost = write_picture(
        output, made.pixels, alpha=made.alpha, tags=Tags(xmp=xmp, icc=pictures[made.used[0]].tags.icc), quality=quality
    )
    notes = (
        *(note for picture in pictures for note in picture.notes),
        *converted,
        *given_up(pictures),
        *made.notes,
        *lost,
    )
    return Stitched(made.pixels, made.alpha, made.turn, made.closed, made.used, notes)


def in_one_space(pictures: Sequence[Picture]) -> tuple[list[Picture], list[str]]:
    """Photos whose numbers mean the same colours: as they are, or in sRGB where their profiles differ; and notes."""
    if len({picture.tags.icc for picture in pictures}) == 1:
        return list(pictures), []
    profiles = [profile_from(picture.tags.icc) for picture in pictures]
    notes = []
    if any(profile and not profile.is_srgb for profile in profiles):
        notes.append("photos of different colour profiles are joined in sRGB")
    if any(picture.tags.icc and not profile for picture, profile in zip(pictures, profiles, strict=True)):
        notes.append("a colour profile that is no simple one is left out")
    return [
        replace(
            picture,
            pixels=picture.pixels if profile is None else profile.to_srgb(picture.pixels),
            tags=replace(picture.tags, icc=b""),
        )
        for picture, profile in zip(pictures, profiles, strict=True)
    ], notes


def given_up(pictures: Sequence[Picture]) -> list[str]:
    """What photos have and the panorama has not."""
    notes = []
    if any(picture.pixels.dtype == np.uint16 for picture in pictures):
        notes.append("photos of 16 bits are joined at 8")
    if any(picture.alpha is not None for picture in pictures):
        notes.append("the photos' transparency is left out")
    if any(picture.tags.exif for picture in pictures):
        notes.append("the photos' EXIF is left out, the panorama has fields of its own")
    return notes


def panorama_fields(height_px: int, width_px: int, turn: float, config: StitchConfig) -> bytes:
    """The XMP packet with Google's photo sphere fields for a panorama of `turn` degrees."""
    full = width_px if turn >= 360 else max(round(width_px * 360 / turn), width_px)
    spherical = config.projection == "spherical"
    tall = max(full // 2, height_px) if spherical else height_px
    values = {
        "ProjectionType": "equirectangular" if spherical else "cylindrical",
        "CroppedAreaImageWidthPixels": width_px,
        "CroppedAreaImageHeightPixels": height_px,
        "FullPanoWidthPixels": full,
        "FullPanoHeightPixels": tall,
        "CroppedAreaLeftPixels": (full - width_px) // 2,
        "CroppedAreaTopPixels": (tall - height_px) // 2,
    }
    fields = " ".join(f'GPano:{name}="{value}"' for name, value in values.items())
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" {fields}/>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()
