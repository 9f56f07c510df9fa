from __future__ import annotations

import numpy as np
import pytest

from fer_app.alignment import TEMPLATES, similarity_transforms
from training.measure_template import SIDE, find_landmarks, load_crops, scales_of, served_crops, template_from


def test_the_template_of_noisy_faces_is_the_face_that_they_vary():
    rng = np.random.default_rng(0)
    face = TEMPLATES["fer48-v1"] * SIDE
    n = 4000
    turn, scale = rng.normal(0, 0.1, n), np.exp(rng.normal(0, 0.1, n))
    linear = np.stack([np.cos(turn), -np.sin(turn), np.sin(turn), np.cos(turn)], axis=1).reshape(n, 2, 2)
    linear *= scale[:, None, None]
    middle = face.mean(axis=0)
    faces = np.einsum("nij,pj->npi", linear, face - middle) + middle + rng.normal(0, 1, (n, 1, 2))
    template = template_from(faces)
    np.testing.assert_allclose(template, TEMPLATES["fer48-v1"], atol=3e-3)
    assert np.median(scales_of(similarity_transforms(faces, template * SIDE))) == pytest.approx(1, abs=1e-3)


@pytest.mark.data
def test_a_served_crop_looks_like_the_training_crop(ferplus_dir):
    found = find_landmarks(load_crops(ferplus_dir, "valid", 200))
    assert len(found.landmarks) > 170
    scales = scales_of(similarity_transforms(found.landmarks, TEMPLATES["fer48-v1"] * SIDE))
    assert np.median(scales) == pytest.approx(1, abs=0.05)
    served, _ = served_crops(found)
    means = found.crops.mean(axis=0).ravel(), served.mean(axis=0).ravel()
    assert np.corrcoef(*means)[0, 1] > 0.85
