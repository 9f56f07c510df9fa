from __future__ import annotations

import pytest

from fer_app.cli import annotate_jobs
from fer_app.cli.annotate_jobs import Job, annotate_at_once
from fer_app.session import GpuOptions
from fer_app.video_faces import Settings


def test_processes_keep_within_the_memory_of_a_device_together(tiny_model, monkeypatch):
    class NoPoolError(Exception):
        """What is asked of the pool is known; no process need start."""

    given = []

    def pool(jobs, context, *, initializer, initargs):
        given.append((jobs, initargs[0].gpu))
        raise NoPoolError

    monkeypatch.setattr(annotate_jobs, "ProcessPoolExecutor", pool)
    job = Job(tiny_model, "cpu", Settings(), False, GpuOptions(900, graphs=True))
    for jobs, videos in ((3, 5), (4, 2)):
        with pytest.raises(NoPoolError):
            list(annotate_at_once([("a.mp4", None)] * videos, job, jobs, lambda: False))
    assert given == [(3, GpuOptions(300, graphs=True)), (2, GpuOptions(450, graphs=True))]
