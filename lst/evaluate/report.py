"""Results as short Markdown tables, for the terminal, `summary.md` and the report."""

import textwrap
from typing import Any

from lst.evaluate.losses import DIRECTIONS

WIDTH = 80
"""Columns of a terminal."""


def choices_markdown(summary: dict[str, Any], *, variants: bool = True) -> str:
    """One line per mode: items, the headline with its interval, and with `variants` the other ways of counting."""
    found = dict.fromkeys(name for body in summary["modes"].values() for name in body["variants"])
    names = list(found) if variants else []
    head = ["mode", "n", "headline", "accuracy", f"{summary['confidence']:.0%} interval", *names]
    lines = [f"# {summary['benchmark']}", "", _line(head), _line(["---"] * len(head))]
    for mode, body in summary["modes"].items():
        cells = [mode, str(body["n"]), body["headline"], _percent(body["accuracy"])]
        cells.append(f"{_percent(body['low'])} – {_percent(body['high'])}")
        cells += [_percent(body["variants"][name]["accuracy"]) if name in body["variants"] else "" for name in names]
        lines.append(_line(cells))
    lines += ["", f"Accuracy in %. {summary['protocol']}."]
    if summary["missing_modes"]:
        lines.append(f"Not in this benchmark: {', '.join(summary['missing_modes'])}.")
    if summary["rejected"]:
        lines.append("Rejected items: " + ", ".join(f"{n} {why}" for why, n in summary["rejected"].items()) + ".")
    lines += [f"{mode}: {body['note']}." for mode, body in summary["modes"].items() if body.get("note")]
    return "\n".join(lines) + "\n"


def suite_markdown(summary: dict[str, Any]) -> str:
    """One line per benchmark and mode, then the losses, then what is missing and why."""
    head = ["benchmark", "mode", "n", "chance", "headline", "accuracy", "interval", "pmi_mean"]
    lines = ["# All benchmarks", "", _line(head), _line(["---"] * len(head))]
    for name, body in summary["benchmarks"].items():
        for mode, part in body["modes"].items():
            pmi = part["variants"].get("pmi_mean")
            cells = [name, mode, str(part["n"]), _percent(part["chance"]), part["headline"], _percent(part["accuracy"])]
            cells += [f"{_percent(part['low'])} – {_percent(part['high'])}", _percent(pmi["accuracy"]) if pmi else ""]
            lines.append(_line(cells))
    lines += ["", "Accuracy in %, with its bootstrap interval. Every variant: summary.md and items.parquet beside."]
    if summary.get("losses"):
        lines += ["", losses_markdown(summary["losses"]).replace("# ", "## ").rstrip("\n")]
    if summary["missing"]:
        lines += ["", "## Missing", "", *(f"- {name}: {why}" for name, why in summary["missing"].items())]
    return "\n".join(lines) + "\n"


def compare_markdown(found: dict[str, Any]) -> str:
    """One line per benchmark and mode, by its headline, at most 80 columns wide; then the notes. More is in `found`."""
    head = ["benchmark, mode", "n", "A", "B", "A - B", "95% interval", "p"]
    headlines = [row for row in found["rows"] if row["is_headline"]]
    rows = [
        [
            f"{row['benchmark']} {row['mode']}",
            str(row["n"]),
            _percent(row["a"]),
            _percent(row["b"]),
            f"{100 * row['difference']:+z.1f}",
            f"{100 * row['low']:+z.1f} – {100 * row['high']:+z.1f}",
            f"{row['p_holm']:.3f}" if row["p_holm"] >= 0.0005 else "<0.001",
        ]
        for row in headlines
    ]
    lines = ["# A against B, on the same items", "", *_aligned(head, rows), ""]
    lines += _wrapped(
        "Accuracy in %, each benchmark's headline. p: random sign flips over independent items, adjusted for the "
        "number of lines (Holm). --json has all variants, p by itself, and the spread of seeds."
    )
    notes = [f"- {row['benchmark']} {row['mode']}: {told}" for row in headlines if (told := _told(row))]
    if notes:
        lines += ["", *(line for note in notes for line in _wrapped(note, indent="  "))]
    if found["only"]:
        lines += ["", *_wrapped(f"Not on both sides: {', '.join(found['only'])}.")]
    return "\n".join(lines) + "\n"


