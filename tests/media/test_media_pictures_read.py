"""Pictures are read as people see them, and what is no picture is refused in one line."""

import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from csd3d.evaluate.frames import pictures_of
from csd3d.media.clip.animation import is_animation
from csd3d.media.clip.probe import probe
from csd3d.media.clip.source import open_clip
from csd3d.media.masks import mask_levels, read_mask
from csd3d.media.pictures.levels import from_levels, oriented, read_levels
from csd3d.media.pictures.read import Picture, Tags, open_picture
from tests.panorama.panorama_toys import save, scenery


def turned_by_pillow(array, orientation):
    """The same through Pillow's table of names."""
    names = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    image = Image.fromarray(array)
    return np.asarray(image.transpose(names[orientation]) if orientation in names else image)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path, orientation):
    array = scenery(20, 30)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = open_picture(save(tmp_path / "a.png", array, exif=exif))
    expected = turned_by_pillow(array, orientation)
    assert np.array_equal(oriented(array, orientation), expected)
    assert np.array_equal(picture.pixels, expected)
    back = Image.Exif()
    back.load(picture.tags.exif)
    assert back[0x0112] == 1


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_a_tiff_is_turned_once_everywhere(tmp_path, orientation, deep):
    levels = scenery(20, 30).astype(np.uint16) * 257 if deep else scenery(20, 30)
    (tmp_path / "frames").mkdir()
    path = tiff(tmp_path / "frames" / "0.tif", levels, orientation=orientation)
    expected = oriented(levels, orientation)
    assert np.array_equal(open_picture(path).pixels, expected)
    assert np.array_equal(read_levels(path), expected)
    with open_clip(tmp_path / "frames") as clip:
        assert torch.equal(clip.read(0, 1)[0], from_levels(np.ascontiguousarray(expected)))
    torch.testing.assert_close(read_mask(path), mask_levels(np.ascontiguousarray(expected)))


