"""How a video is shown: progress, the player, the timeline that leads to any moment, and the table."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fer_app.ui.html import css_colour, download, escaped, file_url, problem, read_by
from fer_app.video_faces.timeline import PersonCurve, Timeline

if TYPE_CHECKING:
    from fer_app.ui.video import Annotated, Progress

_WIDTH, _HEIGHT = 1000, 120
_KINDS = {
    ".mp4": "Video (MP4)",
    ".csv": "Rows (CSV)",
    ".jsonl": "Rows (JSON Lines)",
    ".parquet": "Rows (Parquet)",
    ".json": "Summary (JSON)",
    ".png": "Timeline (PNG)",
    ".jpg": "Storyboard (JPEG)",
}


def show_progress(progress: Progress) -> str:
    """Show how far a video is, how fast, and how long it will take."""
    total = None
    if progress.info is not None:
        total = progress.info.frame_count
        if total is None and progress.info.duration_s and progress.info.average_fps:
            total = round(progress.info.duration_s * progress.info.average_fps)
    elapsed_s = time.monotonic() - progress.begun_s
    done = progress.frame_index + 1 if progress.frames else 0
    parts = [f"{done:,} of {total:,} frames" if total else f"{done:,} frames"]
    if progress.frames:
        parts.append(f"{progress.frames / elapsed_s:.1f} a second")
    if total and total > done > 0:
        left = round(elapsed_s * (total - done) / done)
        parts.append(f"{left // 60}:{left % 60:02} left")
    parts.append(f"{progress.faces:,} faces")
    share = f' value="{min(done / total, 1):.4f}"' if total else ""
    return (
        f'<div class="fer-progress" role="status">'
        f'<progress max="1"{share} aria-label="Progress of the video"></progress>'
        f"<p>{escaped(', '.join(parts))}</p></div>"
    )


def show_result(result: Annotated, model: str = "") -> str:
    """Show what a video gave.

    Args:
        result: it.
        model: what the classifier is called, which is told.
    """
    summary = result.summary
    told = problem(f"Not complete: {summary['problem']}") if summary["problem"] else ""
    video = next((path for path in result.paths if path.suffix == ".mp4"), None)
    player = ""
    if video is not None:
        player = (
            f'<video id="fer-result-video" controls preload="auto" playsinline src="{file_url(video)}" '
            f'width="{summary["video"]["width"]}" height="{summary["video"]["height"]}" '
            f'aria-label="The annotated video"></video>'
        )
    links = "".join(download(path, _KINDS.get(path.suffix, path.suffix)) for path in result.paths)
    return (
        f'<div class="fer-video">{told}{player}{_timeline(result.timeline)}{_table(summary)}{read_by(model)}'
        f'<p class="fer-downloads">{links}</p></div>'
    )


def _timeline(timeline: Timeline) -> str:
    if not timeline.persons:
        return '<p class="fer-hint">No face was found in this video.</p>'
    curves = "".join(_curve(person, timeline) for person in timeline.persons)
    more = f", {timeline.left_out} more tracks are not shown" if timeline.left_out else ""
    return (
        f'<figure class="fer-timeline" tabindex="0" role="slider" aria-label="Moment of the video" aria-valuemin="0" '
        f'aria-valuemax="{timeline.end_s:.1f}" aria-valuenow="0" data-fer-seek="fer-result-video" '
        f'data-fer-end="{timeline.end_s:.3f}">{curves}<div class="fer-now-line"></div></figure>'
        f'<p class="fer-legend">{_legend(timeline.labels)} 0 to {timeline.end_s:.1f} s; '
        f"a click goes to that moment{more}.</p>"
    )


def _curve(person: PersonCurve, timeline: Timeline) -> str:
    span_s = max(timeline.end_s, 1e-6)
    x = person.times_s / span_s * _WIDTH
    lines = "".join(
        f'<path d="{_path(x, (1 - person.probs[:, k]) * _HEIGHT)}" stroke="{css_colour(label, k)}">'
        f"<title>{escaped(label)}</title></path>"
        for k, label in enumerate(timeline.labels)
    )
    return (
        f'<svg viewBox="0 -4 {_WIDTH} {_HEIGHT + 8}" preserveAspectRatio="none" role="img" '
        f'aria-label="Expressions of track {person.track_id} over time">{lines}</svg>'
        f'<span class="fer-track-name">#{person.track_id}</span>'
    )


def _path(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> str:
    """Write a line with gaps where y is not a number."""
    parts, pen = [], "M"
    for left, top in zip(x.tolist(), y.tolist(), strict=True):
        if np.isnan(top):
            pen = "M"
            continue
        parts.append(f"{pen}{left:.1f} {top:.1f}")
        pen = "L"
    return "".join(parts)


def _legend(labels: tuple[str, ...]) -> str:
    return "".join(
        f'<span class="fer-key"><span style="background:{css_colour(label, k)}"></span>{escaped(label)}</span>'
        for k, label in enumerate(labels)
    )


def _table(summary: dict[str, Any]) -> str:
    if not summary["tracks"]:
        return ""
    rows = "".join(
        f'<tr><th scope="row">#{track["track_id"]}</th><td>{track["first_s"]:.1f}</td><td>{track["last_s"]:.1f}</td>'
        f"<td>{track['faces']}</td><td>{escaped(_shares(track['expressions']))}</td></tr>"
        for track in summary["tracks"]
    )
    heads = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("Track", "From, s", "To, s", "Faces", "Expressions, share of its time")
    )
    return (
        f'<div class="fer-table"><table><caption>{summary["frames"]} frames, {summary["faces"]} faces</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _shares(expressions: dict[str, float] | None) -> str:
    ranked = sorted((expressions or {}).items(), key=lambda item: -item[1])
    return ", ".join(f"{label} {share:.0%}" for label, share in ranked if share >= 0.005) or "seen for no time"
