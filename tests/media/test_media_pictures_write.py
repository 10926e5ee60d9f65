"""What is written is what was given, with all that the source carried; what cannot be written is refused."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import IFDRational, ImageFileDirectory_v2

from csd3d.media.pictures.read import Tags, open_picture
from csd3d.media.pictures.write import require_writable, write_picture
from tests.media.test_media_pictures_read import tiff
from tests.panorama.panorama_toys import load, scenery

XMP = b'<x:xmpmeta><rdf:Description GPano:ProjectionType="equirectangular"/></x:xmpmeta>'


def all_tags():
    exif = Image.Exif()
    exif[0x010F], exif[0x0132] = "Maker", "2020:02:03 04:05:06"
    exif.get_ifd(0x8769)[0x829A] = IFDRational(1, 250)
    exif.get_ifd(0x8825)[1] = "N"
    return Tags(exif.tobytes(), XMP, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())


def deep(height, width, channels=3):
    return np.random.default_rng(1).integers(0, 65536, (height, width, channels), dtype=np.uint16)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("clear", [False, True])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_lossless_formats_keep_every_level_and_every_tag(tmp_path, name, bits, clear):
    pixels = scenery(21, 34) if bits == 8 else deep(21, 34)
    alpha = pixels[:, :, 0].copy() if clear else None
    tags = all_tags()
    assert write_picture(tmp_path / name, pixels, alpha=alpha, tags=tags) == []
    back = open_picture(tmp_path / name)
    assert np.array_equal(back.pixels, pixels)
    assert (back.alpha is None) == (alpha is None)
    if alpha is not None and back.alpha is not None:
        assert np.array_equal(back.alpha, alpha)
    assert back.tags.icc == tags.icc
    assert back.tags.xmp.rstrip(b"\0") == XMP
    other = cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED)  # a reader that is not ours
    assert other is not None
    if not (clear and bits == 8 and name == "a.tif"):  # there it multiplies colours by transparency
        assert np.array_equal(other[:, :, 2::-1], pixels)
    if bits == 16 and name == "a.tif":
        return  # Pillow, which reads EXIF, does not open these
    check_exif(tmp_path / name)


def check_exif(path):
    with Image.open(path) as image:
        exif = image.getexif()
        assert exif[0x010F] == "Maker"
        assert exif[0x0132] == "2020:02:03 04:05:06"
        assert exif.get_ifd(0x8769)[0x829A] == pytest.approx(1 / 250)
        assert exif.get_ifd(0x8825)[1] == "N"


@pytest.mark.parametrize(("how", "bits"), [("tiled", 8), ("tiled", 16), ("predicted", 8), ("layers", 8)])
def test_a_tiff_is_not_written_as_its_source_was(tmp_path, how, bits):
    """Fields about the pixels in the source's file, and Photoshop's layers, which it shows in their place, are gone."""
    pixels = np.ascontiguousarray(scenery(32, 48) if bits == 8 else deep(32, 48))
    path = tmp_path / "a.tif"
    if how == "tiled":
        tiff(path, pixels, tiled=True)
    else:
        fields = {317: 2} if how == "predicted" else {37724: b"Adobe Photoshop Document Data Block\0" + bytes(90_000)}
        Image.fromarray(pixels).save(path, compression="tiff_lzw", tiffinfo=fields | {0x010F: "Maker"})
    picture = open_picture(path)
    assert np.array_equal(picture.pixels, pixels)
    assert any("layers" in note for note in picture.notes) == (how == "layers")
    assert write_picture(tmp_path / "b.tif", picture.pixels, tags=picture.tags) == []
    for read in (lambda: open_picture(tmp_path / "b.tif").pixels, lambda: cv2.imread(str(tmp_path / "b.tif"), -1)):
        assert np.array_equal(np.sort(read()), np.sort(pixels))
    if how != "tiled":
        with Image.open(tmp_path / "b.tif") as image:
            assert image.getexif()[0x010F] == "Maker"
            assert not {317, 37724} & set(image.getexif())


def test_exif_beyond_what_a_jpeg_holds_is_said(tmp_path):
    def written(tag, size):
        exif = Image.Exif()
        exif[0x010F] = "Maker"
        exif.get_ifd(0x8769)[tag] = b"x" * size
        lost = write_picture(tmp_path / "a.jpg", scenery(9, 9), tags=Tags(exif.tobytes()))
        with Image.open(tmp_path / "a.jpg") as image:
            return lost, image.getexif().get(0x010F)

    assert written(0x927C, 60_000) == ([], "Maker")
    assert written(0x927C, 70_000) == (["the camera's own notes in EXIF are too large for a JPEG and dropped"], "Maker")
    assert written(0x9286, 70_000) == (["EXIF is too large for a JPEG and dropped"], None)


def test_a_deep_tiff_has_its_exif_in_its_directory(tmp_path):
    write_picture(tmp_path / "a.tif", deep(5, 6), tags=all_tags())
    with (tmp_path / "a.tif").open("rb") as stream:
        directory = ImageFileDirectory_v2(stream.read(8))
        stream.seek(directory.next)
        directory.load(stream)
        assert directory[0x010F] == "Maker"
        assert 0x8769 in directory
        assert directory[258] == (16, 16, 16)


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_lossy_formats_come_close_and_keep_every_tag(tmp_path, name):
    pixels, tags = scenery(40, 56), all_tags()
    assert write_picture(tmp_path / name, pixels, tags=tags, quality=97) == []
    back = open_picture(tmp_path / name)
    most = 4 if name == "a.jpg" else 12  # WebP halves the resolution of colour
    assert np.abs(back.pixels.astype(int) - pixels).mean() < most
    assert (back.tags.icc, back.tags.xmp) == (tags.icc, XMP)
    check_exif(tmp_path / name)


def test_webp_of_quality_100_is_lossless_transparent_colours_too(tmp_path):
    pixels = scenery(16, 16)
    alpha = np.zeros((16, 16), np.uint8)
    write_picture(tmp_path / "a.webp", pixels, alpha=alpha, quality=100)
    assert np.array_equal(load(tmp_path / "a.webp"), np.dstack([pixels, alpha]))


def test_what_a_format_cannot_hold_is_said(tmp_path):
    pixels = deep(8, 8)
    lost = write_picture(tmp_path / "a.jpg", pixels, alpha=pixels[:, :, 0], tags=Tags(xmp=b"x" * 70_000))
    assert len(lost) == 3
    assert "transparency" in lost[0]
    assert "8 bits" in lost[1]
    assert "XMP" in lost[2]
    shown = load(tmp_path / "a.jpg").astype(float)
    assert shown.shape == (8, 8, 3)


def test_sixteen_bits_round_to_the_nearest_of_eight(tmp_path):
    ramp = np.repeat(np.arange(65536, dtype=np.uint16).reshape(256, 256, 1), 3, 2)
    write_picture(tmp_path / "a.webp", ramp, quality=100)
    expected = np.round(ramp.astype(np.float64) / 65535 * 255).astype(np.uint8)
    assert np.array_equal(load(tmp_path / "a.webp"), expected)


def test_names_and_sizes_are_checked_before_the_work(tmp_path):
    with pytest.raises(ValueError, match="name ending in"):
        require_writable(tmp_path / "a.gif", 10, 10)
    with pytest.raises(ValueError, match="at most 16383 px"):
        require_writable(tmp_path / "a.webp", 100, 20_000)
    require_writable(tmp_path / "a.jpg", 100, 20_000)
    (tmp_path / "b.png").mkdir()
    with pytest.raises(ValueError, match="the folder"):
        require_writable(tmp_path / "b.png", 10, 10)


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.png"
    write_picture(path, scenery(5, 5))
    before = path.read_bytes()
    with pytest.raises((TypeError, ValueError)):
        write_picture(path, np.zeros((5, 5, 7), np.uint8))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


IPTC = b"\x1c\x02\x19\x00\x05beach\x1c\x02\x78\x00\x0amy caption"


def test_caption_comment_text_and_resolution_stay_where_they_can(tmp_path):
    tags = Tags(iptc=IPTC, comment=b"by me", text=(("parameters", "a cat, Steps: 20"),), dpi=(300.0, 240.0))
    held = {
        "a.jpg": ("iptc", "comment", "dpi"), "a.png": ("text", "comment", "dpi"), "b.png": ("text", "comment", "dpi"),
        "a.tif": ("iptc", "dpi"), "a.webp": (),
    }  # fmt: skip
    for name, kept in held.items():
        lost = " ".join(write_picture(tmp_path / name, scenery(9, 12) if name != "b.png" else deep(9, 12), tags=tags))
        words = {"iptc": "IPTC", "comment": "comment", "text": "parameters", "dpi": "dpi"}
        assert {key for key, word in words.items() if word not in lost} == set(kept)
        with Image.open(tmp_path / name) as image:
            image.load()
            if "dpi" in kept:
                assert image.info["dpi"] == pytest.approx((300, 240), abs=0.01)
            if "text" in kept:
                assert image.info["parameters"] == "a cat, Steps: 20"
            if name == "a.jpg":
                assert image.info["photoshop"][0x0404] == IPTC
                assert image.info["comment"] == b"by me"
            if name == "a.tif":
                assert image.tag_v2[33723] == IPTC
        back = open_picture(tmp_path / name).tags
        again = tmp_path / f"again-{name}"
        write_picture(again, scenery(9, 12), tags=back)
        assert open_picture(again).tags == back
