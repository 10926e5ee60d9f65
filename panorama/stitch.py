"""From photos taken on one spot to one panorama: OpenCV's stitching parts in their usual order.

features -> matches -> the largest set that hangs together -> cameras -> bundle adjustment -> level horizon
-> warp -> even exposure -> seams -> multi-band blend -> crop or fill the ragged border

Photos may come in any order. Those that match no others are left out, and it is said which and why. A full turn is
recognised and closed: it is blended around its seam, and as wide as the turn to the pixel. Since the whole turn depends
on its weakest overlap, photos that hang together anyway also count as neighbours where they match less surely, as long
as all neighbours then still fit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import cv2
import numpy as np

from csd3d.media.pictures.read import Picture
from csd3d.runs.progress import RunProgress

Projection = Literal["cylindrical", "spherical", "plane"]
Border = Literal["crop", "fill", "keep"]

FEATURES_PX, SEAM_PX = 600_000, 100_000
"""Pixels of a photo when features are searched, and when seams are."""
MATCH_CONFIDENCE = 0.65
"""How much nearer the best match of a feature has to be than the second best (what suits SIFT)."""
WEAK = 0.5
"""Among photos that hang together, matches of this share of the confidence asked for are tried too."""
MOST_OFF = 0.02
"""Neighbours fit when their matched features lie so close together, in widths of a photo (root mean square)."""

MOST_STRETCHED = 50
"""A panorama has at most so many times the pixels of its photos; towards the poles of a projection they are without
end."""


@dataclass(frozen=True)
class StitchConfig:
    """How photos become a panorama."""

    projection: Projection = "cylindrical"
    """What photos are drawn on: `cylindrical` for a turn, `spherical` for several rows, `plane` for a few photos."""
    confidence: float = 1.0
    """How sure a match between two photos must be (OpenCV's measure; 1 is usual for panoramas)."""
    border: Border = "crop"
    """The ragged border: `crop` to the largest full rectangle, `fill` from what is beside it, `keep` it transparent."""
    close: bool = True
    """Close what is a full turn."""
    bands: int = 5
    """Frequency bands of the blend; more = softer transitions of broad tones."""

    def __post_init__(self) -> None:
        if not self.confidence > 0:
            raise ValueError(f"confidence: expected more than 0, got {self.confidence}")
        if not 1 <= self.bands <= 12:
            raise ValueError(f"bands: expected 1 to 12, got {self.bands}")


@dataclass(frozen=True, eq=False)
class Stitched:
    """A panorama and what became of the photos."""

    pixels: np.ndarray
    """[H W 3] uint8, RGB."""
    alpha: np.ndarray | None
    """[H W] uint8, 255 where a photo covers it; only with `keep`."""
    turn: float
    """Degrees that it covers; 0 for a plane."""
    closed: bool
    """It is a full turn, its left border going on at its right."""
    used: tuple[int, ...]
    """Numbers of the photos in it."""
    notes: tuple[str, ...]
    """One sentence for every photo that was left out."""


def stitch(
    photos: Sequence[Picture], config: StitchConfig | None = None, *, progress: RunProgress | None = None
) -> Stitched:
    """Stitch photos taken on one spot; without `progress` nothing shows how far things are.

    Raises:
        ValueError: fewer than two photos, no two that match, or places for them that no projection shows.
    """
    config, progress = config or StitchConfig(), progress or RunProgress(quiet=True)
    if len(photos) < 2:
        raise ValueError(f"photos: expected two or more, got {len(photos)}")
    cv2.setRNGSeed(0)  # its random sampling then gives the same panorama every time
    images = [_bgr(photo) for photo in photos]
    features, scale = _features(images, progress)
    used, matches, notes = _together(photos, features, config.confidence)
    cameras = _cameras([features[i] for i in used], matches, config.confidence)
    images = [images[i] for i in used]
    for camera in cameras:
        _rescale(camera, 1 / scale)
    focal = float(np.median([camera.focal for camera in cameras]))
    _require_shown(images, cameras, focal, config.projection, [photos[i].path.name for i in used])
    pixels, mask, closed = _compose(images, cameras, focal, config, progress)
    turn = 0.0 if config.projection == "plane" else min(360.0, math.degrees(pixels.shape[1] / focal))
    pixels, alpha = _border(pixels, mask, config.border, closed=closed)
    return Stitched(
        np.ascontiguousarray(pixels[:, :, ::-1]), alpha, 360.0 if closed else turn, closed, tuple(used), tuple(notes)
    )


def _bgr(photo: Picture) -> np.ndarray:
    pixels = photo.pixels
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.ascontiguousarray(pixels[:, :, ::-1])


def _shrunk(image: np.ndarray, scale: float) -> np.ndarray:
    return image if scale == 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _scale_to(images: Sequence[np.ndarray], most_px: int) -> float:
    """One scale for all photos, so that the first has at most so many pixels."""
    return min(1.0, math.sqrt(most_px / (images[0].shape[0] * images[0].shape[1])))


def _features(images: Sequence[np.ndarray], progress: RunProgress) -> tuple[list[Any], float]:
    finder: Any = cv2.SIFT.create()
    scale = _scale_to(images, FEATURES_PX)
    shown = progress.track("search", images, total=len(images))
    return [cv2.detail.computeImageFeatures2(finder, _shrunk(image, scale)) for image in shown], scale


def _matches(features: list[Any]) -> Any:
    matcher = cv2.detail.BestOf2NearestMatcher(False, MATCH_CONFIDENCE)
    found = matcher.apply2(features)
    matcher.collectGarbage()
    for match in found:  # OpenCV forgets pairs above 3 as too much alike, though they are the best there are
        if match.num_inliers:
            match.confidence = match.num_inliers / (8 + 0.3 * len(match.matches))
    return found


def _together(
    photos: Sequence[Picture], features: list[Any], confidence: float
) -> tuple[list[int], list[Any], list[str]]:
    """Numbers of the photos that hang together, the matches between them, and words about the others."""
    count = len(photos)
    twins = _twins(photos)
    if count - len(twins) < 2:
        raise ValueError(f"photos: expected two or more that differ, got {count} times the same")
    rich = [i for i in range(count) if len(features[i].keypoints) >= 8 and i not in twins]
    best = np.zeros((count, count))
    matches = _matches([features[i] for i in rich]) if len(rich) >= 2 else []
    for match in matches:
        if 0 <= match.src_img_idx != match.dst_img_idx >= 0:
            best[rich[match.src_img_idx], rich[match.dst_img_idx]] = match.confidence
    used = _largest_group(best > confidence)
    if len(used) < 2:
        raise ValueError(
            f"photos: expected some that overlap, found no two of the {count} that match "
            f"(best confidence {best.max():.2f}, needed {confidence:g})"
        )
    notes = []
    for i in sorted(set(range(count)) - set(used)):
        j = int(best[i].argmax())
        if i in twins:
            why = f"it is the same picture as {photos[twins[i]].path.name}"
        elif i not in rich:
            why = "it has next to no detail to match"
        elif best[i, j] == 0:
            why = "nothing in it is found again in another photo"
        elif best[i, j] <= confidence:
            why = f"its best match is {photos[j].path.name} with confidence {best[i, j]:.2f}, needed {confidence:g}"
        else:
            why = f"it matches {photos[j].path.name}, but neither matches the larger group"
        notes.append(f"{photos[i].path.name} is left out: {why}")
    return used, _among([rich.index(i) for i in used], matches), notes


def _among(some: list[int], matches: Sequence[Any]) -> list[Any]:
    """Of the matches between all pairs of photos those between `some`, which are counted anew."""
    count, found = math.isqrt(len(matches)), []
    for new_i, i in enumerate(some):
        for new_j, j in enumerate(some):
            match = matches[i * count + j]
            if match.src_img_idx >= 0:  # not of a photo and itself
                match.src_img_idx, match.dst_img_idx = new_i, new_j
            found.append(match)
    return found


def _twins(photos: Sequence[Picture]) -> dict[int, int]:
    """Photos whose pixels an earlier photo has too, with its number."""
    first: dict[tuple[object, bytes], int] = {}
    seen = [(photo.pixels.shape, sha256(photo.pixels.tobytes()).digest()) for photo in photos]
    return {i: first[key] for i, key in enumerate(seen) if first.setdefault(key, i) != i}


def _largest_group(linked: np.ndarray) -> list[int]:
    """The largest set of photos connected by links [n n], in their order."""
    left, groups = set(range(len(linked))), []
    while left:
        group, edge = set(), [left.pop()]
        while edge:
            i = edge.pop()
            group.add(i)
            near = {j for j in left if linked[i, j] or linked[j, i]}
            left -= near
            edge += near
        groups.append(sorted(group))
    return max(groups, key=len)


def _cameras(features: list[Any], matches: Sequence[Any], confidence: float) -> list[Any]:
    """Focal length and rotation of every photo, level, at the size of the features."""
    cameras = _adjusted(features, matches, confidence)
    links, width = _links(features, matches, WEAK * confidence), float(features[0].img_size[0])
    if cameras and len(links) > len(_links(features, matches, confidence)) and _fits(cameras, links, width):
        looser = _adjusted(features, matches, WEAK * confidence)
        cameras = looser if looser and _fits(looser, links, MOST_OFF * width) else cameras
    if not cameras:
        raise ValueError("photos: expected some taken on one spot, got some that fit no common camera")
    level = cv2.detail.waveCorrect([np.copy(c.R) for c in cameras], cv2.detail.WAVE_CORRECT_HORIZ)
    for camera, R in zip(cameras, level, strict=True):
        camera.R = R
    return cameras


def _adjusted(features: list[Any], matches: Any, confidence: float) -> list[Any]:
    """Cameras by bundle adjustment over the matches above a confidence; none if they fit no common camera."""
    estimator: Any = cv2.detail.HomographyBasedEstimator()
    found, cameras = estimator.apply(features, matches, None)
    if not found:
        return []
    for camera in cameras:
        camera.R = camera.R.astype(np.float32)
    adjuster = cv2.detail.BundleAdjusterRay()
    adjuster.setConfThresh(confidence)
    refined, cameras = adjuster.apply(features, matches, cameras)
    return list(cameras) if refined else []


Link = tuple[int, int, np.ndarray, np.ndarray]
"""Numbers of two photos, and the places [n 2] of what they share in each, in px."""


def _links(features: list[Any], matches: Any, confidence: float) -> list[Link]:
    """The photos that match above a confidence."""
    links = []
    for match in matches:
        i, j = match.src_img_idx, match.dst_img_idx
        if 0 <= i < j and match.confidence > confidence:
            shared = [m for m, kept in zip(match.getMatches(), match.getInliers(), strict=True) if kept]
            a = np.array([features[i].keypoints[m.queryIdx].pt for m in shared])
            b = np.array([features[j].keypoints[m.trainIdx].pt for m in shared])
            links.append((i, j, a, b))
    return links


def _fits(cameras: list[Any], links: list[Link], most_px: float) -> bool:
    """Whether no link is off by more; a camera that is no number fits nothing."""
    return all(_off(cameras, link) <= most_px for link in links)


def _off(cameras: list[Any], link: Link) -> float:
    """How far apart a pair of photos puts what it shares, in px: focal length times the distance of unit rays."""
    i, j, a, b = link
    rays = []
    for camera, at in ((cameras[i], a), (cameras[j], b)):
        ray = np.column_stack([at, np.ones(len(at))]) @ (camera.R @ np.linalg.inv(camera.K())).T
        rays.append(ray / np.linalg.norm(ray, axis=1, keepdims=True))
    apart = np.square(rays[0] - rays[1]).sum(1).mean()
    return float(np.sqrt(apart * cameras[i].focal * cameras[j].focal))


def _rescale(camera: Any, factor: float) -> None:
    camera.focal *= factor
    camera.ppx *= factor
    camera.ppy *= factor


def _matrix(camera: Any, scale: float) -> np.ndarray:
    K = camera.K().astype(np.float32)
    K[:2] *= scale
    return K


def _require_shown(
    images: list[np.ndarray], cameras: list[Any], focal: float, projection: Projection, names: Sequence[str]
) -> None:
    """Raises ValueError for photos that would be stretched without measure: beside one that lies on its side the
    horizon is upright, and runs through the poles of a cylinder."""
    warper: Any = cv2.PyRotationWarper(projection, focal)
    boxes = [warper.warpRoi(i.shape[1::-1], _matrix(c, 1.0), c.R) for i, c in zip(images, cameras, strict=True)]
    areas, own = [box[2] * box[3] for box in boxes], sum(i.shape[0] * i.shape[1] for i in images)
    if max(areas) > MOST_STRETCHED * own:
        worst = areas.index(max(areas))
        raise ValueError(
            f"photos: expected some that are all upright and that {projection} can show, got {names[worst]}, which "
            f"would be {boxes[worst][2]}x{boxes[worst][3]} px; is one of them turned?"
        )


def _compose(
    images: list[np.ndarray], cameras: list[Any], focal: float, config: StitchConfig, progress: RunProgress
) -> tuple[np.ndarray, np.ndarray, bool]:
    """The blended panorama [H W 3], where photos cover it [H W], and whether it is a closed turn."""
    compensator, seams = _seams(images, cameras, focal, config)
    full = round(2 * math.pi * focal)
    warper: Any = cv2.PyRotationWarper(config.projection, full / (2 * math.pi))  # a turn is a whole number of pixels
    boxes = [warper.warpRoi(i.shape[1::-1], _matrix(c, 1.0), c.R) for i, c in zip(images, cameras, strict=True)]
    left, top = (min(box[k] for box in boxes) for k in (0, 1))
    right, bottom = (max(box[k] + box[k + 2] for box in boxes) for k in (0, 1))
    closed = config.close and config.projection != "plane" and right - left >= full - 2 and _gapless(boxes, seams, full)
    margin = min(full // 4, 64 * 2 ** max(config.bands - 3, 0)) if closed else 0
    if closed:
        left, right = -(full // 2) - margin, full - full // 2 + margin
    blender: Any = cv2.detail.MultiBandBlender(0, config.bands)
    blender.prepare((left, top, right - left, bottom - top))
    pairs = list(zip(images, cameras, strict=True))
    for i, (image, camera) in progress.track("blend", enumerate(pairs), total=len(pairs)):
        corner, warped = warper.warp(image, _matrix(camera, 1.0), camera.R, cv2.INTER_LINEAR, cv2.BORDER_REFLECT)
        whole = np.full(image.shape[:2], 255, np.uint8)
        _, mask = warper.warp(whole, _matrix(camera, 1.0), camera.R, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)
        warped = compensator.apply(i, corner, warped, mask)
        seam = cv2.dilate(seams[i], np.ones((3, 3), np.uint8))
        mask = cv2.bitwise_and(cv2.resize(seam, mask.shape[1::-1], interpolation=cv2.INTER_LINEAR), mask)
        for shift in (-full, 0, full) if closed else (0,):
            _feed(blender, warped, mask, corner[0] + shift, corner[1], left, right)
    blended, covered = blender.blend(None, None)
    pixels, covered = np.clip(blended, 0, 255).astype(np.uint8), np.asarray(covered)
    if closed:
        pixels, covered = _bridged(pixels[:, margin : margin + full], covered[:, margin : margin + full])
    return pixels, covered, closed


def _bridged(pixels: np.ndarray, covered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fill gaps one pixel wide, as rounding leaves them where a photo goes on over the seam, from both sides."""
    sides = [(np.roll(pixels, k, 1).astype(np.uint16), np.roll(covered, k, 1) > 0) for k in (1, -1)]
    gap = (covered == 0) & sides[0][1] & sides[1][1]
    mean = ((sides[0][0] + sides[1][0]) // 2).astype(np.uint8)
    return np.where(gap[:, :, None], mean, pixels), np.where(gap, 255, covered).astype(np.uint8)


def _feed(blender: Any, image: np.ndarray, mask: np.ndarray, x: int, y: int, left: int, right: int) -> None:
    """Give the blender the part of a warped photo that lies between `left` and `right`."""
    a, b = max(left - x, 0), min(right - x, image.shape[1])
    if b > a and mask[:, a:b].any():
        blender.feed(
            np.ascontiguousarray(image[:, a:b]).astype(np.int16), np.ascontiguousarray(mask[:, a:b]), (x + a, y)
        )


def _seams(
    images: list[np.ndarray], cameras: list[Any], focal: float, config: StitchConfig
) -> tuple[Any, list[np.ndarray]]:
    """The exposure compensator, fed, and the mask of each warped photo, at a small size."""
    scale = _scale_to(images, SEAM_PX)
    warper: Any = cv2.PyRotationWarper(config.projection, focal * scale)
    corners, warped, masks = [], [], []
    for image, camera in zip(images, cameras, strict=True):
        small, K = _shrunk(image, scale), _matrix(camera, scale)
        corner, seen = warper.warp(small, K, camera.R, cv2.INTER_LINEAR, cv2.BORDER_REFLECT)
        whole = np.full(small.shape[:2], 255, np.uint8)
        _, mask = warper.warp(whole, K, camera.R, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)
        corners.append(corner)
        warped.append(seen)
        masks.append(cv2.UMat(mask))
    compensator = cv2.detail.ExposureCompensator.createDefault(cv2.detail.EXPOSURE_COMPENSATOR_GAIN_BLOCKS)
    compensator.feed(corners, [cv2.UMat(w) for w in warped], masks)
    # missing in OpenCV's type stubs
    finder: Any = cv2.detail.GraphCutSeamFinder("COST_COLOR")  # pyright: ignore[reportAttributeAccessIssue]
    found = finder.find([cv2.UMat(w.astype(np.float32)) for w in warped], corners, masks)
    return compensator, [np.asarray(mask.get()) for mask in found]


def _gapless(boxes: Sequence[Any], seams: Sequence[np.ndarray], full: int) -> bool:
    """Whether some photo covers every direction of the turn."""
    seen = np.zeros(full, bool)
    for box, seam in zip(boxes, seams, strict=True):
        columns = cv2.resize(seam.max(0)[None].astype(np.uint8), (box[2], 1), interpolation=cv2.INTER_NEAREST)[0] > 0
        seen[(box[0] + np.flatnonzero(columns)) % full] = True
    return float(seen.mean()) > 0.995


def _border(
    pixels: np.ndarray, mask: np.ndarray, border: Border, *, closed: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    full = mask > 0
    if border == "keep":
        return pixels, None if full.all() else np.where(full, 255, 0).astype(np.uint8)
    if border == "fill":
        return _filled(pixels, full, closed=closed), None
    top, bottom, left, right = largest_rectangle(full, whole_width=closed)
    return pixels[top:bottom, left:right], None


def largest_rectangle(full: np.ndarray, *, whole_width: bool = False) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the largest rectangle in which [H W] `full` is true everywhere.

    With `whole_width` only rectangles as wide as the picture count, for what must stay a full turn.
    """
    height, width = full.shape
    if whole_width and width > 1:
        top, bottom, _, _ = largest_rectangle(full.all(1)[:, None])
        return top, bottom, 0, width
    best, above = (0, (0, height, 0, width)), np.zeros(width + 1, int)
    for y in range(height):
        above[:width] = np.where(full[y], above[:width] + 1, 0)
        heights = above.tolist()  # whose numbers are taken one by one
        stack: list[tuple[int, int]] = []  # first column and height of rectangles that still grow to the right
        for x in range(width + 1):
            first = x
            while stack and stack[-1][1] >= heights[x]:
                first, tall = stack.pop()
                if tall * (x - first) > best[0]:
                    best = (tall * (x - first), (y + 1 - tall, y + 1, first, x))
            stack.append((first, heights[x]))
    return best[1]


def _filled(pixels: np.ndarray, full: np.ndarray, *, closed: bool) -> np.ndarray:
    """The empty border from what is next to it; around the seam of a closed turn."""
    pad = min(64, pixels.shape[1]) if closed else 0
    if pad:
        pixels, full = (np.concatenate([x[:, -pad:], x, x[:, :pad]], 1) for x in (pixels, full))
    hole = np.where(full, 0, 255).astype(np.uint8)
    done = cv2.inpaint(np.ascontiguousarray(pixels), hole, 3, cv2.INPAINT_TELEA) if hole.any() else pixels
    return done[:, pad : done.shape[1] - pad] if pad else done
