from __future__ import annotations

import pytest

from fer_app.errors import InputError
from fer_app.ui.notice import where_pictures_go
from fer_app.ui.settings import Login, UiSettings


def test_the_password_comes_from_a_file_and_is_not_shown(tmp_path) -> None:
    file = tmp_path / "password"
    file.write_text("open sesame\n")
    login = Login.read(f"ali:{file}")
    assert (login.user, login.password) == ("ali", "open sesame")
    assert "sesame" not in repr(UiSettings(login=login))


@pytest.mark.parametrize(
    ("text", "said"),
    [("ali", "USER:FILE"), (":file", "USER:FILE"), ("ali:", "USER:FILE"), ("ali:none", "cannot be read")],
)
def test_a_login_that_is_none(text, said) -> None:
    with pytest.raises(InputError, match=said):
        Login.read(text)


def test_an_empty_password(tmp_path) -> None:
    (tmp_path / "empty").write_text(" \n")
    with pytest.raises(InputError, match="holds no password"):
        Login.read(f"ali:{tmp_path / 'empty'}")


def test_people_are_told_where_their_pictures_go() -> None:
    assert "nothing leaves it" in where_pictures_go(UiSettings())
    for settings in (UiSettings(host="0.0.0.0"), UiSettings(share=True)):
        assert "nothing leaves it" not in where_pictures_go(settings)
    assert "public relay" in where_pictures_go(UiSettings(share=True))
    assert UiSettings(max_upload_mb=3).max_upload_bytes == 3_000_000
