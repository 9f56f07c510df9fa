"""What everybody who opens the page is told: what the model can tell, and where the pictures go."""

from __future__ import annotations

from fer_app.ui.settings import UiSettings

_LIMITS = (
    "It names the expression that onlookers would probably see in a face. That is not what the person feels. It is "
    "often wrong, above all about disgust, contempt and fear and with small, blurred, dark or turned faces. Decide "
    "nothing about a person with it; the EU's AI Act bars inferring emotions at work and in education."
)
_LICENCE = (
    "The program is under the Apache License 2.0; the licence of the weights is on the model's card. Only show it "
    "faces that you may show it."
)


def notice(settings: UiSettings) -> str:
    """Return the notice as HTML."""
    return (
        '<div class="fer-notice" role="note" aria-label="What this can and cannot tell">'
        f"<p><strong>The expression shown, not the emotion felt.</strong> {where_pictures_go(settings)}</p>"
        f"<details><summary>What it can and cannot tell, and the licence</summary><p>{_LIMITS}</p><p>{_LICENCE}</p>"
        "</details></div>"
    )


def where_pictures_go(settings: UiSettings) -> str:
    """Say truly who gets to see what is sent."""
    kept = "Webcam pictures are not stored; uploads and results are deleted after an hour and when the program ends."
    if settings.share:
        return f"They go through a public relay, outside this machine, to the computer that runs this page. {kept}"
    if settings.is_private:
        return f"Everything is computed on this machine and nothing leaves it. {kept}"
    return (
        "They go to the computer that runs this page and nowhere else; without HTTPS, others in its network could see "
        f"them. {kept}"
    )
