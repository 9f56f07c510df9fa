"""Face detection: the MTCNN cascade."""
