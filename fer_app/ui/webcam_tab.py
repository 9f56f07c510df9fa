"""The tab for the webcam: the page's own script fills it, because Gradio's streaming keeps a queue of pictures."""

from __future__ import annotations

from fer_app.ui.html_block import html_block

_CONTROLS = """
<div class="fer-controls" role="group" aria-label="Webcam">
<button type="button" class="fer-button fer-primary" data-fer="camera-start">Start</button>
<button type="button" class="fer-button" data-fer="camera-stop" disabled>Stop</button>
<label><input type="checkbox" id="fer-mirror" checked> Mirror</label>
<label>Search for faces <select id="fer-detect-every">
<option value="">five times a second</option><option value="1">in every picture</option>
<option value="3">in every 3rd picture</option><option value="10">in every 10th picture</option></select></label>
<label>Smoothing <input type="range" id="fer-smooth" min="0" max="2" step="0.1" value="0.3"
aria-describedby="fer-smooth-value"> <output id="fer-smooth-value">0.3 s</output></label>
</div>
"""
_STAGE = """
<div class="fer-live">
<div class="fer-stage"><video id="fer-camera" muted playsinline aria-label="Your camera"></video>
<canvas id="fer-overlay" role="img" aria-label="The faces in the picture"></canvas>
<p class="fer-hint" id="fer-stage-hint">The camera is off. Its pictures are read one by one and not stored.</p></div>
<div class="fer-now"><p id="fer-status" role="status">Not started.</p>
<p><strong id="fer-live-label">No face</strong></p>
<table class="fer-bars" id="fer-live-bars"><caption>Smoothed probabilities of the largest face</caption>
<tbody></tbody></table></div></div>
<figure class="fer-rolling"><canvas id="fer-rolling" width="900" height="180" role="img"
aria-label="The largest face over the last 30 seconds"></canvas>
<figcaption>The largest face over the last 30 seconds</figcaption></figure>
"""


def webcam_tab() -> None:
    """Put the tab into the blocks that are being made."""
    parts = f'<div class="fer-webcam"><div id="fer-camera-problem"></div>{_CONTROLS}{_STAGE}</div>'
    html_block(" ".join(parts.split()))
