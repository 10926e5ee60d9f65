"""One pass over a source and its results: exact values, the same by any chunk, and what is refused."""

import math
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from csd3d.evaluate.cases import Case
from csd3d.evaluate.config import EvaluateConfig
from csd3d.evaluate.frames import Frames, measured_size
from csd3d.evaluate.measure import flows, measure
from csd3d.evaluate.meters import LearnedFeatures, Pixels
from csd3d.media.clip.source import open_clip
from csd3d.metrics import flicker, structure_distance, warp_error
from tests.clips import moving_picture
from tests.media.test_media_pictures_profile import P3, SRGB_CURVE, profile


def write_frames(folder, rgb):
    folder.mkdir(parents=True)
    for i, picture in enumerate(rgb):
        levels = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(levels).save(folder / f"{i}.png")
    return folder


def quantised(rgb):
    return (rgb * 255).round() / 255


@pytest.fixture
def clip():
    return quantised(moving_picture(7, 48, 64))


def just_pixels(case):
    return [Pixels()]


def scores_of(case, config=EvaluateConfig(), meters=just_pixels):  # noqa: B008 - frozen
    found, notes = measure(case, meters, config)
    return {m.method: m.scores for m in found}, notes


def test_a_result_that_is_the_source_changed_nothing(tmp_path, clip):
    source = write_frames(tmp_path / "source", clip)
    found, notes = scores_of(Case("x", source, {"same": source}))
    assert notes == []
    assert found["same"] == found["source"]
    assert found["same"]["change"] == found["same"]["structure"] == [0] * 7


def test_values_are_those_of_the_functions(tmp_path, clip):
    other = quantised((0.5 * clip + 0.3 * torch.linspace(0, 1, 7).view(7, 1, 1, 1)).clamp(0, 1))
    case = Case("x", write_frames(tmp_path / "a", clip), {"b": write_frames(tmp_path / "b", other)})
    found = scores_of(case)[0]["b"]
    flow, visible = flows(clip)
    assert found["change"] == pytest.approx((other - clip).abs().mean((1, 2, 3)).tolist(), abs=1e-6)
    assert found["structure"] == pytest.approx(structure_distance(other, clip).tolist(), abs=1e-6)
    assert found["warp error"] == pytest.approx(warp_error(other[:-1], other[1:], flow, visible).tolist(), abs=1e-5)
    assert found["flicker"] == pytest.approx(flicker(other).tolist(), abs=1e-8)
    assert len(found["WarpSSIM"]) == 6


def test_flow_of_a_known_shift_is_found(clip):
    flow, visible = flows(clip)
    assert float(flow[:, 0][visible].median()) == pytest.approx(-2, abs=0.2)
    assert flow.shape == (6, 2, 48, 64)
    assert visible.float().mean() > 0.7


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_the_size_of_a_chunk_changes_nothing(tmp_path, clip, chunk):
    noisy = (clip + 0.1 * torch.rand(clip.shape)).clamp(0, 1)
    case = Case("x", write_frames(tmp_path / "a", clip), {"b": write_frames(tmp_path / "b", noisy)})
    whole, parts = (scores_of(case, EvaluateConfig(chunk_frames=c))[0]["b"] for c in (7, chunk))
    assert whole.keys() == parts.keys()
    for name, values in whole.items():
        assert parts[name] == pytest.approx(values, abs=1e-6), name


def test_only_what_a_mask_leaves_alone_is_background(tmp_path, clip):
    edited = clip.clone()
    edited[..., 32:] = 0
    mask = torch.zeros(48, 64)
    mask[:, 32:] = 1
    Image.fromarray((mask * 255).byte().numpy()).save(tmp_path / "mask.png")
    case = Case("x", write_frames(tmp_path / "a", clip), {"b": write_frames(tmp_path / "b", edited)})
    masked = replace(case, mask=tmp_path / "mask.png")
    assert scores_of(masked)[0]["b"]["background"] == [0] * 7
    assert "background" not in scores_of(case)[0]["b"]
    edited[..., :16] = (edited[..., :16] + 0.2).clamp(0, 1)
    touched = replace(masked, results={"b": write_frames(tmp_path / "c", edited)})
    assert min(scores_of(touched)[0]["b"]["background"]) > 0.02


def test_masks_that_move_serve_a_folder_of_frames(tmp_path, clip):
    edited, mask = clip.clone(), torch.zeros(7, 1, 48, 64)
    for i in range(7):
        edited[i, :, :, 8 * i : 8 * i + 8], mask[i, :, :, 8 * i : 8 * i + 8] = 0, 1
    masks = write_frames(tmp_path / "masks", mask.expand(-1, 3, -1, -1))
    case = Case("x", write_frames(tmp_path / "a", clip), {"b": write_frames(tmp_path / "b", edited)}, mask=masks)
    assert scores_of(case)[0]["b"]["background"] == [0] * 7
    assert scores_of(case, EvaluateConfig(max_frames=3))[0]["b"]["background"] == [0] * 3
    Image.new("L", (64, 24)).save(tmp_path / "flat.png")
    with pytest.raises(ValueError, match="expected the clip's shape"):
        scores_of(replace(case, mask=tmp_path / "flat.png"))


