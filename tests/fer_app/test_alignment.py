from __future__ import annotations

import cv2
import numpy as np
import pytest

from fer_app.alignment import TEMPLATES, align_faces, alignable, similarity_transforms
from fer_app.errors import InputError
from fer_app.results import LANDMARKS

TEMPLATE = TEMPLATES["fer48-v1"]


def random_similarities(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scale, turn = np.exp(rng.uniform(-3, 3, n)), rng.uniform(-np.pi, np.pi, n)
    a, b = scale * np.cos(turn), scale * np.sin(turn)
    x, y = rng.uniform(-500, 500, (2, n))
    return np.stack([a, -b, x, b, a, y], axis=1).reshape(n, 2, 3)


def apply(transforms: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.einsum("nij,npj->npi", transforms[:, :, :2], points) + transforms[:, None, :, 2]


def slow_umeyama(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Umeyama 1991, equations 40-42, with its singular value decomposition, for one face."""
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    covariance = (target - target_mean).T @ (source - source_mean) / len(source)
    u, d, vt = np.linalg.svd(covariance)
    s = np.diag([1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ s @ vt
    scale = np.trace(np.diag(d) @ s) / ((source - source_mean) ** 2).sum(axis=1).mean()
    return np.column_stack([scale * rotation, target_mean - scale * rotation @ source_mean])


def square_wave(size: int, period: int) -> np.ndarray:
    wave = (np.arange(size) // (period // 2) % 2 * 255).astype(np.uint8)
    return np.broadcast_to(wave[None, :, None], (size, size, 3)).copy()


def test_known_transforms_are_recovered():
    truth = random_similarities(50)
    inverse = np.linalg.inv(np.concatenate([truth, np.tile([[[0.0, 0, 1]]], (50, 1, 1))], axis=1))[:, :2]
    landmarks = apply(inverse, np.tile(TEMPLATE * 48, (50, 1, 1)))
    np.testing.assert_allclose(similarity_transforms(landmarks, TEMPLATE * 48), truth, rtol=1e-7, atol=1e-7)


def test_noisy_landmarks_get_umeyamas_least_squares():
    rng = np.random.default_rng(1)
    landmarks = TEMPLATE * 80 + rng.normal(0, 12, (40, 5, 2))
    expected = [slow_umeyama(face, TEMPLATE * 48) for face in landmarks]
    np.testing.assert_allclose(similarity_transforms(landmarks, TEMPLATE * 48), expected, atol=1e-9)


def test_a_mirrored_face_is_not_reflected():
    landmarks = (TEMPLATE * [-1, 1])[None] * 100
    linear = similarity_transforms(landmarks, TEMPLATE)[0, :, :2]
    assert np.linalg.det(linear) > 0


def test_no_faces():
    assert similarity_transforms(np.zeros((0, 5, 2)), TEMPLATE).shape == (0, 2, 3)
    crops = align_faces(np.zeros((9, 9, 3), np.uint8), np.zeros((0, 5, 2), np.float32), img_size=48, crop="fer48-v1")
    assert crops.shape == (0, 48, 48, 3)
    assert crops.dtype == np.uint8


def scrambled() -> np.ndarray:
    """Five points apart from each other, of which no rotation has anything in common with the template."""
    w = (TEMPLATE - TEMPLATE.mean(axis=0)) @ np.array([1, 1j])
    z = np.random.default_rng(0).normal(size=5) + 1j * np.arange(5)
    z -= z.mean()
    z -= w * (w.conj() @ z) / (w.conj() @ w)
    return np.stack([z.real, z.imag], axis=1) * 20 + 50


HOPELESS = [np.full((5, 2), np.nan), np.full((5, 2), 7.0), scrambled(), np.where(np.eye(5, 2), np.inf, TEMPLATE)]


@pytest.mark.parametrize("landmarks", HOPELESS)
def test_landmarks_that_fit_nothing_are_refused(landmarks):
    with pytest.raises(InputError, match="landmarks"):
        similarity_transforms(landmarks[None], TEMPLATE)


def test_alignable_tells_them_from_faces():
    mirrored, profile = TEMPLATE * [-1, 1], TEMPLATE * [0.01, 1]
    landmarks = np.stack([TEMPLATE * 48, *HOPELESS, mirrored * 30, profile * 30])
    fitting = alignable(landmarks.astype(np.float32), "fer48-v1")
    assert fitting.tolist() == [True, False, False, False, False, True, True]
    assert len(align_faces(np.zeros((60, 60, 3), np.uint8), landmarks[fitting], img_size=48, crop="fer48-v1")) == 3
    assert alignable(np.zeros((0, 5, 2), np.float32), "fer48-v1").shape == (0,)
    with pytest.raises(InputError, match="nowhere"):
        alignable(landmarks, "nowhere")


def test_an_unknown_geometry_is_refused():
    with pytest.raises(InputError, match="fer48-v1"):
        align_faces(np.zeros((9, 9, 3), np.uint8), np.zeros((0, 5, 2)), img_size=48, crop="nowhere")


def test_the_template_is_an_upright_symmetric_face():
    at = dict(zip(LANDMARKS, TEMPLATE, strict=True))
    assert at["left_eye"][0] > 0.5 > at["right_eye"][0]
    assert at["left_mouth"][0] > 0.5 > at["right_mouth"][0]
    assert at["left_eye"][1] < at["nose"][1] < at["left_mouth"][1]
    mirrored = TEMPLATE[[1, 0, 2, 4, 3]] * [-1, 1] + [1, 0]
    np.testing.assert_allclose(TEMPLATE, mirrored, atol=1e-12)


@pytest.mark.parametrize("offset", [(0, 0), (30, 17)])
def test_landmarks_on_the_template_copy_the_pixels(offset):
    picture = np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)
    x, y = offset
    landmarks = (TEMPLATE * 48 + offset)[None]
    crop = align_faces(picture, landmarks, img_size=48, crop="fer48-v1")[0]
    np.testing.assert_array_equal(crop, picture[y : y + 48, x : x + 48])


def test_an_integer_reduction_is_the_block_mean():
    picture = np.random.default_rng(0).integers(0, 256, (144, 144, 3), np.uint8)
    crop = align_faces(picture, (TEMPLATE * 144)[None], img_size=48, crop="fer48-v1")[0]
    mean = picture.reshape(48, 3, 48, 3, 3).mean(axis=(1, 3))
    assert np.abs(crop - mean).max() <= 1


def test_stripes_finer_than_a_crop_pixel_become_gray():
    landmarks = (TEMPLATE * 960)[None]
    crop = align_faces(square_wave(960, 4), landmarks, img_size=48, crop="fer48-v1")[0]
    assert np.abs(crop.astype(int) - 127).max() <= 3


@pytest.mark.parametrize("turn", [-50, -10, 0, 25, 90, 180])
@pytest.mark.parametrize("scale", [0.7, 1.0, 2.6, 9.0])
def test_a_turned_and_scaled_face_gives_the_same_crop(astronaut, turn, scale):
    # A smooth picture, so that interpolation has nothing to lose.
    smooth = cv2.GaussianBlur(astronaut, (0, 0), 9)
    landmarks = TEMPLATE * 120 + [160, 60]
    expected = align_faces(smooth, landmarks[None], img_size=48, crop="fer48-v1")[0].astype(int)
    a, b = scale * np.cos(np.radians(turn)), scale * np.sin(np.radians(turn))
    linear = np.array([[a, -b], [b, a]])
    centre = landmarks.mean(axis=0)
    side = int(np.ceil(260 * scale))
    shift = side / 2 - linear @ centre
    # OpenCV counts from the centres of pixels, landmarks from their edges.
    matrix = np.column_stack([linear, shift + linear @ [0.5, 0.5] - 0.5])
    scene = cv2.warpAffine(smooth, matrix, (side, side), flags=cv2.INTER_LINEAR)
    crop = align_faces(scene, (landmarks @ linear.T + shift)[None], img_size=48, crop="fer48-v1")[0].astype(int)
    assert np.abs(crop - expected).mean() < 1
    assert np.abs(crop - expected).max() <= 6


def test_beyond_the_edge_the_outermost_pixels_repeat():
    picture = np.zeros((60, 60, 3), np.uint8)
    picture[:, 0] = (10, 20, 30)
    crop = align_faces(picture, (TEMPLATE * 48 - [24, 0])[None], img_size=48, crop="fer48-v1")[0]
    assert (crop[:, :24] == (10, 20, 30)).all()
    assert (crop[:, 26:] == 0).all()


@pytest.mark.parametrize("offset", [(-500, -500), (500, 20)])
def test_a_face_outside_the_picture_is_filled_from_its_edge(offset):
    picture = np.full((60, 60, 3), 77, np.uint8)
    crop = align_faces(picture, (TEMPLATE * 48 + offset)[None], img_size=48, crop="fer48-v1")[0]
    assert (crop == 77).all()


def test_landmarks_absurdly_far_apart_need_no_more_memory():
    picture = np.full((60, 60, 3), 77, np.uint8)
    crop = align_faces(picture, (TEMPLATE * 1e6)[None], img_size=48, crop="fer48-v1")[0]
    assert (crop == 77).all()


def test_each_face_of_many_is_its_own():
    picture = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    rng = np.random.default_rng(2)
    landmarks = TEMPLATE * 50 + rng.uniform(0, 120, (6, 1, 2)) + rng.normal(0, 3, (6, 5, 2))
    together = align_faces(picture, landmarks, img_size=32, crop="fer48-v1")
    for i in range(6):
        np.testing.assert_array_equal(
            together[i], align_faces(picture, landmarks[i : i + 1], img_size=32, crop="fer48-v1")[0]
        )


def test_a_picture_wider_than_opencv_can_warp():
    panorama = np.zeros((60, 40_000, 3), np.uint8)
    panorama[:, 39_900:] = 200
    crop = align_faces(panorama, (TEMPLATE * 48 + [39_920, 5])[None], img_size=48, crop="fer48-v1")[0]
    assert (crop == 200).all()