def tiff(path, array, *, photometric=2, extra=(), planes=1, orientation=1, tiled=False):
    """A TIFF of one strip, one for each plane, or one tile, whose fields say so."""
    height, width, channels = array.shape
    stored = np.ascontiguousarray(array.transpose(2, 0, 1) if planes == 2 else array).tobytes()
    strips = channels if planes == 2 else 1
    values = {
        256: (width,), 257: (height,), 258: (8 * array.itemsize,) * channels, 259: (1,), 262: (photometric,),
        273: (0,) * strips, 274: (orientation,), 277: (channels,), 278: (height,),
        279: (len(stored) // strips,) * strips, 284: (planes,), **({338: extra} if extra else {}),
    }  # fmt: skip
    if tiled:
        values = {k: v for k, v in values.items() if k not in (273, 278, 279)}
        values |= {322: (width,), 323: (height,), 324: (0,), 325: (len(stored),)}
    after = 8 + 2 + 12 * len(values) + 4
    start = after + sum(4 * len(own) for own in values.values())
    values[324 if tiled else 273] = tuple(start + k * len(stored) // strips for k in range(strips))
    entries, more = b"", b""
    for tag, own in values.items():  # all of them of 32 bits
        packed = struct.pack(f"<{len(own)}I", *own)
        entries += struct.pack("<HHI", tag, 4, len(own))
        entries += packed if len(own) == 1 else struct.pack("<I", after + len(more))
        more += b"" if len(own) == 1 else packed
    head = b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + bytes(4) + more
    path.write_bytes(head.ljust(start, b"\0") + stored)
    return path


def test_fields_of_a_deep_tiff_are_heeded(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 65536, (9, 14, 3)).astype(np.uint16)
    alpha = np.full((9, 14, 1), 40_000, np.uint16)
    grey = tiff(tmp_path / "white-is-0.tif", rgb[:, :, :1], photometric=0)
    assert np.array_equal(read_levels(grey), np.repeat(65535 - rgb[:, :, :1], 3, 2))
    other = open_picture(tiff(tmp_path / "no-alpha.tif", np.dstack([rgb, alpha]), extra=(0,)))
    assert np.array_equal(other.pixels, rgb)
    assert other.alpha is None
    multiplied = np.round(rgb * (40_000 / 65535)).astype(np.uint16)
    clear = open_picture(tiff(tmp_path / "multiplied.tif", np.dstack([multiplied, alpha]), extra=(1,)))
    assert np.abs(clear.pixels.astype(int) - rgb).max() <= 1
    assert clear.alpha is not None
    assert (clear.alpha == 40_000).all()
    for read in (open_picture, read_mask, open_clip):
        with pytest.raises(ValueError, match="planes"):
            read(tiff(tmp_path / "planes.tif", rgb, planes=2))


def test_what_opencv_cannot_decode_is_refused_in_one_line_alone(tmp_path, capfd):
    five = tiff(tmp_path / "five.tif", np.zeros((9, 14, 5), np.uint16), extra=(2, 0))
    wide = tiff(tmp_path / "wide.tif", np.zeros((1, 1 << 21, 3), np.uint16))
    for path in (five, wide):
        for read in (open_picture, read_mask):
            with pytest.raises(ValueError, match="expected 8 or 16 bits a channel"):
                read(path)
    assert capfd.readouterr().err == ""


def test_cmyk_has_the_same_colours_everywhere(tmp_path):
    inks = np.full((8, 8, 4), (200, 40, 10, 30), np.uint8)
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.tif")
    deep = tiff(tmp_path / "b.tif", inks.astype(np.uint16) * 257, photometric=5)
    expected = open_picture(tmp_path / "a.tif").pixels
    for path in (tmp_path / "a.tif", deep):
        assert np.array_equal(read_levels(path), expected)
        assert np.array_equal(open_picture(path).pixels, expected)


def test_text_and_profiles_of_a_png_may_be_long(tmp_path):
    text = PngInfo()
    text.add_text("workflow", "node " * 1_000_000, zip=True)
    path = tmp_path / "a.png"
    Image.fromarray(scenery(8, 9)).save(path, pnginfo=text, icc_profile=bytes(2_000_000))
    assert open_picture(path).pixels.shape == (8, 9, 3)
    assert probe(path).frames == 1
    assert not is_animation(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("csd3d.media.pictures.levels._TEXT_BYTES", 1000)
        with pytest.raises(ValueError, match=r"a\.png.*too large"):
            open_picture(path)
        with pytest.raises(ValueError, match=r"a\.png"):
            open_clip(tmp_path)


def test_a_large_picture_is_no_attack(tmp_path):
    path = tmp_path / "wide.png"
    Image.new("1", (20_000, 10_000)).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not is_animation(path)
        assert pictures_of(path) == (path,)


def test_rgb_takes_any_rows_and_columns_around_the_circle():
    array = scenery(10, 12)
    picture = Picture(Path("a.png"), array)
    got = picture.rgb(torch.tensor([3, 4, 5]), torch.tensor([10, 11, 12, 13, -1]))
    expected = torch.from_numpy(array[[3, 4, 5]][:, [10, 11, 0, 1, 11]]).permute(2, 0, 1).float() / 255
    assert torch.equal(got, expected)


@pytest.mark.parametrize(("channels", "name"), [(3, "a.png"), (4, "a.png"), (3, "a.tif"), (4, "a.tif"), (1, "a.png")])
def test_sixteen_bits_stay_sixteen_bits(tmp_path, channels, name):
    deep = np.random.default_rng(0).integers(0, 65536, (9, 14, channels), dtype=np.uint16)
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    cv2.imwrite(str(tmp_path / name), deep[:, :, order].squeeze())
    picture = open_picture(tmp_path / name)
    assert picture.levels == 65535
    assert any("grey picture becomes RGB" in note for note in picture.notes) == (channels == 1)
    assert np.array_equal(picture.pixels, np.repeat(deep, 3, 2) if channels == 1 else deep[:, :, :3])
    if channels == 4:
        assert picture.alpha is not None
        assert np.array_equal(picture.alpha, deep[:, :, 3])
    else:
        assert picture.alpha is None


def test_transparency_is_kept_aside(tmp_path):
    rgba = np.dstack([scenery(8, 9), np.arange(72, dtype=np.uint8).reshape(8, 9)])
    picture = open_picture(save(tmp_path / "a.png", rgba))
    assert np.array_equal(picture.pixels, rgba[:, :, :3])
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha, rgba[:, :, 3])


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "LA"])
def test_other_colours_become_rgb_and_it_is_said(tmp_path, mode):
    image = Image.fromarray(scenery(30, 40))
    other = image.convert("L").convert("LA") if mode == "LA" else image.convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    other.save(path, quality=98)
    picture = open_picture(path)
    expected = np.asarray(other.convert("RGBA" if mode == "LA" else "RGB")).astype(int)[:, :, :3]
    assert picture.pixels.shape == (30, 40, 3)
    assert np.abs(picture.pixels - expected).mean() < (4 if mode == "CMYK" else 0.01)
    assert any("RGB" in note for note in picture.notes)


