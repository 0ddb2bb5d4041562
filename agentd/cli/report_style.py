"""Hold the look of the report."""

from __future__ import annotations

CSS = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#14181f;--soft:#5a6472;--line:#e3e7ec;
--track:#eef1f4;--cold:#c2571a;--fork:#0b7a75;--bare:#5b5fc7;--ok:#17803d;--bad:#c02626}
@media(prefers-color-scheme:dark){:root{--bg:#0e1116;--card:#171b22;--ink:#e8ecf1;--soft:#98a3b3;
--line:#2a313b;--track:#222831;--cold:#f08a4b;--fork:#35c2b9;--bare:#989cf5;--ok:#4ccb7a;
--bad:#ff7070}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
-webkit-text-size-adjust:100%}
main{max-width:960px;margin:0 auto;padding:28px 16px 56px}
header{padding:4px 4px 20px}
h1{font-size:clamp(1.55rem,5.2vw,2.5rem);line-height:1.15;letter-spacing:-.02em;margin:.25em 0 .4em;
text-wrap:balance}
h2{font-size:1.12rem;line-height:1.3;margin:0 0 4px;letter-spacing:-.005em}
p{margin:0 0 14px}
.lead{color:var(--soft);margin-bottom:14px;max-width:62ch}
.eyebrow{font-size:.78rem;letter-spacing:.09em;text-transform:uppercase;color:var(--soft);margin:0}
section{background:var(--card);border:1px solid var(--line);border-radius:14px;
padding:20px 20px 18px;margin:0 0 16px}
.hero{display:grid;grid-template-columns:auto 1fr;gap:8px 32px;align-items:center}
.factor{font-size:clamp(3.4rem,13vw,5.6rem);font-weight:700;line-height:1;letter-spacing:-.045em;
color:var(--fork);font-variant-numeric:tabular-nums}
.factor small{font-size:.42em;font-weight:600;letter-spacing:0}
.hero .note{grid-column:1/-1;margin:6px 0 0}
svg{display:block;overflow:visible;margin:6px 0 2px}
svg text{font-size:13.5px;fill:var(--ink)}
svg .label{font-weight:600}
svg .soft{fill:var(--soft);font-weight:400}
svg .value{fill:var(--soft);font-variant-numeric:tabular-nums}
svg .tick{fill:var(--soft);font-size:12px}
svg .grid{stroke:var(--line)}
svg .track{fill:var(--track)}
svg .median{stroke:currentColor;stroke-width:2.5}
svg .box{fill:currentColor;opacity:.26}
svg circle{fill:currentColor;opacity:.62}
svg g.cold{color:var(--cold)} svg g.fork{color:var(--fork)} svg g.bare{color:var(--bare)}
svg rect.cold{fill:var(--cold)} svg rect.fork{fill:var(--fork)} svg rect.bare{fill:var(--bare)}
svg rect.shared{fill:var(--bare);opacity:.38}
.key{display:inline-block;width:.75em;height:.75em;border-radius:3px;margin-right:.4em}
.key.fork{background:var(--fork)} .key.shared{background:var(--bare);opacity:.38}
.keys{color:var(--soft);font-size:.88rem;margin:0 0 8px} .keys span{margin-right:1.2em}
.wide{overflow-x:auto;margin:0 -4px 12px}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:7px 12px 7px 4px;border-bottom:1px solid var(--line);
white-space:nowrap;vertical-align:top}
th{font-weight:600;color:var(--soft);font-size:.82rem}
td.n,th.n{text-align:right} tr:last-child td{border-bottom:0}
td.wrap{white-space:normal;min-width:9em}
code,pre,.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
font-size:.86em}
pre{overflow-x:auto;background:var(--track);border-radius:8px;padding:12px 14px;margin:8px 0 0}
.ok{color:var(--ok);font-weight:600}.bad{color:var(--bad);font-weight:600}
.note{color:var(--soft);font-size:.9rem}
section>:last-child{margin-bottom:0}
details{margin-top:10px} summary{cursor:pointer;color:var(--soft);font-size:.92rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:5px 18px;margin:8px 0 0;font-size:.94rem}
dt{color:var(--soft)} dd{margin:0;overflow-wrap:anywhere}
ul{padding-left:1.15em;margin:6px 0 0} li{margin:0 0 7px}
footer{color:var(--soft);font-size:.85rem;padding:6px 4px}
@media(max-width:560px){.hero{grid-template-columns:1fr}section{padding:16px 14px 14px}
table{font-size:.86rem}th,td{padding-right:9px}}
@media print{body{background:#fff}section{break-inside:avoid}}
"""
