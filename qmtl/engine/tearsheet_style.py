"""The style sheet and the script of a tearsheet: light and dark, wide and narrow."""

import json

from qmtl.engine.tearsheet_charts import ACCENT, GAIN, GRID, INK, LOSS, MUTED, PAPER, PLAIN

STYLE = """
:root{color-scheme:light dark;--ink:#1d2733;--soft:#5b6878;--line:#e6eaf0;--gain:#157f5b;--loss:#c2402f;
--back:#f4f6f9;--paper:#fff;--code:#f0f3f7;--flag:#fff4d6;--edge:#edd28a}
@media(prefers-color-scheme:dark){:root{--ink:#dfe6f0;--soft:#9aa7b8;--line:#2b3543;--gain:#3fbf8f;
--loss:#f07a68;--back:#10161e;--paper:#171e28;--code:#222c39;--flag:#3a2f12;--edge:#6b5722}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;margin:0 0 2px;letter-spacing:-.01em}
h2{font-size:16px;margin:0 0 8px}table+h2{margin-top:20px}
header p{margin:0;color:var(--soft)}
.verdict{font-size:19px;font-weight:600;margin:14px 0 18px}
.loss{color:var(--loss)}.gain{color:var(--gain)}
.flag{background:var(--flag);border:1px solid var(--edge);border-radius:8px;padding:8px 12px;margin:0 0 14px}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(140px,1fr));gap:10px;margin-bottom:14px}
.tile,section{background:var(--paper);border:1px solid var(--line);border-radius:10px;min-width:0}
.tile{padding:10px 14px}.tile b{display:block;font-size:20px;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px}
section{padding:16px 18px;margin-bottom:14px}
.two{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:14px;margin-bottom:14px}
.two section{margin:0}
.scroll{overflow-x:auto}.scroll>*{min-width:620px}.scroll.trades>*{min-width:1060px}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:4px 10px 4px 0;border-bottom:1px solid var(--line);vertical-align:top}
td{overflow-wrap:anywhere}.trades td{overflow-wrap:normal}
th{color:var(--soft);font-weight:500}td.n,th.n{text-align:right}td.n,td.t{white-space:nowrap}
code{background:var(--code);border-radius:5px;padding:2px 6px;word-break:break-all}
footer{color:var(--soft);font-size:13px}
@media(max-width:820px){.two{grid-template-columns:minmax(0,1fr)}}
@media(max-width:520px){main{padding:18px 12px 40px}section{padding:14px 12px}}
"""

_DARK = {
    INK: "#dfe6f0",
    GRID: "#2b3543",
    PAPER: "#171e28",
    GAIN: "#3fbf8f",
    LOSS: "#f07a68",
    ACCENT: "#7aa2ff",
    MUTED: "#8793a3",
    PLAIN: "#222c39",
}
"""What the colours of the charts become where the reader's screen is dark."""

SCRIPT = f"""
const text=document.getElementById('figures').textContent,dark={json.dumps(_DARK)};
const scheme=matchMedia('(prefers-color-scheme: dark)');
function draw(){{
  const figures=JSON.parse(scheme.matches?text.replace(/#[0-9a-f]{{6}}/g,one=>dark[one]??one):text);
  for(const [name,figure] of Object.entries(figures)){{
    const place=document.getElementById(name),axis=figure.layout.xaxis;
    // Dates lie flat: as many as there is room for.
    if(axis.type==='date')Object.assign(axis,{{tickangle:0,nticks:Math.max(3,place.clientWidth/110|0)}});
    Plotly.react(name,figure.data,figure.layout,{{responsive:true,displayModeBar:false}});
  }}
  document.body.dataset.drawn='yes';
  document.body.dataset.height=document.documentElement.scrollHeight;
}}
scheme.addEventListener('change',draw);
draw();
"""
"""Draws every figure, once more when the scheme changes; `data-height` tells how long the page is."""
