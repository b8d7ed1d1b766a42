"""Results as short Markdown tables, for the terminal, `summary.md` and the report."""

from typing import Any


def storycloze_markdown(summary: dict[str, Any]) -> str:
    """One line per mode: items, the headline with its interval, and the other variants."""
    names = list(dict.fromkeys(name for body in summary["modes"].values() for name in body["variants"]))
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
    return "\n".join(lines) + "\n"


def losses_markdown(summary: dict[str, Any]) -> str:
    """One line per kind of document: bits per second of speech, bits per text token, and how much was measured."""
    head = ["documents", "bits per second of speech", "bits per text token", "seconds", "text tokens"]
    lines = ["# Held-out losses", "", _line(head), _line(["---"] * len(head))]
    for name, body in summary["sets"].items():
        speech, text = body.get("speech_bits_per_second"), body.get("text_bits_per_token")
        cells = [name, _number(speech), _number(text), f"{body['seconds']:.0f}", str(body["text_tokens"])]
        lines.append(_line(cells))
    if summary["missing"]:
        lines += ["", f"Without held-out rows: {', '.join(summary['missing'])}."]
    return "\n".join(lines) + "\n"


def vocoder_markdown(summary: dict[str, Any]) -> str:
    """Errors and quality of the recordings and of what the vocoder makes of their units, then what it costs."""
    head = ["", "CER %", "95% interval", "WER %", "95% interval", "DNSMOS", "95% interval"]
    lines = [f"# Vocoder {summary['vocoder']}", "", _line(head), _line(["---"] * len(head))]
    for name, body in summary["sets"].items():
        cells = [name]
        for rate in ("cer", "wer"):
            cells += [_percent(body[rate]), f"{_percent(body[f'{rate}_low'])} – {_percent(body[f'{rate}_high'])}"]
        cells += [f"{body['dnsmos']:.2f}", f"{body['dnsmos_low']:.2f} – {body['dnsmos_high']:.2f}"]
        lines.append(_line(cells))
    lines += [
        "",
        f"{summary['utterances']} utterances, {summary['seconds']:.0f} s. Judges: {summary['judge']}, "
        f"normaliser {summary['normaliser']}; {summary['quality']}.",
        f"CPU-seconds per second of speech: {summary['real_time_factor']:.4f} whole, "
        f"{summary['real_time_factor_streaming']:.4f} in a stream of 200 ms pieces; "
        f"their waveforms differ by at most {summary['stream_difference']:.1e}.",
    ]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