def test_profile_and_fields_come_along(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6" GPano:ProjectionType="equirectangular"/></x:xmpmeta>'
    path = save(tmp_path / "a.webp", scenery(20, 20), icc_profile=profile, xmp=xmp)
    picture = open_picture(path)
    assert picture.tags.icc == profile
    assert picture.tags.gpano("ProjectionType") == "equirectangular"
    assert picture.tags.gpano("FullPanoWidthPixels") is None
    assert b'tiff:Orientation="1"' in picture.tags.xmp
    assert Tags(xmp=b"<GPano:ProjectionType> cylindrical </GPano:ProjectionType>").gpano("ProjectionType") == (
        "cylindrical"
    )


def test_a_renamed_file_is_what_it_is(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(scenery(20, 20)).save(path, format="JPEG")
    picture = open_picture(path)
    assert picture.kind == "JPEG"
    assert any("JPEG file" in note for note in picture.notes)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
@pytest.mark.parametrize("keep", [0.02, 0.4, 0.9])
def test_truncated_files_are_refused_in_one_line(tmp_path, name, keep):
    path = save(tmp_path / name, scenery(60, 60))
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match=r"cut short|something else") as caught:
        open_picture(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_single_picture_is_refused(tmp_path):
    frames = [Image.fromarray(scenery(10, 10, seed=i)) for i in range(3)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="3 in one file"):
        open_picture(tmp_path / "a.webp")
    frames[0].save(tmp_path / "a.bmp")
    with pytest.raises(ValueError, match="got BMP"):
        open_picture(tmp_path / "a.bmp")
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(ValueError, match="empty file"):
        open_picture(tmp_path / "b.png")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(ValueError, match="got 32"):
        open_picture(tmp_path / "f.tif")
    with pytest.raises(FileNotFoundError, match="a folder"):
        open_picture(tmp_path)


def test_reading_leaves_pillows_limit_alone(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    open_picture(save(tmp_path / "a.png", scenery(5, 5)))
    assert before == Image.MAX_IMAGE_PIXELS


GOOD = {
    "bilevel.png": (300, 451),
    "cmyk.jpg": (300, 451),
    "exif_orientation6.jpg": (300, 451),
    "gray16.png": (300, 451),
    "odd_301x299.png": (299, 301),
    "one_pixel.png": (1, 1),
    "palette.png": (300, 451),
    "rgba_gradient.png": (300, 451),
    "thin_7x513.png": (513, 7),
    "webp.webp": (300, 451),
}


@pytest.mark.parametrize("name", sorted(GOOD))
def test_odd_pictures_are_read(real_data, name):
    picture = open_picture(real_data / "photos_odd" / name)
    assert (picture.height_px, picture.width_px) == GOOD[name]
    if name not in ("one_pixel.png", "thin_7x513.png", "odd_301x299.png", "webp.webp", "bilevel.png"):
        cat = open_picture(real_data / "photos" / "chelsea.png").pixels.astype(float).mean(2)
        mine = picture.pixels.astype(float).mean(2) * (255 / picture.levels)
        assert np.corrcoef(mine.ravel(), cat.ravel())[0, 1] > 0.95  # all of them show this cat, upright


@pytest.mark.parametrize("name", ["empty.png", "not_an_image.jpg", "truncated_40pct.jpg"])
def test_odd_files_that_are_no_pictures_are_refused(real_data, name):
    with pytest.raises(ValueError, match=name) as caught:
        open_picture(real_data / "photos_odd" / name)
    assert "\n" not in str(caught.value)


def test_broken_exif_is_left_out(tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 1
    path = save(tmp_path / "a.png", scenery(8, 9), exif=exif)
    data = bytearray(path.read_bytes())
    at = data.index(b"eXIf")
    length = int.from_bytes(data[at - 4 : at], "big")
    data[at + 4 : at + 8] = b"Exyf"
    data[at + 4 + length : at + 8 + length] = zlib.crc32(data[at : at + 4 + length]).to_bytes(4, "big")
    path.write_bytes(bytes(data))
    picture = open_picture(path)
    assert np.array_equal(picture.pixels, scenery(8, 9))
    assert picture.notes == ("its EXIF is broken and is left out",)
    assert np.array_equal(read_levels(path), scenery(8, 9))


PACKET = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" {}>{}<dc:title>Trip</dc:title>'
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)
HDR = 'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"'
DIRECTORY = (
    "<Container:Directory><rdf:Seq><rdf:li><Container:Item Item:Length='4'/></rdf:li></rdf:Seq></Container:Directory>"
)


@pytest.mark.parametrize(
    ("attributes", "inside", "word"),
    [
        (f'{HDR} xmlns:Container="http://ns.google.com/c/" hdrgm:Version="1.0"', DIRECTORY, "gain map"),
        (HDR, f"<hdrgm:Version>1.0</hdrgm:Version>{DIRECTORY}", "gain map"),
        ('HDRGainMap:HDRGainMapVersion="65536"', "", "gain map"),
        ('GCamera:MicroVideo="1" GCamera:MicroVideoOffset="7009"', "", "motion video"),
        ("GCamera:MotionPhoto='1' GCamera:MotionPhotoVersion='1'", DIRECTORY, "motion video"),
        ('xmpNote:HasExtendedXMP="0123456789ABCDEF"', "", "extended XMP"),
        ('xmpNote:HasExtendedXMP="01" GDepth:Format="RangeInverse"', "<GImage:Mime>a/b</GImage:Mime>", "extended XMP"),
    ],
)
def test_xmp_does_not_claim_what_is_gone(tmp_path, attributes, inside, word):
    packet = PACKET.format(attributes, inside).encode()
    picture = open_picture(save(tmp_path / "a.jpg", scenery(16, 24), xmp=packet))
    assert [note for note in picture.notes if word in note]
    gone = (b"hdrgm", b"GainMap", b"Container", b"MicroVideo", b"MotionPhoto", b"HasExtendedXMP", b"GDepth", b"GImage")
    assert not [word for word in gone if word in picture.tags.xmp]
    assert b"<dc:title>Trip</dc:title>" in picture.tags.xmp


def gpano(width, height, prefix="GPano", full=None):
    ns = "http://ns.google.com/photos/1.0/panorama/"
    fields = {
        "ProjectionType": "equirectangular", "CroppedAreaImageWidthPixels": width,
        "CroppedAreaImageHeightPixels": height, "FullPanoWidthPixels": full or width,
    }  # fmt: skip
    text = " ".join(f'{prefix}:{name}="{value}"' for name, value in fields.items())
    return PACKET.format(f'xmlns:{prefix}="{ns}" {text}', "").encode()


@pytest.mark.parametrize("prefix", ["GPano", "ns1"])
def test_photo_sphere_fields_of_another_picture_are_left_out(tmp_path, prefix):
    stale = open_picture(save(tmp_path / "stale.jpg", scenery(24, 32), xmp=gpano(512, 256, prefix)))
    assert stale.tags.gpano("ProjectionType") is None
    assert any("512x256 px, not of 32x24" in note for note in stale.notes)
    assert b"<dc:title>Trip</dc:title>" in stale.tags.xmp
    for width, height in ((64, 32), (512, 256), (512.0, 256.0)):  # its own, or of one that was made smaller
        own = open_picture(save(tmp_path / "own.jpg", scenery(32, 64), xmp=gpano(width, height, prefix)))
        assert own.tags.gpano("ProjectionType") == "equirectangular"
        assert own.tags.gpano("CroppedAreaImageWidthPixels") == str(int(width))
        assert own.notes == ()


@pytest.mark.parametrize("mode", ["F", "I"])
def test_thirty_two_bits_are_refused_everywhere(tmp_path, mode):
    (tmp_path / "frames").mkdir()
    path = tmp_path / "frames" / "0.tif"
    Image.new(mode, (16, 12), 1).save(path)
    for read in (open_picture, open_clip, read_mask):
        with pytest.raises(ValueError, match="expected 8 or 16 bits a channel, got 32"):
            read(path)
    with pytest.raises(ValueError, match="expected 8 or 16 bits a channel, got 32"):
        open_clip(tmp_path / "frames")


def test_several_pictures_in_a_file_are_refused_everywhere(tmp_path):
    (tmp_path / "frames").mkdir()
    path = tmp_path / "frames" / "0.tif"
    pages = [Image.new("RGB", (16, 12), (60 * k, 0, 0)) for k in range(4)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    for read in (open_picture, open_clip, read_mask):
        with pytest.raises(ValueError, match="expected one picture, got 4 in one file"):
            read(path)
    with pytest.raises(ValueError, match="expected one picture, got 4 in one file"):
        open_clip(tmp_path / "frames")


@pytest.mark.parametrize("icc", [b"junk" * 50, b"\0" * 16 + b"GRAY" + b"\0" * 120])
def test_a_colour_profile_that_is_left_out_is_said(tmp_path, icc):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", icc_profile=icc)
    assert any("colour profile" in note for note in open_picture(tmp_path / "a.png").notes)
