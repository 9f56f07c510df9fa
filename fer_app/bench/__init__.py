"""How fast this machine does each step from a file to expressions: what `fer bench` measures."""

from fer_app.bench.measure import Settings, measure
from fer_app.bench.report import as_text

__all__ = ["Settings", "as_text", "measure"]
