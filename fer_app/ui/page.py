"""Gradio's page without what it would load from elsewhere, and with our style and script."""

from __future__ import annotations

import re

_DESCRIPTION = "Facial expressions in photos, videos and webcam pictures, read on this machine."
_OURS = (
    '<link rel="icon" type="image/svg+xml" href="./fer/icon.svg">'
    '<link rel="stylesheet" href="./fer/page.css">'
    f'<meta name="description" content="{_DESCRIPTION}">'
)
_SCRIPTS = ("page.js", "webcam.js")
# Names for search engines and social networks: Gradio's own, some with pictures from elsewhere. And a manifest for
# installing the page as an app, which it is not.
_FOREIGN = re.compile(r'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>|<link\s+rel="manifest"[^>]*>')
# Gradio tells everybody which functions there are, also who has not logged in.
_FUNCTIONS = re.compile(r"<script>window\.gradio_api_info = .*?;</script>", re.DOTALL)
_NO_FUNCTIONS = '<script>window.gradio_api_info = {"named_endpoints": {}, "unnamed_endpoints": {}};</script>'
_IS_LOGIN = re.compile(r'"auth_required":\s*true')
_SCRIPT = re.compile(r"<script(?=[\s>])")


def cleaned(html: str, nonce: str) -> str:
    """Return the page as it is sent.

    Args:
        html: as Gradio wrote it.
        nonce: lets its scripts run under the page's policy.
    """
    scripts = "".join(f'<script src="./fer/{name}" defer></script>' for name in _SCRIPTS)
    if _IS_LOGIN.search(html):
        html = _FUNCTIONS.sub(_NO_FUNCTIONS, html)
    html = _FOREIGN.sub("", html).replace("</head>", f"{_OURS}{scripts}</head>", 1)
    return _SCRIPT.sub(f'<script nonce="{nonce}"', html)
