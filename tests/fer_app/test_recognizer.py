from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

import fer_app
from fer_app import recognizer as recognizer_module
from fer_app.classifier import OnnxClassifier
from fer_app.errors import FerError, ImageDecodeError, InputError, ModelError, ProviderUnavailableError
from fer_app.recognizer import Recognizer, detector_device
from fer_app.results import Detections, Faces

RED, GREEN, BLUE = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


@pytest.fixture(scope="module")
def finder(tiny_model):
    return Recognizer(tiny_model, device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def reader(tiny_model):
    """A recognizer for pictures that are face crops already."""
    return Recognizer(tiny_model, device="cpu", batch_size=4, detect=False)


def plain(colour, height=20, width=24) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def same(a: Faces, b: Faces) -> None:
    assert len(a) == len(b)
    np.testing.assert_allclose(a.detections.boxes, b.detections.boxes, atol=0.01)
    np.testing.assert_allclose(a.probs, b.probs, atol=1e-3)
    assert a.quality == b.quality


def test_the_package_offers_it():
    assert fer_app.Recognizer is Recognizer
    assert fer_app.Faces is Faces
    assert {"Recognizer", "__version__"} <= set(dir(fer_app))
    with pytest.raises(AttributeError, match="nonsense"):
        fer_app.nonsense  # noqa: B018


def test_one_photo(finder, astronaut_path, astronaut):
    faces = finder.predict(astronaut_path)
    assert (faces.source, faces.width, faces.height) == (str(astronaut_path), 512, 512)
    assert len(faces) == 1
    x0, y0, x1, y1 = faces.detections.boxes[0]
    assert 150 < x0 < 224 < x1 < 320
    assert 50 < y0 < 110 < y1 < 260
    assert faces.detections.confidence[0] > 0.9
    assert faces.probs.sum() == pytest.approx(1, abs=1e-5)
    assert faces.frame_index is None


def test_a_face_at_the_edge_is_cut_out_where_it_is(finder, astronaut):
    """By the cascade's own landmarks it would be cut out 30 px beside the face."""
    whole, cut = (finder.predict(picture).detections.landmarks[0] for picture in (astronaut, astronaut[:, 200:]))
    np.testing.assert_allclose(cut + np.array([200, 0]), whole, atol=20)


def test_every_kind_of_source_gives_the_same(finder, astronaut_path, astronaut):
    content = astronaut_path.read_bytes()
    wanted = finder.predict(astronaut)
    assert wanted.source == "<array>"
    picture = Image.open(astronaut_path)
    names = []
    for source in (
        astronaut_path,
        str(astronaut_path),
        content,
        io.BytesIO(content),
        picture,
        Image.fromarray(astronaut),
    ):
        faces = finder.predict(source)
        # Decoders may differ by one grey level.
        same(faces, wanted)
        names.append(faces.source)
    assert names == [str(astronaut_path)] * 2 + ["<bytes>", "<stream>", str(astronaut_path), "<image>"]
    picture.close()


def test_pil_images_are_turned_upright(reader):
    lying = np.zeros((20, 30, 3), np.uint8)
    picture = Image.fromarray(lying)
    picture.getexif()[0x0112] = 6
    faces = reader.predict(picture)
    assert (faces.width, faces.height) == (20, 30)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "CMYK", "1"])
def test_pil_images_of_any_mode_are_read_like_their_files(reader, tmp_path, mode):
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 4), np.uint8)
    if mode == "I;16":
        picture = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(noise, "RGBA").convert("RGB" if mode == "CMYK" else "RGBA").convert(mode)
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    picture.save(path)
    given, read = next(reader.predict_many([picture])), next(reader.predict_many([path]))
    np.testing.assert_array_equal(given.image, read.image)


def test_a_damaged_pil_image(reader, tmp_path, astronaut_path):
    (tmp_path / "half.jpg").write_bytes(astronaut_path.read_bytes()[:9000])
    with Image.open(tmp_path / "half.jpg") as picture, pytest.raises(ImageDecodeError):
        reader.predict(picture)


def test_grey_arrays(reader):
    grey = np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8)
    same(reader.predict(grey), reader.predict(np.repeat(grey[..., None], 3, axis=2)))


def test_a_face_crop_is_the_whole_picture(reader):
    faces = reader.predict(plain(RED))
    np.testing.assert_array_equal(faces.detections.boxes, [[0, 0, 24, 20]])
    assert np.isnan(faces.detections.landmarks).all()
    assert np.isnan(faces.detections.confidence).all()
    (record,) = faces.records()
    assert record["landmarks"] is None
    assert record["detection_confidence"] is None


