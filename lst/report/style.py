"""How the page looks, light and dark, and the few lines of script that move the cursor over the waveform."""

STYLE = """
:root { color-scheme: light dark;
  --page: #f6f5f2; --card: #fdfdfc; --ink: #14130f; --soft: #56544d; --faint: #8d8a80; --rule: #e3e1d9; --axis: #b9b6ab;
  --c1: #2a78d6; --c2: #d95f26; --c3: #12876a; --c4: #8a6bd1; --c5: #9a968a; --on: #ffffff; --wave: #6f8fb5;
  --warn: #8a5a00; --warnback: #fff4dc; }
@media (prefers-color-scheme: dark) { :root {
  --page: #131312; --card: #1c1c1a; --ink: #f3f2ec; --soft: #bdbab0; --faint: #8a877d; --rule: #2e2d2a; --axis: #55534c;
  --c1: #4b94ea; --c2: #e9763d; --c3: #2fae8c; --c4: #a58bea; --c5: #77746b; --on: #10100f; --wave: #7f9fc6;
  --warn: #e8bb62; --warnback: #2e2614; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 36px 28px 80px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 0 0 4px; letter-spacing: -.005em; }
h3 { font-size: 15px; margin: 26px 0 8px; }
p { margin: 6px 0 12px; max-width: 78ch; }
.lead { color: var(--soft); max-width: 90ch; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 18px 0 22px; font-size: 14px; }
a { color: var(--c1); text-decoration: none; } a:hover { text-decoration: underline; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 22px 26px 24px;
  margin: 0 0 20px; scroll-margin-top: 12px; }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin: 0 0 20px; }
@media (max-width: 800px) { .tiles { grid-template-columns: repeat(2, 1fr); } main { padding: 24px 12px 60px; } }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 14px 16px 12px; }
.tile b { display: block; font-size: 25px; font-weight: 600; line-height: 1.25; letter-spacing: -.01em;
  white-space: nowrap; }
.tile span { display: block; color: var(--soft); font-size: 13px; line-height: 1.4; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 6px 0 10px; font-size: 14px; }
th, td { text-align: left; padding: 6px 18px 6px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { color: var(--soft); font-weight: 500; } thead th { white-space: nowrap; vertical-align: bottom; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tbody tr:last-child > * { border-bottom: 0; }
code, pre { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { overflow-x: auto; margin: 8px 0; padding: 12px 14px; background: var(--page); border-radius: 6px; }
.note { color: var(--warn); background: var(--warnback); border-radius: 6px; padding: 7px 12px; font-size: 14px;
  max-width: none; }
figure { margin: 16px 0 6px; } figcaption { color: var(--soft); font-size: 13.5px; max-width: 100ch; margin-top: 4px; }
img { display: block; width: 100%; height: auto; min-width: 620px; background: #fff; }
svg { display: block; width: 100%; height: auto; min-width: 620px; overflow: visible; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 18px 36px; }
.pair svg { min-width: 400px; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; fill: var(--soft); }
svg text.title { font-size: 13px; font-weight: 600; fill: var(--ink); }
svg text.inside { fill: var(--on); font-weight: 600; pointer-events: none; }
svg text.word { font-size: 12px; fill: var(--ink); }
svg .grid { stroke: var(--rule); stroke-width: 1; } svg .axis { stroke: var(--axis); stroke-width: 1; }
svg .mark { stroke: var(--axis); stroke-width: 1; stroke-dasharray: 3 4; }
svg .chance { stroke: var(--faint); stroke-width: 1.5; stroke-dasharray: 4 3; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; } svg .whisker { stroke-width: 3; opacity: .55; }
svg .dot { stroke: var(--card); stroke-width: 1.5; }
svg .wave { fill: var(--wave); } svg .spoken { fill: var(--c1); opacity: .1; }
svg .box { fill: none; stroke: var(--axis); } svg .cursor { stroke: var(--c2); stroke-width: 1.5; }
svg .odd { opacity: .8; } svg .quiet { opacity: .45; }
.stroke1 { stroke: var(--c1); } .stroke2 { stroke: var(--c2); } .stroke3 { stroke: var(--c3); }
.stroke4 { stroke: var(--c4); } .fill1 { fill: var(--c1); } .fill2 { fill: var(--c2); } .fill3 { fill: var(--c3); }
.fill4 { fill: var(--c4); } .fill5 { fill: var(--c5); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(240px, 100%), 1fr)); gap: 4px 28px; }
.facts h3 { margin-top: 8px; }
.clips { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 16px;
  margin: 10px 0; }
.clip { border: 1px solid var(--rule); border-radius: 8px; padding: 14px 16px; min-width: 0; }
.clip dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 14px; margin: 8px 0 0; align-items: center; }
.clip dt { color: var(--soft); font-size: 13.5px; } .clip dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
.clip .id { color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
audio { width: 100%; max-width: 420px; height: 36px; display: block; } q { quotes: none; unicode-bidi: isolate; }
details { margin: 8px 0; } summary { cursor: pointer; color: var(--soft); font-size: 14px; }
ul.tree { list-style: none; padding-left: 0; font-size: 14px; }
ul.tree ul { list-style: none; padding-left: 20px; margin-left: 5px; border-left: 1px solid var(--rule); }
ul.tree li { margin: 5px 0; } .role, .faint { color: var(--soft); }
footer { color: var(--soft); font-size: 13px; }
@media print { section, .tile { break-inside: avoid; } nav { display: none; } }
"""

SCRIPT = """
const players = [...document.querySelectorAll("audio")];
for (const player of players)
  player.addEventListener("play", () => players.forEach(other => { if (other !== player) other.pause(); }));
for (const figure of document.querySelectorAll("figure[data-scale]")) {
  const player = figure.querySelector("audio"), cursor = figure.querySelector(".cursor");
  if (!player || !cursor) continue;
  const move = () => {
    cursor.setAttribute("transform", `translate(${player.currentTime * figure.dataset.scale},0)`);
    if (!player.paused) requestAnimationFrame(move);
  };
  player.addEventListener("play", move);
  player.addEventListener("seeked", move);
}
"""
