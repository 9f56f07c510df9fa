from __future__ import annotations

from fer_app.ui.guard import policy
from fer_app.ui.page import cleaned

PAGE = """<html><head><meta property="og:image"
 content="https://elsewhere.example/a.jpg" /><meta name="twitter:creator" content="x" />
<link rel="manifest" href="/manifest.json" /><script>a()</script><script>window.gradio_api_info = {"b":
"secret"};</script><script type="module" src="./b.js"></script>
</head><body><gradio-app></gradio-app><script>c()</script></body></html>"""


def test_nothing_from_elsewhere_is_left_and_every_script_has_the_nonce() -> None:
    html = cleaned(PAGE, "n0")
    assert "http" not in html
    assert "manifest" not in html
    assert "secret" in html
    assert html.count("<script") == html.count('<script nonce="n0"') == 6
    assert "./fer/page.css" in html
    assert "./fer/page.js" in html


def test_the_login_tells_nothing_of_the_functions() -> None:
    html = cleaned(PAGE.replace("a()", 'window.gradio_config = {"auth_required":true}'), "n0")
    assert "secret" not in html
    assert "named_endpoints" in html


def test_the_policy_lets_no_other_script_run() -> None:
    directives = dict(part.split(" ", 1) for part in policy("n0").split("; "))
    assert directives["script-src"] == "'self' 'nonce-n0'"
    assert directives["default-src"] == "'none'"
    assert "http" not in policy("n0")
    assert "unsafe-eval" not in policy("n0")