@pytest.mark.parametrize("kind", ["array", "png", "pil"])
def test_red_is_red_all_the_way(reader, kind):
    """A swap of red and blue anywhere would exchange anger and sadness."""
    for colour, label in ((RED, "anger"), (GREEN, "happiness"), (BLUE, "sadness")):
        source = plain(colour)
        if kind == "png":
            source = cv2.imencode(".png", source[..., ::-1])[1].tobytes()
        elif kind == "pil":
            source = Image.fromarray(source)
        faces = reader.predict(source)
        assert faces.label(0) == label
        assert not faces.uncertain[0]


def test_red_is_red_through_alignment(finder, astronaut, monkeypatch):
    """The face is found in the portrait and then cut out of a picture of one colour."""
    found = finder.detector.detect([astronaut])
    monkeypatch.setattr(finder.detector, "detect", lambda images: found)
    for colour, label in ((RED, "anger"), (GREEN, "happiness"), (BLUE, "sadness")):
        assert finder.predict(plain(colour, 512, 512)).label(0) == label


def test_a_face_that_cannot_be_set_upright_is_left_out(finder, astronaut, monkeypatch):
    (found,) = finder.detector.detect([astronaut])
    landmarks = np.concatenate([np.full((1, 5, 2), 40, np.float32), found.landmarks])
    both = Detections(found.boxes.repeat(2, axis=0), found.confidence.repeat(2), landmarks)
    detections = [both, both[:1], Detections.empty(), both[::-1]]
    monkeypatch.setattr(finder.detector, "detect", lambda images: detections)
    faces = finder.predict([astronaut] * 4)
    assert [len(one) for one in faces] == [1, 0, 0, 1]
    for one in (faces[0], faces[3]):
        np.testing.assert_array_equal(one.detections.landmarks, found.landmarks)


def test_uncertain_faces(reader):
    assert reader.predict(plain((128, 128, 128))).uncertain.tolist() == [True]


def test_another_threshold_than_the_models(tiny_model):
    grey, red = plain((128, 128, 128)), plain((200, 60, 60))
    for below, expected in ((None, [True, False]), (0.0, [False, False]), (1.0, [True, True])):
        asked = Recognizer(tiny_model, device="cpu", detect=False, uncertain_below=below)
        assert [bool(faces.uncertain[0]) for faces in asked.predict([grey, red])] == expected
        assert asked.contract.uncertain_below == (0.5 if below is None else below)
        assert asked.classifier.contract.uncertain_below == 0.5  # as the file has it
    for below in (-0.1, 1.01, float("nan")):
        with pytest.raises(InputError, match=r"uncertain_below is .*, must be 0 to 1"):
            Recognizer(tiny_model, device="cpu", uncertain_below=below)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 9])
def test_lists(reader, count):
    pictures = [plain((60 * i % 256, 30, 90), 16 + i, 20) for i in range(count)]
    together = reader.predict(pictures)
    assert isinstance(together, list)
    assert len(together) == count
    for faces, picture in zip(together, pictures, strict=True):
        same(faces, reader.predict(picture))


def test_pictures_with_no_one_and_many_faces_keep_their_own(finder, astronaut):
    two = np.concatenate([astronaut, astronaut[:, ::-1]], axis=1)
    nobody = plain((90, 120, 40), 200, 300)
    pictures = [nobody, two, astronaut, nobody, astronaut[::2, ::2]]
    together = finder.predict(pictures)
    assert [len(faces) for faces in together] == [0, 2, 1, 0, 1]
    for faces, picture in zip(together, pictures, strict=True):
        same(faces, finder.predict(picture))
    assert together[0].probs.shape == (0, 8)
    assert together[0].records()[0]["face"] is None


def test_faces_of_several_pictures_go_through_the_network_together(tiny_model, astronaut, monkeypatch):
    sizes = []
    logits = OnnxClassifier.logits
    monkeypatch.setattr(OnnxClassifier, "logits", lambda self, crops: sizes.append(len(crops)) or logits(self, crops))
    recognizer = Recognizer(tiny_model, device="cpu", batch_size=8)
    recognizer.predict([astronaut, astronaut[:, ::-1], astronaut])
    assert sizes == [3]


def test_pictures_are_taken_as_they_are_needed(tiny_model, monkeypatch):
    recognizer = Recognizer(tiny_model, device="cpu", batch_size=3, detect=False)
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield plain(RED, 10, 10)

    predictions = recognizer.predict_many(endless())
    assert len(next(predictions).faces) == 1
    assert len(taken) <= 4
    monkeypatch.setattr(recognizer_module, "_CHUNK_PIXELS", 150)
    taken.clear()
    next(recognizer.predict_many(endless()))
    assert len(taken) == 2


