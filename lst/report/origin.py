"""What each stage made and what it cost; where everything comes from, and under which licences."""

import json
from collections.abc import Mapping
from typing import Any

from lst.manifest import Manifest, merge_provenance
from lst.manifest.inspect import LineageNode, lineage
from lst.report.html import Html, join, note, number, seconds, table, tag
from lst.report.run import Run

_TOTALS = ("hours", "units", "words", "tokens", "steps", "items", "samples")


def stages_section(run: Run) -> Html:
    """One line per stage, its rejected rows by reason, and its complete settings to unfold."""
    rows = []
    for name, manifest in run.made.items():
        stage = run.stages[name]
        rows.append(
            [
                name,
                manifest.schema,
                _totals(manifest),
                number(manifest.rows) if manifest.rows else "",
                number(sum(manifest.rejected.values())),
                _cost(stage, "seconds"),
                _cost(stage, "peak_mb"),
                tag("code", manifest.id[:12]),
            ]
        )
    head = ["stage", "makes", "in all", "rows", "rejected", "time", "peak MiB", "id"]
    parts: list[Html | None] = [table(head, rows, text_columns=3)]
    for name in run.missing:
        parts.append(note(f"{name} was made once, but cannot be read now: run the recipe again."))
    reasons = [
        [name, reason, number(count)] for name, item in run.made.items() for reason, count in item.rejected.items()
    ]
    parts.append(tag("h3", "Rejected rows"))
    parts.append(table(["stage", "reason", "rows"], reasons, text_columns=2) if reasons else tag("p", "None."))
    parts.append(tag("h3", "Settings"))
    parts += [_settings(name, manifest) for name, manifest in run.made.items()]
    return join(parts)


def _totals(manifest: Manifest) -> str:
    chosen = [f"{number(manifest.totals[key])} {key}" for key in _TOTALS if key in manifest.totals]
    return ", ".join(chosen[:3])


def _cost(stage: Mapping[str, Any], key: str) -> str:
    value = stage.get(key)
    if not isinstance(value, int | float):
        return ""
    return seconds(value) if key == "seconds" else number(value)


def _settings(name: str, manifest: Manifest) -> Html:
    text = json.dumps(manifest.config, ensure_ascii=False, indent=1, sort_keys=True)
    tool = ", ".join(f"{key} {value}" for key, value in sorted(manifest.tool.items()))
    made = tag("p", f"Made {manifest.created} by {tool}.", class_="lead")
    return tag("details", tag("summary", name), made, tag("pre", text))


def origin_section(run: Run) -> Html:
    """The tree of inputs behind the last stages, each stage once, and the licences of all corpora."""
    if not run.made:
        return note("No stage in this run.")
    names = {manifest.id: name for name, manifest in run.made.items()}
    used = {entry.id for manifest in run.made.values() for entry in manifest.inputs.values()}
    seen: set[str] = set()
    ends = [manifest for manifest in run.made.values() if manifest.id not in used]
    # The largest tree first: the others then only point into it.
    ends.sort(key=lambda manifest: -len(manifest.ancestors))
    tree = tag("ul", [_branch(lineage(manifest), names, seen) for manifest in ends], class_="tree")
    entries = merge_provenance(*(manifest.provenance for manifest in run.made.values()))
    rows = [[entry.get("corpus", ""), entry.get("licence", ""), _source(entry.get("source", ""))] for entry in entries]
    licences = table(["corpus", "licence", "source"], rows, text_columns=3) if rows else note("No corpus is named.")
    return join([tree, tag("h3", "Corpora and licences"), licences])


def _branch(node: LineageNode, names: Mapping[str, str], seen: set[str]) -> Html:
    role = tag("span", f"{node.role}: ", class_="role") if node.role else None
    name = names.get(node.id)
    known = tag("strong", name or node.stage)
    outside = None if name else tag("span", " (not in this run)", class_="role")
    line: list[object] = [role, known, outside, " ", tag("code", node.id[:12], class_="faint")]
    if node.id in seen:
        return tag("li", line, tag("span", " — see above", class_="role") if node.inputs else None)
    seen.add(node.id)
    corpora = sorted({f"{entry.get('corpus', '?')} ({entry.get('licence', '?')})" for entry in node.provenance})
    if corpora and not node.inputs:
        line.append(tag("span", f" — {'; '.join(corpora)}", class_="role"))
    below = [_branch(source, names, seen) for source in node.inputs]
    return tag("li", line, tag("ul", below) if below else None)


def _source(source: str) -> object:
    if source.startswith(("https://", "http://")):
        return tag("a", source, href=source, rel="noopener noreferrer")
    return source
