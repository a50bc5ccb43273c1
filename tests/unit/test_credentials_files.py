"""A mounted Secret is read when it comes and whenever it changes; a bad one is named."""

import os
from pathlib import Path

import pytest

from csi_s3.errors import CredentialsError
from csi_s3.s3.credentials.refresh import AccessKeys, CredentialClock, Secret
from csi_s3.s3.credentials.static_keys import LOOK_EVERY_S, EnvironmentKeys, KeyFiles

OLD = {"key_id": "AKIAOLD", "access_key": "old"}
NEW = {"key_id": "AKIANEW", "access_key": "new", "session_token": "token"}


class Volume:
    """A Secret as kubelet mounts it: links to `..data`, itself a link that is replaced at once.

    https://pkg.go.dev/k8s.io/kubernetes/pkg/volume/util#AtomicWriter
    """

    def __init__(self, path: Path) -> None:
        self.path, self._count = path, 0
        path.mkdir()

    def write(self, **files: str) -> None:
        self._count += 1
        data = self.path / f"..2026_{self._count}"
        data.mkdir()
        for name, text in files.items():
            (data / name).write_text(text)
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")
        (self.path / "..data_tmp").symlink_to(data.name)
        old = self.path / "..data"
        before = old.resolve() if old.is_symlink() else None
        (self.path / "..data_tmp").rename(old)
        for link in self.path.iterdir():
            if not link.name.startswith("..") and link.name not in files:
                link.unlink()
        if before is not None:
            for file in before.iterdir():
                file.unlink()
            before.rmdir()


@pytest.fixture
def volume(tmp_path):
    return Volume(tmp_path / "secret")


class Ticks:
    seconds = 0.0


@pytest.fixture
def files(volume):
    return KeyFiles(volume.path, CredentialClock(monotonic_s=lambda: Ticks.seconds))


def later() -> None:
    Ticks.seconds += LOOK_EVERY_S


async def test_keys_come_from_the_files_without_the_line_ends_that_editors_add(volume, files):
    volume.write(key_id="AKIA\n", access_key=" se/cr+et=\r\n", session_token="\n")
    found = await files.find()
    assert found.keys == AccessKeys("AKIA", Secret("se/cr+et="), None)
    assert found.origin == f"files in {volume.path}"
    assert found.expires is None


async def test_messages_name_the_secret_where_the_files_are_one_s(volume):
    """Users do not know the directories of the driver's pods."""
    files = KeyFiles(volume.path, CredentialClock(), secret="aws-secret")
    called = "Secret aws-secret in the driver's namespace"
    assert await files.find() == f"{called} has no key_id"
    volume.write(key_id="AKIA")
    with pytest.raises(CredentialsError, match=f"^{called} has key_id, but access_key is missing"):
        await files.find()
    volume.write(**OLD)
    assert (await files.find()).origin == called


@pytest.mark.parametrize("content", [{}, {"key_id": ""}, {"access_key": "x"}, {"other": "y"}])
async def test_a_directory_without_a_key_id_is_as_if_not_given(volume, files, content):
    volume.write(**content)
    assert await files.find() == f"{volume.path} has no key_id"


async def test_a_directory_that_is_not_there_is_as_if_not_given(tmp_path):
    files = KeyFiles(tmp_path / "nowhere", CredentialClock())
    assert "has no key_id" in await files.find()
    assert files.newer(at_once=True) is None


async def test_a_secret_that_appears_later_is_used(volume, files):
    assert isinstance(await files.find(), str)
    volume.write(**OLD)
    later()
    assert files.newer(at_once=False).keys.access_key == "AKIAOLD"


async def test_changed_files_are_seen_at_the_next_look_and_told_once(volume, files):
    volume.write(**OLD)
    await files.find()
    later()
    assert files.newer(at_once=False) is None
    volume.write(**NEW)
    assert files.newer(at_once=False) is None  # this soon nobody looks
    later()
    assert files.newer(at_once=False).keys == AccessKeys("AKIANEW", Secret("new"), Secret("token"))
    later()
    assert files.newer(at_once=False) is None