def test_one_bad_file_of_many(reader, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    sources = [plain(RED), tmp_path / "bad.jpg", plain(BLUE), tmp_path / "missing.jpg", 3.5]
    failures = []
    predictions = list(reader.predict_many(sources, on_error=lambda source, error: failures.append((source, error))))
    assert [p.faces.label(0) for p in predictions] == ["anger", "sadness"]
    assert predictions[1].image is sources[2]
    assert [source for source, _ in failures] == [sources[1], sources[3], sources[4]]
    assert all(isinstance(error, FerError) for _, error in failures)
    with pytest.raises(InputError, match=r"bad\.jpg"):
        reader.predict(sources)


@pytest.mark.parametrize(
    "source",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        None,
        42,
    ],
)
def test_other_things_are_refused(reader, source):
    with pytest.raises(InputError, match="is no picture"):
        reader.predict(source)


def test_options(tiny_model, astronaut, astronaut_path):
    two = np.concatenate([astronaut, astronaut[:, ::-1]], axis=1)
    assert len(Recognizer(tiny_model, device="cpu", max_faces=1).predict(two)) == 1
    assert len(Recognizer(tiny_model, device="cpu", min_face_px=300).predict(two)) == 0
    with pytest.raises(InputError, match="limit"):
        Recognizer(tiny_model, device="cpu", max_pixels=1000).predict(astronaut_path)
    with pytest.raises(InputError, match="batch_size"):
        Recognizer(tiny_model, batch_size=0)
    with pytest.raises(InputError, match="no such device"):
        Recognizer(tiny_model, device="gpu")
    with pytest.raises(ModelError):
        Recognizer("no-such-model")


def test_a_device_that_is_not_there(tiny_model, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(ProviderUnavailableError, match="cuda"):
        Recognizer(tiny_model, device="cuda")


def test_any_classifier_will_do(tiny_model):
    classifier = OnnxClassifier(tiny_model, device="cpu")
    recognizer = Recognizer(classifier, device="cpu", detect=False)
    assert recognizer.classifier is classifier
    assert recognizer.predict(plain(GREEN)).label(0) == "happiness"


def test_the_detector_never_runs_on_tensorrt():
    assert detector_device("tensorrt:1") == "cuda:1"
    assert [detector_device(name) for name in ("auto", "cpu", "cuda")] == ["auto", "cpu", "cuda:0"]


def test_the_detector_leaves_a_gpu_that_only_another_backend_can_use_to_that(tiny_model, monkeypatch):
    monkeypatch.setattr("fer_app.recognizer.device_problem", lambda name: "no provider" if name == "cuda:0" else "")
    assert [detector_device(name, "torch") for name in ("auto", "cpu", "cuda", "cuda:1")] == [
        "auto",
        "cpu",
        "cpu",
        "cuda:1",
    ]
    assert detector_device("cuda") == "cuda:0"  # ONNX Runtime's own: asked for, so tried, and refused with a reason
    classifier = OnnxClassifier(tiny_model, device="cpu")
    monkeypatch.setattr("fer_app.recognizer.open_classifier", lambda *_, **__: classifier)
    made = Recognizer(tiny_model, backend="torch", device="cuda")
    assert made.detector is not None
    assert made.detector.device == "cpu"


def test_where_the_detector_runs_is_told_when_it_is_not_where_the_classifier_is(tiny_model, monkeypatch, capsys):
    from fer_app.cli.predict import tell_device

    recognizer = Recognizer(tiny_model, device="cpu")
    tell_device(recognizer, "cpu")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("fer_app.session.device_problem", lambda name: f"no {name}")
    monkeypatch.setattr(type(recognizer.classifier), "device", "cuda:0")
    tell_device(recognizer, "cuda")
    assert capsys.readouterr().err == "fer: the detector runs on cpu: no cuda\n"


def test_the_sessions_keep_within_the_memory_of_the_device_together(tiny_model, monkeypatch):
    from fer_app import classifier, session
    from fer_app.detection import mtcnn

    asked = []

    def open_session(model, *, gpu, **how):
        asked.append(gpu)
        return session.open_session(model, **how)

    for module in (classifier, mtcnn):
        monkeypatch.setattr(module, "open_session", open_session)
    options = session.GpuOptions(600, graphs=True)
    Recognizer(tiny_model, device="cpu", gpu=options)
    chosen, running, *networks = asked  # the file is opened once to learn what it is
    assert chosen == session.DEFAULT_GPU
    assert running == session.GpuOptions(300, graphs=True)
    assert networks == [session.GpuOptions(100)] * 3
    asked.clear()
    Recognizer(tiny_model, device="cpu", gpu=options, detect=False)
    assert asked[1:] == [options]
