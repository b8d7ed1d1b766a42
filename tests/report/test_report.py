"""The report: everything in one file, nothing from outside trusted, and a sentence for whatever is missing."""

import base64
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import soundfile as sf
import typer
from typer.testing import CliRunner

import lst.cli.report
from lst.errors import LstError
from lst.manifest import DirectoryResult, StageSpec, build_directory, load_manifest
from lst.report import report
from lst.report.figures import keep_figures
from lst.report.html import Html
from lst.report.listening import MAX_CLIPS
from lst.report.run import open_run
from lst.report.utterance import choose
from tests.report.synthetic import CLOZE, LOSSES, drop, make_eval, make_samples, record, tone

VOID = {"br", "img", "meta"}


class Page(HTMLParser):
    """Checks that elements close in order, and collects what a browser would act on."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


def make(run: Path, tmp_path: Path) -> Page:
    return Page(report(run, tmp_path / "page.html").read_text(encoding="utf-8"))


def notes(run: Path, tmp_path: Path) -> list[str]:
    text = report(run, tmp_path / "page.html").read_text(encoding="utf-8")
    return re.findall(r'<p class="note">([^<]*)</p>', text)


def test_everything_is_there(run: Path, tmp_path: Path) -> None:
    page = make(run, tmp_path)
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections == [
        "summary",
        "listen",
        "utterance",
        "training",
        "evaluation",
        "patches",
        "mixture",
        "alignment",
        "stages",
        "origin",
    ]
    links = {attributes["href"] for attributes in page.all("a")}
    assert {f"#{name}" for name in sections} <= links
    assert len(page.all("audio")) == 5  # four samples, of which one is gone, and the utterance
    for said in ("speech → speech", "188.123", "text-mismatch", "audio-unreadable", "mean score", "CC0-1.0", "toy <b>"):
        assert said in page.text
    assert "could not be made" not in page.text
    drawn = [attributes["aria-label"] for attributes in page.all("svg")]
    assert len(drawn) == 9  # four losses, patch lengths, histograms, mixture, utterance, story cloze
    assert not any("nan" in str(attributes.values()) for _, attributes in page.elements if "points" in attributes)


def test_it_needs_no_other_file_and_trusts_no_transcript(run: Path, tmp_path: Path) -> None:
    page = make(run, tmp_path)
    assert len(page.all("script")) == 1
    assert page.all("img") == page.all("link") == page.all("iframe") == []
    for name, attributes in page.elements:
        assert (attributes.get("src") or "data:audio/mpeg;base64,").startswith("data:audio/mpeg;base64,")
        assert not any(key.startswith("on") for key in attributes)
        assert "url(" not in (attributes.get("style") or "")
        if name == "a":
            assert re.match("#|https?://", attributes["href"] or "")
    policy = next(item["content"] for item in page.all("meta") if "http-equiv" in item)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert 'alert("x")' in page.text  # shown, not run
    assert "\u202e" not in page.text


def test_it_shows_no_place_on_this_machine(run: Path, tmp_path: Path) -> None:
    text = report(run, tmp_path / "page.html").read_text(encoding="utf-8")
    assert str(run.parent) not in text
    assert os.path.expanduser("~") not in re.sub('base64,[^"]*', "", text)


def test_the_same_run_gives_the_same_bytes(run: Path, copy: Path, tmp_path: Path) -> None:
    first = report(run, tmp_path / "a.html").read_bytes()
    assert report(run, tmp_path / "b.html").read_bytes() == first
    assert report(copy, tmp_path / "c" / "d.html").read_bytes() == first


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (["samples"], "No audio samples in this run."),
        (["ingest"], "No audio manifest in this run: the waveform is left out."),
        (["pairs"], "No interleaved data in this run: there is no utterance to draw."),
        (["aligned"], "No alignment in this run."),
        (["pretrain", "finetune-asr"], "No model in this run."),
        (["pretrain"], "No pre-training in this run: nothing was mixed."),
        (["cloze", "losses"], "No evaluation in this run."),
    ],
)
def test_a_missing_stage_is_said(copy: Path, tmp_path: Path, gone: list[str], said: str) -> None:
    drop(copy, *gone)
    found = notes(copy, tmp_path)
    assert said in found
    assert not any("could not be made" in line for line in found)


def test_a_run_that_has_not_begun(tmp_path: Path) -> None:
    record(tmp_path, {})
    page = make(tmp_path, tmp_path)
    assert "No model in this run." in page.text
    assert "No stage in this run." in page.text
    assert "could not be made" not in page.text


@pytest.mark.parametrize(
    ("file", "section"),
    [
        ("pretrain/metrics.jsonl", "training"),
        ("cloze/summary.json", "evaluation"),
        ("samples/samples.json", "listen"),
        ("aligned/report.json", "alignment"),
        ("pairs/shards/00000.arrow", "patches"),
    ],
)
@pytest.mark.parametrize("damage", ["remove", "overwrite"])
def test_a_damaged_file_costs_one_section_only(
    copy: Path, tmp_path: Path, file: str, section: str, damage: str
) -> None:
    path = copy / file
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(b"\xff{" * (path.stat().st_size // 2) + b"x" * (path.stat().st_size % 2))
    text = report(copy, tmp_path / "page.html").read_text(encoding="utf-8")
    Page(text)
    parts = dict(re.findall(r'<section id="([a-z]+)">(.*?)</section>', text, flags=re.DOTALL))
    assert 'class="note"' in parts[section]
    assert "Corpora and licences" in parts["origin"]
    assert "reference" in parts["stages"] or "Rejected rows" in parts["stages"]


def test_a_damaged_stage_is_named(copy: Path, tmp_path: Path) -> None:
    (copy / "losses" / "manifest.json").write_text("{")
    assert any(line.startswith("losses was made once") for line in notes(copy, tmp_path))


def test_recordings_that_moved_leave_the_rest_of_the_drawing(copy: Path, tmp_path: Path) -> None:
    manifest = load_manifest(copy / "ingest")
    root = Path(manifest.location["root"])
    hidden = root.rename(root.with_name("hidden"))
    try:
        page = make(copy, tmp_path)
    finally:
        hidden.rename(root)
    assert "No waveform:" in page.text
    assert "patches along words" in page.text


def test_data_that_moved_leaves_what_the_model_says_of_it(copy: Path, tmp_path: Path) -> None:
    drop(copy, "text")
    page = make(copy, tmp_path)
    assert "its sources are not counted" in page.text
    assert "global steps per original token" in page.text


def test_odd_contents(copy: Path, tmp_path: Path) -> None:
    drop(copy, "losses", "samples", "finetune-asr")
    model = load_manifest(copy / "pretrain")
    made = {name: load_manifest(copy / name) for name in json.loads((copy / "run.json").read_text())["stages"]}
    made["other"] = make_eval(copy / "other", "eval-other", model, {"totals": {"f1": 0.5}})
    made["samples"] = make_samples(copy / "samples", model)
    spec = StageSpec("lst.model/1", "finetune", 1, {"<": "\u202e"}, {"model": model})
    for name in ("bare", "second"):
        made[name] = build_directory(copy / name, spec, lambda _: DirectoryResult([]))
    record(copy, made)
    page = make(copy, tmp_path)
    assert "f1" in page.text
    assert "bare has no metrics.jsonl" in page.text


def test_words_have_a_map_and_losses_their_directions(copy: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    model = load_manifest(copy / "pretrain")
    alike = {"within": 0.75, "between": 0.25, "silhouette": 0.125, "centred": {"within": 0.5, "between": -0.0625}}
    words = alike | {"patching": "aligned", "occurrences": 4, "floor": alike, "totals": {"silhouette": 0.125}}
    points = {"word": ["cat", "<b>", "cat", "<b>"], "x": [0.0, 1.0, 2.0, 3.0], "y": [0.0, 1.0, 0.0, 1.0]}

    def make_words(directory: Path) -> DirectoryResult:
        (directory / "summary.json").write_text(json.dumps(words))
        pq.write_table(pa.table(points), directory / "words.parquet")
        return DirectoryResult(["summary.json", "words.parquet"], words["totals"])

    both = {"documents": 2, "text_tokens": 9, "seconds": 4.0, "text_to_speech_bits_per_second": 171.25}
    sets = LOSSES | {"sets": LOSSES["sets"] | {"interleaved": both | {"speech_to_text_bits_per_token": 6.125}}}
    made = {name: load_manifest(copy / name) for name in json.loads((copy / "run.json").read_text())["stages"]}
    spec = StageSpec("lst.eval/1", "eval-words", 1, {}, {"model": model})
    made["words"] = build_directory(copy / "words", spec, make_words)
    made["directions"] = make_eval(copy / "directions", "eval-losses", model, sets)
    record(copy, made)
    page = make(copy, tmp_path)
    assert [attributes["aria-label"] for attributes in page.all("svg")].count("t-SNE of 4 patch embeddings") == 1
    for said in ("0.125", "-0.062", "aligned patches", "171.250", "6.125", "text → speech, bits per second"):
        assert said in page.text, said
    (copy / "words" / "words.parquet").write_bytes(b"PAR1")
    assert any("The map of the words cannot be read" in line for line in notes(copy, tmp_path))


def test_figures_beside_a_run_are_in_its_page(copy: Path, tmp_path: Path) -> None:
    png = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
    keep_figures(copy, {"b.png": ("Losses <over> FLOPs", png), "a.png": ("not a picture", b"GIF89a")})
    captions = copy / "figures" / "figures.json"
    captions.write_text(captions.read_text().replace("{", '{"../run.json": "outside", "gone.png": "gone",', 1))
    page = make(copy, tmp_path)
    (shown,) = page.all("img")
    assert shown["alt"] == "Losses <over> FLOPs"
    assert base64.b64decode((shown["src"] or "").removeprefix("data:image/png;base64,")) == png
    assert [attributes["id"] for attributes in page.all("section")][:2] == ["summary", "figures"]
    policy = next(item["content"] for item in page.all("meta") if "http-equiv" in item)
    assert "img-src data:;" in (policy or "")
    missing = [line for line in notes(copy, tmp_path) if "is not there, or no PNG" in line]
    assert [line.split(" ")[0] for line in missing] == ["figures/../run.json", "figures/gone.png", "figures/a.png"]
    captions.write_text("[")
    assert "This part could not be made. figures/figures.json is damaged." in notes(copy, tmp_path)


def test_a_table_beside_a_run_is_in_its_page(copy: Path, tmp_path: Path) -> None:
    keep_figures(
        copy, {"claims.csv": ("What was <found>", b'claim,verdict\n"a,\n<b>",yes\n'), "none.csv": ("gone", b"")}
    )
    text = report(copy, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<figcaption>What was &lt;found&gt;</figcaption>" in text
    assert "<th>claim</th><th>verdict</th>" in text
    assert "<td>a,\n&lt;b&gt;</td><td>yes</td>" in text
    assert any(line.startswith("figures/none.csv is not there") for line in notes(copy, tmp_path))


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LstError, match=r"holds no run\.json"):
        report(tmp_path, tmp_path / "page.html")
    with pytest.raises(LstError, match="does not exist"):
        report(tmp_path / "nothing", tmp_path / "page.html")
    for text in ("{", "[]", '{"recipe": "x", "stages": {"a": 1}}', '{"stages": {}}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(LstError, match="damaged"):
            report(tmp_path, tmp_path / "page.html")


def test_a_place_that_cannot_be_written_is_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file" / "page.html", tmp_path / "file" / "sub" / "page.html", tmp_path):
        with pytest.raises(LstError, match=r"cannot be written|is a directory"):
            report(run, place)


def test_the_utterance_is_held_out_if_one_is(run: Path) -> None:
    pairs = open_run(run).first("lst.pairs")
    assert pairs is not None
    row = choose(pairs)
    assert row is not None
    assert row["split"] == "valid"


def test_the_command(run: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    lst.cli.report.register(app)
    result = CliRunner().invoke(app, ["report", str(run), "--out", str(tmp_path / "x.html")])
    assert result.exit_code == 0, result.output
    assert result.output.strip() == str(tmp_path / "x.html")
    assert (tmp_path / "x.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_importing_it_costs_nothing() -> None:
    code = "import sys, lst.report; sys.exit(any(name in sys.modules for name in ('numpy', 'pydantic', 'torch')))"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, lst.report.page; sys.exit(any(n in sys.modules for n in ('torch', 'matplotlib', 'soundfile')))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_sounds_of_a_run_are_heard_too(copy: Path, tmp_path: Path) -> None:
    made = {name: load_manifest(copy / name) for name in json.loads((copy / "run.json").read_text())["stages"]}

    def make_waves(directory: Path) -> DirectoryResult:
        sf.write(directory / "w.wav", tone(0.2), 16000)
        rows = [{"id": f"row {k}", "path": "w.wav", "duration_s": 0.2} for k in range(MAX_CLIPS + 2)]
        return DirectoryResult(["w.wav"], rows=[*rows[:1], {**rows[1], "path": "../../run.json"}, *rows[2:]])

    spec = StageSpec("lst.waves/1", "vocode", 1, {}, {"pairs": made["pairs"]})
    record(copy, {**made, "vocode": build_directory(copy / "vocode", spec, make_waves)})
    page = make(copy, tmp_path)
    assert len(page.all("audio")) == 5 + MAX_CLIPS - 1
    assert "And 2 more." in page.text
    assert "leaves" in page.text  # the path that leads out of the manifest


def test_a_section_that_fails_says_so(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> Html:
        raise KeyError("x")

    monkeypatch.setattr("lst.report.page._SECTIONS", (("listen", "Listen", fail),))
    assert notes(run, tmp_path) == ["This part could not be made. KeyError: &#x27;x&#x27;"]


def test_a_result_of_eval_all_has_a_page_of_its_own(run: Path, tmp_path: Path) -> None:
    model = load_manifest(run / "pretrain")
    summary = {"benchmarks": {"storycloze": CLOZE, "more": CLOZE}, "losses": LOSSES, "missing": {"piqa": "no <file>."}}
    result = make_eval(tmp_path / "all", "eval-all", model, summary | {"totals": {}})
    page = report(result.path, tmp_path / "page.html").read_text()
    assert page.count("<svg") == 2
    assert "Left out: piqa: no &lt;file&gt;." in page
    assert "bits per second of speech" in page
    assert 'id="training"' not in page
