"""The page's style sheet.

In a Python file, because Flower packs those and no HTML into an app.
"""

TEXT = r""":root {
  color-scheme: light dark;
  --page: #fbfbf9; --card: #ffffff; --ink: #1c2126; --soft: #5b6570; --line: #dfe2e4; --faint: #f1f2f1;
  --better: #0b6a9c; --worse: #bf4300; --unclear: #69727b;
  --s0: #3d4299; --s1: #2a9d8f; --s2: #c98a0c; --s3: #6e94d2; --s4: #563401; --s5: #4e3151; --s6: #ad804d; --s7: #7c4948;
  --t0: #fff; --t1: #10201e; --t2: #221802; --t3: #0b1626; --t4: #fff; --t5: #fff; --t6: #1d1206; --t7: #fff;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #14171a; --card: #1b1f23; --ink: #e6e8ea; --soft: #9aa4ae; --line: #33393f; --faint: #23282d;
    --better: #63b8ec; --worse: #ff9460; --unclear: #98a2ac;
    --s0: #8c91ea; --s1: #4fc4b4; --s2: #e3ab3d; --s3: #62dbfd; --s4: #ad744c; --s5: #d6eba6; --s6: #4a89a4; --s7: #ab7371;
    --t0: #0d0e2b; --t1: #062420; --t2: #291c02; --t3: #04222b; --t4: #1c0f05; --t5: #1f2709; --t6: #03141c; --t7: #1d0c0b;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
main, header.top, footer { max-width: 1120px; margin: 0 auto; padding: 0 28px; }
header.top { padding-top: 40px; }
h1 { font-size: 38px; line-height: 1.15; letter-spacing: -0.02em; margin: 2px 0 12px; font-weight: 650; }
h2 { font-size: 20px; letter-spacing: -0.01em; margin: 0 0 4px; font-weight: 650; }
h3 { font-size: 15px; margin: 0 0 6px; font-weight: 650; overflow-wrap: anywhere; }
p { margin: 0 0 8px; max-width: 76ch; }
a { color: inherit; text-decoration-color: var(--line); text-underline-offset: 3px; }
section { margin-top: 44px; }
.eyebrow { color: var(--soft); margin: 0; }
.soft, caption, .unit { color: var(--soft); font-weight: 400; }
.small { font-size: 13px; }
.lead { font-size: 17px; margin-bottom: 4px; overflow-wrap: anywhere; }
.better { color: var(--better); } .worse { color: var(--worse); } .unclear, .unknown { color: var(--unclear); }
b.better, b.worse { font-weight: 650; }
nav { margin-top: 18px; font-size: 13px; color: var(--soft); display: flex; flex-wrap: wrap; gap: 4px 18px; }

.tiles { display: flex; flex-wrap: wrap; gap: 14px 44px; margin: 24px 0 0; padding: 18px 0 0; border-top: 1px solid var(--line); }
.tiles dt { color: var(--soft); font-size: 13px; } .tiles dd { margin: 0; font-size: 21px; font-weight: 600; letter-spacing: -0.01em; }
.tiles dd small { display: block; font-size: 13px; font-weight: 400; color: var(--soft); letter-spacing: 0; }

.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 16px 18px; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 16px; margin-top: 14px; align-items: start; }
.grid > .card { max-width: 560px; min-width: 0; }
.grid.two { grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); }
.scroll { overflow-x: auto; margin-top: 14px; }
figure { margin: 0; } figcaption { font-size: 13px; color: var(--soft); margin: 10px 0 0; }

table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { padding: 5px 12px 5px 0; text-align: left; vertical-align: baseline; }
th { font-weight: 600; } thead th { color: var(--soft); font-weight: 400; font-size: 13px; border-bottom: 1px solid var(--line); }
thead th.group { color: var(--ink); font-weight: 600; }
td.n, th.n { text-align: right; white-space: nowrap; } td:last-child, th:last-child { padding-right: 0; }
tbody tr + tr > * { border-top: 1px solid var(--faint); }
tbody.part > tr:first-child > * { border-top: 1px solid var(--line); padding-top: 12px; }
tbody.part > tr:last-child > * { padding-bottom: 12px; }
td.mark { vertical-align: middle; padding-top: 0; padding-bottom: 0; } .ends { display: flex; justify-content: space-between; } td.mark svg { display: block; max-width: none; }
td.name, th.name { overflow-wrap: anywhere; min-width: 7ch; max-width: 24ch; }
.wide td, .wide th { white-space: nowrap; } .wide td.text { white-space: normal; min-width: 26ch; }
.wide .name { white-space: normal; }

.key { display: inline-block; min-width: 17px; padding: 0 3px; height: 17px; border-radius: 3px; text-align: center; font: 600 11px/17px system-ui, sans-serif; margin-right: 6px; vertical-align: 1px; }
.c0 { --c: var(--s0); --t: var(--t0); } .c1 { --c: var(--s1); --t: var(--t1); } .c2 { --c: var(--s2); --t: var(--t2); } .c3 { --c: var(--s3); --t: var(--t3); }
.c4 { --c: var(--s4); --t: var(--t4); } .c5 { --c: var(--s5); --t: var(--t5); } .c6 { --c: var(--s6); --t: var(--t6); } .c7 { --c: var(--s7); --t: var(--t7); }
.c-none { --c: var(--soft); }
.key { background: var(--c); color: var(--t); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; font-size: 13px; color: var(--soft); margin: 12px 0 0; align-items: center; max-width: none; }
.legend svg { vertical-align: -3px; margin-right: 5px; } .legend .ink { color: var(--ink); }

svg { max-width: 100%; height: auto; font: 12px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
svg text { fill: var(--soft); } svg .axis { stroke: var(--line); } svg .grid-line { stroke: var(--faint); }
svg .rail { stroke: var(--line); } svg .alone { fill: var(--card); stroke: var(--soft); stroke-width: 1.8; }
svg .pooled { stroke: var(--ink); stroke-width: 2; } svg .fused { fill: var(--card); stroke: var(--ink); stroke-width: 1.5; } svg .zero { stroke: var(--unclear); stroke-opacity: 0.6; }
svg .better { fill: var(--better); stroke: var(--better); } svg .worse { fill: var(--worse); stroke: var(--worse); }
svg .unclear, svg .unknown { fill: var(--unclear); stroke: var(--unclear); }
svg .hollow { fill: var(--card); stroke-width: 1.8; }
svg .curve { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; } svg .dot { fill: var(--c); }
svg .hit { fill: transparent; } svg .target { stroke: var(--ink); stroke-dasharray: 4 3; } svg text.strong { fill: var(--ink); font-weight: 600; }
svg.fixed { max-width: none; display: block; } svg text.halo { paint-order: stroke; stroke: var(--card); stroke-width: 4px; stroke-linejoin: round; }
svg .box { fill: var(--c); } svg .open { fill: var(--card); stroke: var(--c); stroke-width: 1.4; } svg .dashed { stroke-dasharray: 3 2; }
svg .stroke { stroke: var(--c); stroke-width: 1.6; fill: none; } svg .letter { fill: var(--t); font: 600 10px system-ui, sans-serif; text-anchor: middle; }
svg .letter.on-card { fill: var(--c); } svg .band { fill: var(--faint); }
.bars { display: grid; grid-template-columns: minmax(6ch, max-content) 1fr max-content; gap: 3px 10px; font-size: 14px; align-items: center; margin: 0; }
.bars dt { overflow-wrap: anywhere; max-width: 20ch; } .bars dd { margin: 0; } .bars dd.n { text-align: right; }
.bar { display: block; height: 11px; background: var(--c); border-radius: 0 2px 2px 0; }
details { margin-top: 14px; } summary { cursor: pointer; color: var(--soft); font-size: 14px; } summary:hover { color: var(--ink); }
ul { margin: 6px 0 0; padding-left: 20px; } li { overflow-wrap: anywhere; max-width: 90ch; }
code { font: 13px/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; background: var(--faint); padding: 1px 5px; border-radius: 3px; overflow-wrap: anywhere; }
footer { margin-top: 52px; margin-bottom: 48px; } footer > div { border-top: 1px solid var(--line); padding-top: 14px; font-size: 13px; color: var(--soft); }
footer dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 0; } footer dd { margin: 0; overflow-wrap: anywhere; }

@media (max-width: 620px) { main, header.top, footer { padding-left: 16px; padding-right: 16px; } h1 { font-size: 29px; } }
@media print {
  body { background: #fff; font-size: 11px; } main, header.top, footer { max-width: none; padding: 0; } nav { display: none; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .card, tr, figure.keep { break-inside: avoid; } h2, h3 { break-after: avoid; } section { margin-top: 24px; }
  .scroll { overflow: visible; } svg.fixed { max-width: 100%; } details.paper::details-content { content-visibility: visible; block-size: auto; } .wide td, .wide th { white-space: normal; } table { font-size: 10px; }
}
"""
