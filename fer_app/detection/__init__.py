"""Finding faces in pictures."""

from fer_app.detection.mtcnn import MtcnnDetector

__all__ = ["MtcnnDetector"]
