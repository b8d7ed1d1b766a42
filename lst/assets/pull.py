"""Fetching an asset: resumable downloads, a hash before use, mirrors and local files."""

import dataclasses
import json
import shutil
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from lst.assets.cards import AssetFile, Card, asset_home
from lst.errors import LstError
from lst.manifest.files import explain_os_errors, fsync_file, inside, write_json
from lst.manifest.hashing import sha256_file
from lst.manifest.manifest import Progress

BLOCK = 1 << 20
ATTEMPTS = 5


def pull_asset(
    card: Card,
    *,
    mirror: str | None = None,
    local: Path | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Fetch every file of `card` and return the asset's directory, with its own card in it.

    `mirror` replaces the part of each URL before the file's name; `local` is a directory (or the only file) to copy
    from instead, with files as they are published or as the asset calls them.

    A file whose card records no hash is accepted only with `trust`, and its hash is recorded then. A
    download that breaks off goes on where it stopped. Raises LstError; a file with the wrong hash is deleted.
    """
    if card.access and mirror is None and local is None:
        raise LstError(f"{card.name} is not for free download.", hint=f"{card.access} Then: {_with_local(card)}.")
    unknown = [name for name, entry in card.files.items() if entry.sha256 is None]
    if unknown and not trust:
        raise LstError(
            f"The card of {card.name} records no sha256 for {', '.join(unknown)}.",
            hint="Check the source yourself and add --trust to accept and record what arrives.",
        )
    home = asset_home() / card.name
    with explain_os_errors(f"fetching {card.name} to {home}"):
        home.mkdir(parents=True, exist_ok=True)
        files: dict[str, AssetFile] = {}
        for name, entry in card.files.items():
            target = inside(home, name, what=card.name)
            if not (entry.sha256 and target.is_file() and sha256_file(target) == entry.sha256):
                _fetch(target, name, entry, mirror, local, progress)
            files[name] = dataclasses.replace(entry, sha256=sha256_file(target), bytes=target.stat().st_size)
        body = {**dataclasses.asdict(dataclasses.replace(card, files=files)), **card.extra}
        body.pop("extra")
        write_json(home / "card.json", json.loads(json.dumps(body)))
    return home


def _with_local(card: Card) -> str:
    return (
        "--from DIRECTORY --trust" if any(entry.sha256 is None for entry in card.files.values()) else "--from DIRECTORY"
    )


def _fetch(
    target: Path, name: str, entry: AssetFile, mirror: str | None, local: Path | None, progress: Progress | None
) -> None:
    incoming = target.with_name(f"{target.name}.incoming")
    if local is not None:
        source = _found_in(local, name, entry) if local.is_dir() else local
        if not source.is_file():
            raise LstError(f"{source} does not exist.", hint=f"The asset needs a file {name}.")
        shutil.copyfile(source, incoming)
    else:
        if mirror is None and entry.url is None:
            raise LstError(f"The card names no address for {name}.", hint="Give --from DIRECTORY or --mirror URL.")
        url = f"{mirror.rstrip('/')}/{_published_name(name, entry)}" if mirror else str(entry.url)
        _download(url, incoming, entry, progress)
    found = sha256_file(incoming)
    if entry.sha256 is not None and found != entry.sha256:
        incoming.unlink()
        raise LstError(
            f"{name} has sha256 {found[:16]}…, its card says {entry.sha256[:16]}…: it is not the right file.",
            hint="It was deleted; try another mirror.",
        )
    fsync_file(incoming)
    incoming.replace(target)


def _published_name(name: str, entry: AssetFile) -> str:
    """What a file is called where it comes from: an asset may need it under another name."""
    return PurePosixPath(urllib.parse.urlparse(entry.url).path).name if entry.url else name


def _found_in(directory: Path, name: str, entry: AssetFile) -> Path:
    """The file in `directory`, under its own name or the one it is published under."""
    published = directory / _published_name(name, entry)
    return published if published.is_file() and not (directory / name).is_file() else directory / name


def _download(url: str, incoming: Path, entry: AssetFile, progress: Progress | None) -> None:
    if not url.startswith(("http://", "https://")):
        raise LstError(f"{url}: only http and https addresses are fetched.")
    problem = ""
    for _ in range(ATTEMPTS):
        have = incoming.stat().st_size if incoming.is_file() else 0
        if entry.bytes is not None and have > entry.bytes:
            incoming.unlink()
            have = 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                resumed = response.status == 206
                length = response.headers.get("Content-Length")
                total = (have if resumed else 0) + int(length) if length else entry.bytes
                with incoming.open("ab" if resumed else "wb") as file:
                    done = have if resumed else 0
                    while block := response.read(BLOCK):
                        file.write(block)
                        done += len(block)
                        if progress:
                            progress(done, total or done, f"bytes of {incoming.stem}")
            expected = entry.bytes or total
            if expected is None or done == expected:
                return
            problem = f"got {done} of {expected} bytes"
            if done > expected:
                incoming.unlink()
        except urllib.error.HTTPError as error:
            if error.code == 416 and have:  # what is here is not a beginning of what the server has
                incoming.unlink()
            problem = f"HTTP {error.code} {error.reason}"
            if error.code not in (408, 416, 429, 500, 502, 503, 504):
                break
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
            problem = str(getattr(error, "reason", error)) or type(error).__name__
    raise LstError(
        f"{url} could not be fetched: {problem}.", hint="Run the same command again to go on, or use --mirror."
    )
