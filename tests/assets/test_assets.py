"""Assets: nothing is used before its hash is right, and a bad server costs nothing but time."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lst.assets import all_cards, cards, resolve_asset, verify_asset
from lst.assets.cards import AssetFile, Card
from lst.assets.pull import pull_asset
from lst.cli.main import run
from lst.errors import LstError

CONTENT = bytes(range(256)) * 400
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server(BaseHTTPRequestHandler):
    """Serves CONTENT with the fault that the path names."""

    requests: list[tuple[str, str | None]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.requests.append((self.path, asked))
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        fault = self.path.split("/")[1]
        body = CONTENT if fault != "wrong" else b"x" * len(CONTENT)
        if fault == "missing":
            self.send_error(404)
            return
        if fault == "no-range":
            start = 0
        if start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        length = len(body) - start
        self.send_header("Content-Length", str(length + 1000 if fault == "liar-long" else length))
        self.end_headers()
        part = body[start:]
        if fault == "crawls":
            part = part[: len(CONTENT) // 8]
        if fault in ("breaks-off", "no-range") and len(self.requests) < 3:
            part = part[: len(part) // 2]
        self.wfile.write(part)

    def log_message(self, *_: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setenv("LST_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Server.requests.clear()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()


def card(url: str | None, sha256: str | None = SHA, access: str = "") -> Card:
    files = {"weights.bin": AssetFile(sha256, len(CONTENT), url)}
    return Card("toy", "tokenizer", "1", "CC0", "test", "a toy", files, access=access)


@pytest.mark.parametrize("fault", ["good", "breaks-off", "no-range"])
def test_a_download_arrives_whole(server: str, fault: str) -> None:
    directory = pull_asset(card(f"{server}/{fault}/weights.bin"))
    assert (directory / "weights.bin").read_bytes() == CONTENT
    assert verify_asset(directory) == []
    if fault == "breaks-off":
        assert [asked for _, asked in Server.requests] == [None, "bytes=51200-", "bytes=76800-"]


def test_what_broke_off_goes_on_in_the_next_pull(server: str, tmp_path: Path) -> None:
    with pytest.raises(LstError, match=r"got \d+ of 102400 bytes") as broken:
        pull_asset(card(f"{server}/crawls/weights.bin"))
    assert "Run the same command again to go on" in (broken.value.hint or "")
    home = tmp_path / "assets" / "toy"
    assert [path.name for path in home.iterdir()] == ["weights.bin.incoming"]  # nothing that could be used
    Server.requests.clear()
    assert (pull_asset(card(f"{server}/crawls/weights.bin")) / "weights.bin").read_bytes() == CONTENT
    assert Server.requests[0][1] == f"bytes={5 * len(CONTENT) // 8}-"
    assert [path.name for path in home.glob("*.incoming")] == []


def test_a_file_may_be_published_under_another_name(server: str, tmp_path: Path) -> None:
    files = {"generator.pt": AssetFile(SHA, len(CONTENT), "https://gone.invalid/v1/hifigan_lj.pt")}
    renamed = Card("toy", "vocoder", "1", "CC0", "test", "a toy", files)
    directory = pull_asset(renamed, mirror=f"{server}/good")
    assert Server.requests[0][0] == "/good/hifigan_lj.pt"
    assert (directory / "generator.pt").read_bytes() == CONTENT
    (directory / "generator.pt").unlink()
    (tmp_path / "hifigan_lj.pt").write_bytes(CONTENT)
    assert (pull_asset(renamed, local=tmp_path) / "generator.pt").read_bytes() == CONTENT


def test_progress_is_told_in_bytes(server: str) -> None:
    told: list[tuple[int, int, str]] = []
    pull_asset(card(f"{server}/breaks-off/weights.bin"), progress=lambda *step: told.append(step))
    assert told[-1] == (len(CONTENT), len(CONTENT), "bytes of weights.bin")
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)


def test_a_second_pull_downloads_nothing(server: str) -> None:
    pull_asset(card(f"{server}/good/weights.bin"))
    pull_asset(card(f"{server}/good/weights.bin"))
    assert len(Server.requests) == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [("wrong", "not the right file"), ("missing", "HTTP 404")],
)
def test_a_wrong_file_never_lands(server: str, tmp_path: Path, fault: str, message: str) -> None:
    with pytest.raises(LstError, match=message):
        pull_asset(card(f"{server}/{fault}/weights.bin"))
    assert [path.name for path in (tmp_path / "assets" / "toy").iterdir()] == []
    with pytest.raises(LstError, match="No tokenizer 'toy'"):
        resolve_asset("toy", "tokenizer")


def test_a_server_that_lies_about_the_length(server: str) -> None:
    directory = pull_asset(card(f"{server}/liar-long/weights.bin"))
    assert (directory / "weights.bin").read_bytes() == CONTENT


def test_a_mirror_and_a_local_file(server: str, tmp_path: Path) -> None:
    pull_asset(card("http://127.0.0.1:9/gone/weights.bin"), mirror=f"{server}/good")
    (tmp_path / "assets" / "toy" / "weights.bin").unlink()
    (tmp_path / "weights.bin").write_bytes(CONTENT)
    assert pull_asset(card(None), local=tmp_path) == tmp_path / "assets" / "toy"
    (tmp_path / "assets" / "toy" / "weights.bin").unlink()
    (tmp_path / "weights.bin").write_bytes(b"no")
    with pytest.raises(LstError, match="not the right file"):
        pull_asset(card(None), local=tmp_path / "weights.bin")


def test_no_hash_no_trust(server: str) -> None:
    with pytest.raises(LstError, match="--trust"):
        pull_asset(card(f"{server}/good/weights.bin", None))
    directory = pull_asset(card(f"{server}/good/weights.bin", None), trust=True)
    assert json.loads((directory / "card.json").read_text())["files"]["weights.bin"]["sha256"] == SHA


def test_a_gated_asset_says_how_to_ask(server: str) -> None:
    with pytest.raises(LstError, match=r"Ask the authors\. Then: --from"):
        pull_asset(card(f"{server}/good/weights.bin", access="Ask the authors."))


def test_every_card_reads_and_every_embedded_asset_is_intact() -> None:
    known = all_cards()
    embedded = [directory for _, directory in known.values() if directory and directory.parent == cards.EMBEDDED]
    assert len(known) > len(embedded) > 0
    for directory in embedded:
        assert verify_asset(directory) == []


def test_resolving_by_name_path_and_alias(tmp_path: Path) -> None:
    directory = resolve_asset("mfcc", "tokenizer")
    assert resolve_asset("mfcc-501", "tokenizer") == resolve_asset(directory, "tokenizer") == directory
    with pytest.raises(LstError, match=r"'mfcc-50'.*Did you mean mfcc-501"):
        resolve_asset("mfcc-50", "tokenizer")
    with pytest.raises(LstError, match="is a tokenizer, but a vocoder"):
        resolve_asset("mfcc-501", "vocoder")
    with pytest.raises(LstError, match="lst assets pull"):
        resolve_asset("twist-mhubert-25hz", "tokenizer")
    with pytest.raises(LstError, match="spirit-lm-downloads"):
        resolve_asset("hubert-25hz-501", "tokenizer")
    with pytest.raises(LstError, match=r"no card\.json"):
        resolve_asset(tmp_path, "tokenizer")


def test_a_damaged_asset_is_not_used(tmp_path: Path) -> None:
    body = {"name": "x", "kind": "tokenizer", "version": "1", "licence": "", "source": "", "description": ""}
    (tmp_path / "card.json").write_text(json.dumps({**body, "files": {"w": {"sha256": SHA}}}))
    with pytest.raises(LstError, match="w is missing"):
        resolve_asset(tmp_path, "tokenizer")
    (tmp_path / "w").write_bytes(CONTENT[:-1])
    with pytest.raises(LstError, match="does not match"):
        resolve_asset(tmp_path, "tokenizer")
    (tmp_path / "card.json").write_text(json.dumps({**body, "files": {"../w": {"sha256": SHA}}}))
    with pytest.raises(LstError, match="leaves"):
        resolve_asset(tmp_path, "tokenizer")


def test_the_commands(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LST_ASSETS", str(tmp_path))
    assert run(["assets", "list", "--json"]) == 0
    assert "mfcc-501" in [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert run(["assets", "list"]) == 0
    assert run(["assets", "verify"]) == 0
    assert run(["assets", "verify", "nothing"]) == 2
    assert run(["assets", "pull", "nothing"]) == 2
    assert run(["assets", "pull", "mhubert-base-25hz"]) == 1
    assert "--trust" in capsys.readouterr().err
    assert run(["assets", "pull", "hubert-25hz-501"]) == 1
    assert "Fill in Meta's form" in capsys.readouterr().err
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(b"{}")
    assert run(["assets", "pull", "mhubert-base-25hz", "--from", str(tmp_path), "--trust"]) == 0
    assert "numpy.save('L11_km500.npy'" in capsys.readouterr().err
