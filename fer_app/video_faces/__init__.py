"""The faces of a video: found, followed, read, drawn, and written as rows and a summary."""

from fer_app.video_faces.live import LiveSource
from fer_app.video_faces.outputs import OutputPaths, Wanted, name_outputs
from fer_app.video_faces.run import Settings, annotate_video
from fer_app.video_faces.summary import read_summary

__all__ = ["LiveSource", "OutputPaths", "Settings", "Wanted", "annotate_video", "name_outputs", "read_summary"]