def _told(row: dict[str, Any]) -> str:
    """What a line of the comparison has no room for: the spread of several seeds, and its note."""
    sides = {side.upper(): row[f"{side}_seeds"] for side in "ab"}
    spreads = [
        f"{side} {_with_spread(seeds['mean'], seeds)} over {seeds['n']} seeds"
        for side, seeds in sides.items()
        if seeds["std"] is not None
    ]
    return "; ".join([*spreads, *filter(None, [row["note"]])])


def seeds_markdown(found: dict[str, Any]) -> str:
    """One line per benchmark and mode: the headline's mean and standard deviation over seeds."""
    head = ["benchmark", "mode", "headline", "items", "seeds", "mean ± std"]
    lines = ["# Over seeds", "", _line(head), _line(["---"] * len(head))]
    for row in found["rows"]:
        if row["is_headline"]:
            cells = [row["benchmark"], row["mode"], row["variant"], str(row["items"]), str(row["n"])]
            lines.append(_line([*cells, _with_spread(row["mean"], row)]))
    return "\n".join(lines) + "\n"


def _with_spread(mean: float, seeds: dict[str, Any]) -> str:
    return _percent(mean) if seeds["std"] is None else f"{_percent(mean)} ± {_percent(seeds['std'])}"


def losses_markdown(summary: dict[str, Any]) -> str:
    """One line per kind of document: bits per second of speech, bits per text token, and how much was measured."""
    head = ["documents", "bits per second of speech", "bits per text token", "seconds", "text tokens"]
    lines = ["# Held-out losses", "", _line(head), _line(["---"] * len(head))]
    for name, body in summary["sets"].items():
        speech, text = body.get("speech_bits_per_second"), body.get("text_bits_per_token")
        cells = [name, _number(speech), _number(text), f"{body['seconds']:.0f}", str(body["text_tokens"])]
        lines.append(_line(cells))
    for name, body in summary["sets"].items():
        found = [f"{direction} {body[key]:.3f}" for direction, key in DIRECTIONS.items() if key in body]
        if found:
            lines += ["", f"{name.capitalize()}, by what came before in the document: {', '.join(found)}."]
    if summary["missing"]:
        lines += ["", f"Without held-out rows: {', '.join(summary['missing'])}."]
    return "\n".join(lines) + "\n"


def asr_markdown(summary: dict[str, Any]) -> str:
    """Error rates and ways of failing with their intervals, then what was counted how."""
    lines = ["# Recognition", "", _line(["", "%", "interval"]), _line(["---"] * 3)]
    names = {"wer": "WER", "cer": "CER", "non_stopping": "did not stop", "hallucination": "hallucinated"}
    for name, shown in names.items():
        body = summary[name]
        lines.append(_line([shown, _percent(body["value"]), f"{_percent(body['low'])} – {_percent(body['high'])}"]))
    errors = ", ".join(f"{count} {name}" for name, count in summary["errors"].items())
    lines += [
        "",
        f"{summary['utterances']} utterances, {summary['seconds']:.0f} s, {summary['words']} words ({errors}); "
        f"{summary['decoding']}. Normaliser {summary['normaliser']}, jiwer {summary['jiwer']}.",
        f"Context: {summary['context_per_second']:.2f} steps per second of speech, "
        f"{summary['context_relative']:.3f} of a model without patches.",
    ]
    if not summary["task"]:
        lines.append("The model was not fine-tuned for recognition.")
    lines += _failures(summary["failed"])
    return "\n".join(lines) + "\n"


