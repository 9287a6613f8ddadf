"""Downloads from a real server on this machine: resumed, checked, and nothing half done under the final name."""

import hashlib
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from relrank.errors import InputError
from relrank.tables import fetch as module
from relrank.tables.fetch import Name, Remote, UnreachableError, download, fetch

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """Files by path, and how to misbehave."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)  # bytes sent before each connection is cut, then no more cuts
    ranges: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.requests.append((self.path, wanted))
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and state.ranges else 0
            if start and start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            body = content[start:]
            self.wfile.write(body[: state.cut_after.pop(0)] if state.cut_after else body)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.address = f"http://127.0.0.1:{http.server_port}/"
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


class Log(list[tuple[str, int, int | None]]):
    def __call__(self, description: str, done: int, total: int | None) -> None:
        self.append((description, done, total))


def test_whole_download_tells_its_progress(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT
    log = Log()
    download(Remote(server.address + "a.bin", SHA256), tmp_path / "a.bin", log)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert log[-1] == ("a.bin", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in log] == sorted(done for _, done, _ in log)
    download(Remote(server.address + "a.bin", SHA256), tmp_path / "a.bin", log)
    assert len(server.requests) == 1  # a file that is there and right is not asked for again


def test_a_connection_that_breaks_off_is_resumed_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT
    server.cut_after = [300_000, 400_000]
    download(Remote(server.address + "a.bin", SHA256), tmp_path / "a.bin", Log())
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [r for _, r in server.requests] == [None, "bytes=300000-", "bytes=700000-"]


def test_an_interrupted_call_is_resumed_by_the_next_one(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT
    server.cut_after = [300_000, 0]
    remote = Remote(server.address + "a.bin", SHA256)
    with pytest.raises(UnreachableError, match="300,000 bytes are kept"):
        download(remote, tmp_path / "a.bin", Log())
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin.part"]
    log = Log()
    download(remote, tmp_path / "a.bin", log)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=300000-"
    assert log[0][1] > 300_000
    assert log[-1] == ("a.bin", len(CONTENT), len(CONTENT))


def test_a_server_that_ignores_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT
    server.ranges = False
    server.cut_after = [300_000]
    download(Remote(server.address + "a.bin", SHA256), tmp_path / "a.bin", Log())
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_everything_had_arrived_but_the_name(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    download(Remote(server.address + "a.bin", SHA256), tmp_path / "a.bin", Log())
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_wrong_sha256_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT[:-1] + b"x"
    with pytest.raises(InputError, match="wrong sha256") as error:
        download(Remote(server.address + "a.bin", SHA256), tmp_path / "a.bin", Log())
    assert error.value.expected == SHA256.removeprefix("sha256:")
    assert list(tmp_path.iterdir()) == []


def test_kept_bytes_of_another_version_are_thrown_away(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(b"another version")
    download(Remote(server.address + "a.bin", SHA256), tmp_path / "a.bin", Log())
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [r for _, r in server.requests] == ["bytes=15-", None]


def test_digests_of_other_kinds(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = b"hello\n"
    # `printf 'hello\n' | git hash-object --stdin` and md5sum
    for digest in ("git:ce013625030ba8dba906f756967f9e9ca394464a", "md5:b1946ac92492d2347c6235b4d2611184"):
        download(Remote(server.address + "a", digest), tmp_path / digest[:3], Log())
        assert (tmp_path / digest[:3]).read_bytes() == b"hello\n"
    with pytest.raises(InputError, match="wrong git"):
        download(Remote(server.address + "a", "git:" + "0" * 40), tmp_path / "b", Log())


def test_no_server_and_no_file(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="404"):
        download(Remote(server.address + "nothing", SHA256), tmp_path / "a.bin", Log())
    with pytest.raises(UnreachableError):
        download(Remote("http://127.0.0.1:9/a.bin", SHA256), tmp_path / "a.bin", Log())
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def gowalla(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    server.files |= {"/train.txt": b"0 1 2\n", "/test.txt": b"0 3\n"}
    remotes = [
        Remote(server.address + p[1:], "sha256:" + hashlib.sha256(c).hexdigest()) for p, c in server.files.items()
    ]
    monkeypatch.setitem(module.FILES, "gowalla", tuple(remotes))
    return server


def test_fetch_gives_a_whole_folder_and_recognises_it(gowalla: Server, tmp_path: Path) -> None:
    folder = fetch("gowalla", tmp_path / "new" / "gowalla", Log())
    assert sorted(p.name for p in folder.iterdir()) == ["fetched.json", "test.txt", "train.txt"]
    assert [p.name for p in folder.parent.iterdir()] == ["gowalla"]
    asked = len(gowalla.requests)
    assert fetch("gowalla", folder, Log()) == folder
    assert len(gowalla.requests) == asked
    (folder / "test.txt").write_text("0 4\n")
    with pytest.raises(InputError, match="changed since"):
        fetch("gowalla", folder, Log())
    with pytest.raises(InputError, match="folder is taken"):
        fetch("ml-1m", folder, Log())


def test_nothing_under_the_final_name_before_all_is_there(gowalla: Server, tmp_path: Path) -> None:
    del gowalla.files["/test.txt"]
    with pytest.raises(InputError, match="run the same command again to resume"):
        fetch("gowalla", tmp_path / "gowalla", Log())
    assert [p.name for p in tmp_path.iterdir()] == ["gowalla.part"]
    gowalla.files["/test.txt"] = b"0 3\n"
    fetch("gowalla", tmp_path / "gowalla", Log())
    assert [path for path, _ in gowalla.requests] == ["/train.txt", "/test.txt", "/test.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["gowalla"]


@pytest.mark.parametrize("name", sorted(module.FILES))
def test_files_of_a_repository_arrive_under_the_names_that_readers_know(
    name: Name, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remotes = []
    for remote in module.FILES[name]:
        assert remote.url.startswith("https://raw.githubusercontent.com/")
        path = "/" + remote.url.split("/", 3)[3]
        server.files[path] = path.encode()
        digest = "sha256:" + hashlib.sha256(path.encode()).hexdigest()
        remotes.append(replace(remote, url=server.address + path[1:], digest=digest))
    monkeypatch.setitem(module.FILES, name, tuple(remotes))
    folder = fetch(name, tmp_path / "new", Log())
    names = {
        "amazon-beauty": {"Beauty.txt", "Beauty_item2attributes.json"},
        "facebook-books": {"trainingset.tsv", "testset.tsv", "map.tsv", "mappingLinkedData.tsv"},
        "yahoo-movies": {"trainingset.tsv", "testset.tsv", "map.tsv", "mappingLinkedData.tsv"},
        "mkr-movie": {"kg.txt", "item_index2entity_id.txt"},
        "gowalla": {"train.txt", "test.txt"},
        "goodbooks-10k": {"ratings.csv", "books.csv", "book_tags.csv", "tags.csv", "ratings_v2_users5pct.csv"},
    }[name]
    assert {p.name for p in folder.iterdir()} == {*names, "fetched.json"}


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("amazon-beauty", "amazon-beauty-seq"),
        ("facebook-books", "linked-facebook-books"),
        ("yahoo-movies", "linked-yahoo-movies"),
        ("mkr-movie", "mkr-movie"),
    ],
)
def test_pinned_files_are_those_that_readers_are_tested_on(name: str, folder: str, data_dir: Path) -> None:
    for remote in module.FILES[name]:
        found = hashlib.sha256((data_dir / folder / remote.name).read_bytes()).hexdigest()
        assert remote.digest == f"sha256:{found}", remote.name


def test_an_archive_without_pinned_files_is_pinned_itself(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = module.ARCHIVES["hetrec-lastfm"]
    assert remote.digest.startswith("sha256:")
    content = zipped(tmp_path / "x.zip", {"user_artists.dat": "userID\n", "readme.txt": "x"})
    server.files["/" + remote.name] = content
    monkeypatch.setitem(module.ARCHIVES, "hetrec-lastfm", replace(remote, url=server.address + remote.name))
    with pytest.raises(InputError, match="wrong sha256"):
        fetch("hetrec-lastfm", tmp_path / "data", Log())
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(module.ARCHIVES, "hetrec-lastfm", Remote(server.address + remote.name, digest))
    folder = fetch("hetrec-lastfm", tmp_path / "data", Log())
    assert {p.name for p in folder.iterdir()} == {"user_artists.dat", "readme.txt", "fetched.json"}


def test_a_folder_with_other_files_is_left_alone(gowalla: Server, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="folder is taken"):
        fetch("gowalla", tmp_path, Log())
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def zipped(path: Path, files: dict[str, str]) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path.read_bytes()


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A wheel of that name and version where pip finds it, without any network."""
    files = {f"ml-100k.{kind}": f"{kind}\n" for kind in ("inter", "item", "user", "kg", "link")}
    info = "recbole-1.2.1.dist-info/"
    (tmp_path / "index").mkdir()
    zipped(
        tmp_path / "index" / "recbole-1.2.1-py3-none-any.whl",
        {
            **{module.WHEEL_FOLDER + name: content for name, content in files.items()},
            info + "METADATA": "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n",
            info + "WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            info + "RECORD": "",
        },
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setattr(module, "WHEEL_SHA256", {name: sha256(content) for name, content in files.items()})
    return files


@pytest.fixture
def movielens(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    content = zipped(tmp_path / "x.zip", {"ml-100k/": "", "ml-100k/u.data": "1\t2\t3\t4\n", "ml-100k/README": "x"})
    server.files["/ml-100k.zip"] = content
    digest = "md5:" + hashlib.md5(content, usedforsecurity=False).hexdigest()
    monkeypatch.setitem(module.ARCHIVES, "ml-100k", Remote(server.address + "ml-100k.zip", digest))
    monkeypatch.setitem(module.SHA256, "ml-100k", {"u.data": sha256("1\t2\t3\t4\n")})
    return server


def test_official_archive_with_the_links_of_the_wheel(
    movielens: Server, wheel: dict[str, str], tmp_path: Path
) -> None:
    folder = fetch("ml-100k", tmp_path / "data", Log())
    names = {p.name for p in folder.iterdir()}
    assert names == {"README", "u.data", "ml-100k.kg", "ml-100k.link", "fetched.json"}
    assert json.loads((folder / "fetched.json").read_text())["files"]["u.data"] == sha256("1\t2\t3\t4\n")


def test_the_wheel_is_the_mirror_and_that_is_told(movielens: Server, wheel: dict[str, str], tmp_path: Path) -> None:
    movielens.files.clear()
    log = Log()
    folder = fetch("ml-100k", tmp_path / "data", log)
    assert {p.name for p in folder.iterdir()} == {*wheel, "fetched.json"}
    assert (folder / "ml-100k.kg").read_text() == "kg\n"
    assert "ml-100k.zip" in log[0][0]
    assert "taking the copy in the wheel recbole==1.2.1" in log[0][0]


def test_archives_that_do_not_hold_what_they_must(
    movielens: Server, wheel: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pins, what in (({"u.data": "0" * 64}, "wrong sha256"), ({"u.item": "0" * 64}, "not in the archive")):
        monkeypatch.setitem(module.SHA256, "ml-100k", pins)
        with pytest.raises(InputError, match=what):
            fetch("ml-100k", tmp_path / "data", Log())
    assert not (tmp_path / "data").exists()
    movielens.files.clear()
    monkeypatch.setattr(module, "WHEEL_SHA256", dict.fromkeys(wheel, "0" * 64))
    with pytest.raises(InputError, match="wrong sha256"):
        fetch("ml-100k", tmp_path / "other", Log())
    assert not (tmp_path / "other").exists()


def test_neither_address_nor_mirror(
    movielens: Server, wheel: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    movielens.files.clear()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(InputError, match="wheel with MovieLens 100K cannot be downloaded") as error:
        fetch("ml-100k", tmp_path / "data", Log())
    assert "recbole" in error.value.found
