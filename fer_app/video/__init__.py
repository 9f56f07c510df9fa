"""Videos in and out: files, cameras and streams to pictures with exact times, and pictures to H.264 with the sound."""

from fer_app.video.frame import VideoFrame, VideoInfo
from fer_app.video.live import LiveReader, open_live
from fer_app.video.live_names import is_live, shown_name
from fer_app.video.reader import VideoReader
from fer_app.video.remux import partial_path, recover
from fer_app.video.writer import VideoWriter

__all__ = [
    "LiveReader",
    "VideoFrame",
    "VideoInfo",
    "VideoReader",
    "VideoWriter",
    "is_live",
    "open_live",
    "partial_path",
    "recover",
    "shown_name",
]