def tts_markdown(summary: dict[str, Any]) -> str:
    """What the judges say of the model, of its vocoder alone and of the recordings; steps; what is missing."""
    head = ["", "CER %", "95% interval", "WER %", "95% interval", "DNSMOS", "95% interval"]
    lines = ["# Synthesis", ""]
    if summary["sets"]:
        lines += [_line(head), _line(["---"] * len(head)), *_judged(summary["sets"]), ""]
        lines.append(
            f"Judges: {summary['judge']}, normaliser {summary['normaliser']}, jiwer {summary['jiwer']}; "
            f"{summary['quality']}. The recordings' errors are the judge's own."
        )
    ratio = summary["units_per_recorded"]
    recorded = f", {ratio:.2f} of the recordings'" if ratio is not None else ""
    stopped = summary["non_stopping"]
    lines += [
        f"{summary['texts']} texts: {summary['units']:.1f} units and {summary['global_steps']:.1f} steps of the global "
        f"transformer each ({summary['steps_per_unit']:.3f} per unit){recorded}; did not stop: "
        f"{_percent(stopped['value'])}% ({_percent(stopped['low'])} – {_percent(stopped['high'])}).",
    ]
    lines += [f"Missing: {name}: {why}" for name, why in summary["missing"].items()]
    lines += _failures(summary["failed"])
    return "\n".join(lines) + "\n"


def _failures(failed: dict[str, str]) -> list[str]:
    return [f"Left out: {name}: {why}" for name, why in list(failed.items())[:5]] + (
        [f"… and {len(failed) - 5} more."] if len(failed) > 5 else []
    )


def _judged(sets: dict[str, Any]) -> list[str]:
    """A line per set of sounds: CER, WER and DNSMOS with their intervals."""
    lines = []
    for name, body in sets.items():
        cells = [name]
        for rate in ("cer", "wer"):
            cells += [_percent(body[rate]), f"{_percent(body[f'{rate}_low'])} – {_percent(body[f'{rate}_high'])}"]
        cells += [f"{body['dnsmos']:.2f}", f"{body['dnsmos_low']:.2f} – {body['dnsmos_high']:.2f}"]
        lines.append(_line(cells))
    return lines


def words_markdown(summary: dict[str, Any]) -> str:
    """Similarities of patch embeddings within and between words, beside those of the bare units."""
    head = ["", "within", "between", "centred within", "centred between", "silhouette"]
    lines = ["# Patch embeddings of words", "", _line(head), _line(["---"] * len(head))]
    for name, body in (("patches", summary), ("bare units", summary["floor"])):
        values = [body["within"], body["between"], body["centred"]["within"], body["centred"]["between"]]
        lines.append(_line([name, *(f"{value:.3f}" for value in values), f"{body['silhouette']:.3f}"]))
    counts = ", ".join(f"{word} ({count})" for word, count in summary["words"].items())
    lines += ["", f"Mean cosines; {summary['patching']} patches; {summary['occurrences']} occurrences: {counts}."]
    return "\n".join(lines) + "\n"


def align_markdown(summary: dict[str, Any]) -> str:
    """Distances of word boundaries, rejection of wrong transcripts, and speed."""
    lines = [f"# Aligner {summary['aligner']}", ""]
    compared = {
        "true times": summary["words"],
        "true times, on the 40 ms grid": summary["words_on_grid"],
        f"{summary['other']}": summary["agreement"],
    }
    if any(compared.values()):
        head = ["against", "boundaries", "median ms", "90% ms", "within 20 ms", "within 60 ms", "signed median ms"]
        lines += [_line(head), _line(["---"] * len(head))]
        for name, body in compared.items():
            for kind in ("starts", "ends") if body else ():
                part = body[kind]
                cells = [f"{name}: {kind}", str(part["boundaries"]), f"{part['median_ms']:.1f}"]
                cells += [f"{part['p90_ms']:.1f}", _percent(part["within_20_ms"]), _percent(part["within_60_ms"])]
                lines.append(_line([*cells, f"{part['median_signed_ms']:+.1f}"]))
        lines += ["", "Signed: found minus expected; above 0 is late.", ""]
    head = ["min_score", "", "wrong transcripts rejected", "95% interval", "right ones rejected"]
    lines += [_line(head), _line(["---"] * len(head))]
    for name in ("default", "chosen"):
        body = summary["rejection"][name]
        interval = f"{_percent(body['wrong_rejected_low'])} – {_percent(body['wrong_rejected_high'])}"
        cells = [f"{body['min_score']:.3f}", name, _percent(body["wrong_rejected"]), interval]
        lines.append(_line([*cells, _percent(body["right_rejected"])]))
    lines += [
        "",
        f"{summary['utterances']} utterances, {summary['seconds']:.0f} s; "
        f"{summary['audio_seconds_per_cpu_second']:.1f} seconds of audio per CPU-second, one thread.",
    ]
    return "\n".join(lines) + "\n"


