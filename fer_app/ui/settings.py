"""What the person who starts the page decides: who may reach it, and how much they may send."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fer_app.errors import InputError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MB = 1_000_000


@dataclass(frozen=True, kw_only=True)
class UiSettings:
    """How the page is served.

    Attributes:
        models: names or paths of the classifiers, the first one chosen at first.
        device: as `fer_app.session.open_session` takes it.
        uncertain_below: less probable labels are uncertain; None for each model's own threshold.
        host: the address to listen on.
        port: 0 takes any free one.
        login: user and password that everybody needs; None lets in whoever reaches the address.
        share: also open a public address through Gradio's tunnel.
        max_upload_mb: of one request, in MB.
        max_pixels: of one picture.
        max_video_minutes: of one video.
        max_viewers: webcams that are read at the same time.
    """

    models: tuple[str, ...] = ("default",)
    device: str = "auto"
    uncertain_below: float | None = None
    host: str = "127.0.0.1"
    port: int = 7860
    login: Login | None = None
    share: bool = False
    max_upload_mb: int = 200
    max_pixels: int = 50_000_000
    max_video_minutes: float = 30
    max_viewers: int = 16

    @property
    def max_upload_bytes(self) -> int:
        """`max_upload_mb` in bytes."""
        return self.max_upload_mb * _MB

    @property
    def is_private(self) -> bool:
        """Whether only this machine can reach the page."""
        return self.host in LOOPBACK and not self.share


@dataclass(frozen=True)
class Login:
    """A user's name and password."""

    user: str
    password: str

    @classmethod
    def read(cls, text: str) -> Self:
        """Read `USER:FILE`, where the file holds the password, so that no list of processes shows it.

        Raises:
            InputError: there is no user, or no password in the file.
        """
        user, separator, file = text.partition(":")
        if not user or not separator or not file:
            raise InputError(f"--auth takes USER:FILE, the file holds the password; got {text!r}")
        try:
            password = Path(file).read_text(encoding="utf-8-sig").strip()  # some editors mark it
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: the password cannot be read: {getattr(error, 'strerror', error)}") from error
        if not password:
            raise InputError(f"{file}: holds no password")
        return cls(user, password)

    def __repr__(self) -> str:
        return f"Login({self.user!r}, ...)"
