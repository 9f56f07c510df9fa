"""HTML of ours among Gradio's components."""

from __future__ import annotations

import gradio as gr


def html_block(value: str = "", **more: object) -> gr.Markdown:
    """Show HTML of ours. Not `gr.HTML`: that runs templates as scripts, which the page's policy forbids."""
    return gr.Markdown(value, sanitize_html=False, latex_delimiters=[], **more)  # type: ignore[arg-type]