def vocoder_markdown(summary: dict[str, Any]) -> str:
    """Errors and quality of the recordings and of what the vocoder makes of their units, then what it costs."""
    head = ["", "CER %", "95% interval", "WER %", "95% interval", "DNSMOS", "95% interval"]
    lines = [f"# Vocoder {summary['vocoder']}", "", _line(head), _line(["---"] * len(head))]
    lines += _judged(summary["sets"])
    lines += [
        "",
        f"{summary['utterances']} utterances, {summary['seconds']:.0f} s. Judges: {summary['judge']}, "
        f"normaliser {summary['normaliser']}; {summary['quality']}.",
        f"CPU-seconds per second of speech: {summary['real_time_factor']:.4f} whole, "
        f"{summary['real_time_factor_streaming']:.4f} in a stream of 200 ms pieces; "
        f"their waveforms differ by at most {summary['stream_difference']:.1e}.",
    ]
    return "\n".join(lines) + "\n"


def units_markdown(summary: dict[str, Any]) -> str:
    """Quality, ABX, robustness, invariance and speed of a tokenizer, a line each."""
    quality = summary["quality"]
    lines = [f"# {summary['tokenizer']}", "", _line(["measure", "value"]), _line(["---", "---"])]
    lines += [
        _line(["PNMI (shuffled)", f"{quality['pnmi']:.3f} ({quality['pnmi_floor']:.3f})"]),
        _line(["phone purity", f"{quality['phone_purity']:.3f}"]),
        _line([f"speaker NMI, {quality['speakers']} speakers", f"{quality['speaker_nmi']:.3f}"]),
        _line(["units used", str(quality["units_used"])]),
    ]
    lines += [
        _line(
            [f"ABX error {where} speakers, features (units)", f"{_percent(v['features'])}% ({_percent(v['units'])}%)"]
        )
        for where, v in summary["abx"].items()
    ]
    lines += [
        _line([f"units unchanged, {name}", f"{_percent(share)}%"]) for name, share in summary["robustness"].items()
    ]
    places = {
        "batch": "among others, in pieces",
        "windows": "long file in windows",
        "seams": "within 1 s of a seam",
    }
    lines += [_line([f"same units, {places[key]}", f"{_percent(v)}%"]) for key, v in summary["invariance"].items()]
    speed = summary["speed"]
    lines.append(_line(["seconds of audio per CPU-second", f"{speed['audio_s_per_cpu_s']:.0f}"]))
    if "times_hubert_base" in speed:
        lines.append(_line(["times as fast as HuBERT-base", f"{speed['times_hubert_base']:.1f}"]))
    seconds = f"{summary['seconds'] / 60:.1f} min of speech, {summary['utterances']} utterances"
    lines += ["", f"Phones: {summary['aligner']}, at the middle of each frame; {seconds}."]
    if summary["left_out"]:
        lines.append("Left out: " + ", ".join(f"{n} {why}" for why, n in summary["left_out"].items()) + ".")
    return "\n".join(lines) + "\n"


def _aligned(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table that can be read as it is: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [
        _line([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))])
        for first, *rest in (head, rule, *rows)
    ]


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