async def test_after_a_refusal_files_are_read_at_once(volume, files):
    volume.write(**OLD)
    await files.find()
    files.newer(at_once=False)
    volume.write(**NEW)
    assert files.newer(at_once=True).keys.access_key == "AKIANEW"
    assert files.newer(at_once=True) is None


async def test_a_secret_that_is_touched_but_equal_is_no_news(volume, files):
    volume.write(**OLD)
    await files.find()
    volume.write(**OLD)
    later()
    assert files.newer(at_once=False) is None


async def test_a_secret_that_goes_away_leaves_its_keys_in_use_and_may_come_back(volume, files):
    volume.write(**OLD)
    await files.find()
    volume.write()
    later()
    assert files.newer(at_once=False) is None
    volume.write(**NEW)
    later()
    assert files.newer(at_once=False).keys.access_key == "AKIANEW"


@pytest.mark.parametrize("bad", ["AK\x00IA", "AKIÄ", "AK IA", "AK\nIA", "\x1b[0mAKIA"])
async def test_what_no_key_has_is_refused_with_the_files_name_and_without_its_value(
    volume, files, bad
):
    volume.write(key_id=bad, access_key="secret")
    with pytest.raises(CredentialsError) as caught:
        await files.find()
    assert str(volume.path / "key_id") in caught.value.what
    assert bad not in str(caught.value)
    assert "Secret" in caught.value.hint


async def test_a_file_that_is_no_text_is_refused_with_its_name(volume, files):
    volume.write(**OLD)
    (volume.path / "access_key").resolve().write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CredentialsError, match="access_key"):
        await files.find()


async def test_a_key_id_without_its_secret_key_is_an_error(volume, files):
    volume.write(key_id="AKIA")
    with pytest.raises(CredentialsError, match="access_key is missing"):
        await files.find()


async def test_a_file_that_cannot_be_read_is_named(volume, files):
    volume.write(**OLD)
    (volume.path / "access_key").unlink()
    (volume.path / "access_key").mkdir()
    with pytest.raises(CredentialsError, match=r"access_key cannot be read: Is a directory"):
        await files.find()


@pytest.mark.warnings_expected("new keys cannot be used: .*key_id holds characters")
async def test_a_bad_change_is_told_once_and_the_present_keys_stay(volume, files, caplog):
    volume.write(**OLD)
    await files.find()
    volume.write(key_id="A B", access_key="x")
    for _ in range(5):
        later()
        assert files.newer(at_once=False) is None
    assert len(caplog.messages) == 1
    volume.write(**NEW)
    later()
    assert files.newer(at_once=False).keys.access_key == "AKIANEW"


async def test_keys_of_two_versions_are_never_mixed(volume, files, monkeypatch):
    """The swap comes between the reading of one file and of the next."""
    volume.write(**OLD)
    read, swapped = KeyFiles._value, []

    def value(self, name):
        if name == "access_key" and not swapped:
            swapped.append(volume.write(**NEW))
        return read(self, name)

    monkeypatch.setattr(KeyFiles, "_value", value)
    assert (await files.find()).keys == AccessKeys("AKIANEW", Secret("new"), Secret("token"))


async def test_a_plain_directory_whose_files_are_rewritten_in_place_works_too(tmp_path):
    files = KeyFiles(tmp_path, CredentialClock())
    for name, text in OLD.items():
        (tmp_path / name).write_text(text)
    assert (await files.find()).keys.access_key == "AKIAOLD"
    (tmp_path / "key_id").write_text("AKIANEW")
    os.utime(tmp_path / "key_id", ns=(1, 1))
    assert files.newer(at_once=False).keys.access_key == "AKIANEW"


async def test_environment_keys_are_trimmed_and_named_when_bad():
    assert await EnvironmentKeys(None, None, None).find() == "AWS_ACCESS_KEY_ID is not set"
    with pytest.raises(CredentialsError, match="AWS_SECRET_ACCESS_KEY is not"):
        await EnvironmentKeys("AKIA\n", None, None).find()
    credentials = await EnvironmentKeys("AKIA\n", "s\n", None).find()
    assert credentials.keys == AccessKeys("AKIA", Secret("s"), None)
    with pytest.raises(CredentialsError, match="AWS_SECRET_ACCESS_KEY holds characters"):
        await EnvironmentKeys("AKIA", "s s", None).find()
