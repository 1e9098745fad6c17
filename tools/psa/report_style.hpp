// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace psa::cli {

/// CSS of the report. Colors are variables with a second set for dark pages; pictures bring their
/// own and look the same on both.
inline constexpr std::string_view kReportStyle = R"css(
:root {
  color-scheme: light dark;
  --paper: #faf9f7; --panel: #ffffff; --ink: #201e26; --soft: #67636f; --rule: #e0dde3;
  --psa: #c02a62; --binary: #4a6fa5; --other: #8a7a3c; --dense: #8f8a99; --attention: #c3bfca;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #131217; --panel: #1b1a21; --ink: #eceaf0; --soft: #a5a0b0; --rule: #33303c;
    --psa: #f2668f; --binary: #7fa9e0; --other: #cdb869; --dense: #8d8898; --attention: #55515f;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans",
        "DejaVu Sans", sans-serif;
}
main { max-width: 1000px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 32px; line-height: 1.15; letter-spacing: -0.02em; margin: 0 0 6px; }
h2 { font-size: 20px; line-height: 1.3; letter-spacing: -0.01em; margin: 52px 0 8px; }
h3 { font-size: 15px; margin: 0 0 8px; font-weight: 600; }
p { margin: 0 0 12px; max-width: 760px; }
.origin, .caption, .note { color: var(--soft); }
.origin { margin-bottom: 24px; overflow-wrap: anywhere; }
.caption { font-size: 14px; line-height: 1.5; margin-bottom: 16px; }
.note { font-size: 14px; }
.warning { border-left: 4px solid var(--psa); background: var(--panel); padding: 10px 14px;
  margin: 20px 0; max-width: none; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 1px;
  background: var(--rule); border: 1px solid var(--rule); border-radius: 10px; overflow: hidden;
  margin: 26px 0 0; }
.figures div { background: var(--panel); padding: 16px 18px; }
.figures b { display: block; font-size: 28px; line-height: 1.15; letter-spacing: -0.02em;
  font-weight: 650; font-variant-numeric: tabular-nums; white-space: nowrap; }
.figures span { display: block; color: var(--soft); font-size: 13.5px; line-height: 1.4;
  margin-top: 4px; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; margin: 0 0 12px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  font-size: 15px; }
th, td { padding: 8px 0 8px 22px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule); vertical-align: middle; }
th { color: var(--soft); font-weight: 500; font-size: 13.5px; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td.text, th.text { text-align: left; }
.times { margin-top: 14px; }
tr.chosen td { font-weight: 600; }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 9px; }
.legend { display: flex; flex-wrap: wrap; gap: 6px 18px; font-size: 13.5px; margin: 0 0 14px;
  padding: 0; list-style: none; color: var(--ink); }
.legend li { display: flex; align-items: center; gap: 7px; }
.swatch { width: 15px; height: 15px; border-radius: 3px; box-shadow: inset 0 0 0 1px #8886; }
.scale { display: flex; align-items: center; gap: 9px; font-size: 13px; color: var(--soft);
  font-variant-numeric: tabular-nums; }
.scale img { width: 110px; height: 10px; border-radius: 2px; image-rendering: auto; }
.heads { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
  gap: 24px; }
.heads.few { grid-template-columns: 1fr; }
.curves { margin-top: 24px; }
.head { background: var(--panel); border: 1px solid var(--rule); border-radius: 10px;
  padding: 16px; min-width: 0; }
.head header { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 4px 16px;
  align-items: baseline; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 14px; }
.strip img { display: block; width: 100%; height: auto; border-radius: 3px; }
.pair figure { margin: 0; min-width: 0; }
.pair img { display: block; width: 100%; height: auto; image-rendering: pixelated;
  border-radius: 3px; }
figcaption { font-size: 13px; line-height: 1.4; color: var(--soft); margin-top: 7px;
  font-variant-numeric: tabular-nums; }
figcaption b { color: var(--ink); font-weight: 600; }
.shares { display: flex; height: 12px; min-width: 150px; border-radius: 3px; overflow: hidden; }
.shares i { display: block; height: 100%; }
.chart { background: var(--panel); border: 1px solid var(--rule); border-radius: 10px;
  padding: 18px; }
.chart svg, .head svg { display: block; width: 100%; height: auto; overflow: visible; }
.narrow { display: none; }
svg text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans",
  sans-serif; font-variant-numeric: tabular-nums; fill: var(--soft); }
svg text.strong { fill: var(--ink); font-weight: 600; paint-order: stroke; stroke: var(--panel);
  stroke-width: 4px; stroke-linejoin: round; }
svg .grid { stroke: var(--rule); } svg .axis { stroke: var(--soft); }
svg path { fill: none; stroke-width: 2.5; stroke-linejoin: round; }
svg .line-psa { stroke: var(--psa); } svg .line-binary { stroke: var(--binary); }
svg .dot-psa { fill: var(--psa); } svg .dot-binary { fill: var(--binary); }
svg text.name-psa { fill: var(--psa); font-weight: 600; }
svg text.name-binary { fill: var(--binary); font-weight: 600; }
svg .mark-psa { fill: var(--panel); stroke: var(--psa); stroke-width: 3; }
svg .mark-binary { fill: var(--panel); stroke: var(--binary); stroke-width: 3; }
svg .mark-other { fill: var(--panel); stroke: var(--other); stroke-width: 3; }
svg .bar-attention { fill: var(--attention); }
.attention { background: var(--attention); }
.key.dense { background: var(--dense); } .key.psa { background: var(--psa); }
.key.binary { background: var(--binary); } .key.other { background: var(--other); }
pre { background: var(--panel); border: 1px solid var(--rule); border-radius: 8px; padding: 12px 14px;
  font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 14px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 22px; margin: 0 0 16px;
  font-size: 14.5px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
footer { margin-top: 52px; padding-top: 14px; border-top: 1px solid var(--rule); }
@media (max-width: 620px) {
  main { padding: 24px 16px 48px; }
  h1 { font-size: 26px; } h2 { margin-top: 40px; }
  .figures { grid-template-columns: 1fr 1fr; }
  .figures div { padding: 12px 13px; } .figures b { font-size: 22px; }
  .wide { display: none; } .narrow { display: block; }
  .chart, .head { padding: 12px; }
  th, td { padding-left: 14px; } table { font-size: 14px; } .extra { display: none; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 8px; }
}
@media print { .chart, .head { break-inside: avoid; } }
)css";

}  // namespace psa::cli