def test_frames_with_a_profile_are_measured_as_they_are_edited(tmp_path):
    """A folder of Display P3 beside the sRGB clip that an editor writes of it."""
    (tmp_path / "p3").mkdir()
    for i in range(2):
        Image.new("RGB", (32, 24), (32, 192, 64)).save(
            tmp_path / "p3" / f"{i}.png", icc_profile=profile(P3, SRGB_CURVE)
        )
    with open_clip(tmp_path / "p3") as source:
        shown = write_frames(tmp_path / "srgb", source.read(0, 2))
    assert scores_of(Case("x", tmp_path / "p3", {"b": shown}))[0]["b"]["change"] == [0, 0]


def test_bitmaps_are_measured(tmp_path):
    Image.new("RGB", (32, 24)).save(tmp_path / "a.bmp")
    assert scores_of(Case("x", tmp_path / "a.bmp", {"b": tmp_path / "a.bmp"}))[0]["b"]["change"] == [0]


def test_the_stream_that_was_edited_is_measured(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("ffv1", rate=25) for _ in range(2)]
        for stream, size in zip(streams, (64, 32), strict=True):
            stream.width, stream.height, stream.pix_fmt = size, size, "bgr0"
        for stream, level in zip(streams, (0, 200), strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((stream.height, stream.width, 3), level, np.uint8))
            frame.pts = 0
            container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    result = write_frames(tmp_path / "result", torch.full((1, 3, 32, 32), 200 / 255))
    case = Case("x", path, {"b": result})
    assert scores_of(case)[0]["b"]["change"] == pytest.approx([200 / 255])
    assert scores_of(replace(case, stream=1))[0]["b"]["change"] == pytest.approx([0], abs=1e-6)


def test_a_video_file_is_measured_like_its_frames(tmp_path, make_clip):
    path, rgb = make_clip("a.mkv", codec="ffv1", pix_fmt="bgr0")
    frames = write_frames(tmp_path / "frames", rgb)
    found, _ = scores_of(Case("x", path, {"frames": frames}))
    assert max(found["frames"]["change"]) < 1 / 255


def test_pictures_of_several_sizes_are_measured_one_by_one(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for k, size in enumerate([(40, 32), (64, 16)]):
            Image.new("RGB", size, (0, 0, 51 if name == "b" else 0)).save(tmp_path / name / f"{k}.png")
    found = scores_of(Case("x", tmp_path / "a", {"b": tmp_path / "b"}))[0]["b"]
    assert found["change"] == pytest.approx([0.2 / 3] * 2)
    assert "warp error" not in found


def test_one_picture_has_no_motion(tmp_path):
    Image.new("RGB", (32, 16)).save(tmp_path / "a.png")
    found = scores_of(Case("x", tmp_path / "a.png", {"b": tmp_path / "a.png"}))[0]["b"]
    assert set(found) == {"change", "structure"}


def test_frames_in_no_order_are_not_compared_with_each_other(tmp_path, clip):
    source = write_frames(tmp_path / "a", clip)
    found = scores_of(Case("x", source, {"b": source}), EvaluateConfig(ordered=False))[0]["b"]
    assert set(found) == {"change", "structure"}


def test_the_common_frames_are_measured_and_a_note_says_so(tmp_path, clip):
    case = Case("x", write_frames(tmp_path / "a", clip), {"b": write_frames(tmp_path / "b", clip[:4])})
    found, notes = scores_of(case)
    assert len(found["b"]["change"]) == len(found["source"]["change"]) == 4
    assert len(notes) == 1
    assert "4 frames, its source has 7" in notes[0]


def test_larger_frames_are_measured_smaller(tmp_path, clip):
    assert measured_size(1080, 1920, 512) == (512, 912)
    assert measured_size(48, 64, 512) == (48, 64)
    source = write_frames(tmp_path / "a", clip)
    double = torch.nn.functional.interpolate(clip, scale_factor=2, mode="bilinear")
    found, _ = scores_of(Case("x", source, {"b": write_frames(tmp_path / "b", double)}), EvaluateConfig(size=24))
    assert max(found["b"]["change"]) < 0.01


def test_another_shape_is_refused(tmp_path, clip):
    case = Case("x", write_frames(tmp_path / "a", clip), {"b": write_frames(tmp_path / "b", clip[..., :48])})
    with pytest.raises(ValueError, match="expected the shape of the source, 64x48 px, got 48x48"):
        scores_of(case)


def test_what_is_no_picture_is_refused_in_a_line(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"a\.png: expected a picture"):
        Frames(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError):
        Frames(tmp_path / "nowhere")


def test_learned_features_of_equal_frames_are_equal_and_asked_of_the_source_once(tmp_path, clip):
    asked = []

    def look(rgb):
        asked.append(len(rgb))
        places = torch.nn.functional.avg_pool2d(rgb, 16).flatten(2).transpose(1, 2)
        return places, rgb.mean((2, 3)) + 0.1

    source = write_frames(tmp_path / "a", clip)
    meters = lambda case: [LearnedFeatures(look, ordered=True)]  # noqa: E731
    found, _ = scores_of(Case("x", source, {"b": source, "c": source}), EvaluateConfig(chunk_frames=4), meters)
    assert found["b"]["feature content"] == pytest.approx([1] * 7)
    assert found["b"]["feature structure"] == pytest.approx([0] * 7, abs=1e-9)
    assert len(found["b"]["feature consistency"]) == 6
    assert not any(math.isnan(v) for v in found["c"]["feature consistency"])
    assert sum(asked) == 7 * 4  # three results, one of them the source, which is asked once more for all
