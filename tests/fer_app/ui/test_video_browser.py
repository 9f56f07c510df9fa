"""The tab for videos in a real browser: from the upload to the result that plays, with its sound."""

from __future__ import annotations

import time

import numpy as np
import pytest
from tests.fer_app.video.conftest import make_clip

PLAY = """async () => {
  const video = document.getElementById("fer-result-video");
  const volume = video.muted ? 0 : video.volume;
  await video.play();
  await new Promise((resolve) => setTimeout(resolve, 600));
  return {time: video.currentTime, duration: video.duration, width: video.videoWidth,
          sound: video.webkitAudioDecodedByteCount, volume, error: video.error && video.error.message};
}"""


@pytest.fixture(scope="module")
def talk(_astronaut_pixels, tmp_path_factory):
    pictures = [np.ascontiguousarray(np.roll(_astronaut_pixels, 2 * i, axis=1)[:320, 80:400]) for i in range(50)]
    path = tmp_path_factory.mktemp("clip") / "talk.mp4"
    return make_clip(path, times=range(50), size=(320, 320), pictures=pictures, sounds=[{"codec": "aac", "seconds": 2}])


def open_video(page, clip) -> None:
    page.get_by_role("tab", name="Video").click()
    page.set_input_files("#fer-video-file input[type=file]", clip)
    page.locator("#fer-video-file a").wait_for()  # to the upload, with its size


def moment(page) -> float:
    return float(page.evaluate("document.getElementById('fer-result-video').currentTime"))


def test_from_the_upload_to_the_result_that_plays(open_page, talk) -> None:
    with open_page() as page:
        open_video(page, talk)
        page.get_by_role("button", name="Annotate").click()
        page.locator("#fer-result-video").wait_for(timeout=60_000)
        page.get_by_text("(fast, default).").wait_for()  # read by the bundled model, which is told
        told = page.evaluate(PLAY)
        assert told["error"] is None
        assert told["time"] > 0.2
        assert told["duration"] == pytest.approx(2, abs=0.05)
        assert told["width"] == 320
        assert told["sound"] > 0
        assert told["volume"] == 1
        page.evaluate("document.getElementById('fer-result-video').pause()")
        timeline = page.locator(".fer-timeline")
        timeline.click(position={"x": timeline.bounding_box()["width"] * 0.75, "y": 30})
        assert moment(page) == pytest.approx(1.5, abs=0.05)
        timeline.focus()
        page.keyboard.press("ArrowLeft")
        assert moment(page) == pytest.approx(0.5, abs=0.05)
        page.keyboard.press("Home")
        assert moment(page) == 0
        assert page.locator(".fer-table tbody tr").count() == 1
        with page.expect_download() as download:
            page.get_by_role("link", name="Rows (CSV)").click()
        assert download.value.suggested_filename == "talk.csv"
        assert download.value.path().read_text().count("\n") == 51


def test_what_is_no_video_is_a_sentence(open_page, tmp_path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("this is no video")
    with open_page() as page:
        page.get_by_role("tab", name="Video").click()
        page.get_by_role("button", name="Annotate").click()
        page.get_by_text("Choose a video first.").wait_for()
        open_video(page, broken)
        page.get_by_role("button", name="Annotate").click()
        page.get_by_text("Broken.mp4: is no video that can be read").wait_for()


@pytest.mark.slow
def test_cancel_really_stops(open_page, tmp_path, astronaut) -> None:
    pictures = [np.ascontiguousarray(np.roll(astronaut, i, axis=1)) for i in range(400)] * 5
    clip = make_clip(tmp_path / "long.mp4", times=range(2000), size=(512, 512), pictures=pictures)
    with open_page() as page:
        open_video(page, clip)
        page.get_by_role("button", name="Annotate").click()
        page.get_by_text("a second").first.wait_for()
        begun_s = time.monotonic()
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("alert").wait_for()
        assert time.monotonic() - begun_s < 5
        assert page.get_by_role("alert").inner_text() == "Not complete: stopped before the end."
        assert page.evaluate(PLAY)["duration"] < 75


@pytest.mark.slow
def test_who_leaves_makes_room_for_the_next(open_page, talk, tmp_path, astronaut) -> None:
    picture = np.ascontiguousarray(astronaut[:320, 80:400])
    endless = make_clip(tmp_path / "endless.mp4", times=range(6000), size=(320, 320), pictures=[picture] * 6000)
    with open_page() as page:
        open_video(page, endless)
        page.get_by_role("button", name="Annotate").click()
        page.get_by_text("a second").first.wait_for()
    with open_page() as page:  # one video is worked on at a time
        open_video(page, talk)
        page.get_by_role("button", name="Annotate").click()
        page.locator("#fer-result-video").wait_for(timeout=40_000)
