"""The page of a run, as a Jinja template.

In a Python file, because Flower packs those and no HTML into an app.
"""

TEXT = r"""{% import "marks.html" as marks with context %}
{% set seconds = at(run, "totals", "simulated_s") %}
{% set clock = clock_word(at(run, "engine")) %}
{% set sites = at(run, "sites") or {} %}
{% set notes = at(run, "notes") or [] %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{{ run.name }}: did collaborating pay?</title>
<style>
{% include "report.css" %}
</style>
</head>
<body>
<header class="top">
<p class="eyebrow">{{ run.name }}: did collaborating pay?</p>
<h1>{{ headline.title }}</h1>
{% for line in headline.lines %}<p class="lead">{{ line }}</p>
{% endfor %}
{% if coverage.lacking %}<p class="lead">{{ coverage.lines[0] }} <a href="#coverage">Who was out</a></p>{% endif %}
<dl class="tiles">
<div><dt>Rounds</dt><dd>{{ run.rounds }}<small>{{ at(run, "ended")|default("at most", true) }}</small></dd></div>
<div><dt>Sites</dt><dd>{{ sites|length }}<small>{{ all_allocations|counted("assignment") }}</small></dd></div>
<div><dt>Sent and received</dt><dd>{{ at(run, "totals", "bytes")|nbytes }}<small>{{ at(run, "totals", "bytes_up")|nbytes }} up, {{ at(run, "totals", "bytes_down")|nbytes }} down</small></dd></div>
<div><dt>{{ clock|capitalize }} time</dt><dd>{{ seconds|duration }}<small>the slowest site sets the pace</small></dd></div>
<div><dt>Wall time</dt><dd>{{ at(run, "totals", "wall_s")|duration }}<small>{{ run.engine }} engine, {{ run.device }}</small></dd></div>
</dl>
<nav aria-label="On this page"><a href="#answer">Alone or together</a><a href="#gains">Site by site</a><a href="#curves">Curves</a><a href="#allocation">Allocation</a><a href="#sites">Sites</a><a href="#fusion">Fusion</a>{% if calibrations %}<a href="#calibration">Calibration</a>{% endif %}<a href="#coverage">Coverage</a>{% if notes %}<a href="#notes">{{ notes|length|counted("note") }}</a>{% endif %}</nav>
</header>
<main>

<section id="answer">
<h2>Alone or together</h2>
<p class="soft"><b>Global</b> is the final model on the test rows of all sites. <b>Own</b> is the mean over the sites of what each would deploy, on its own test rows. Right is better in every chart, whatever the metric.</p>
<div class="card scroll">
<table>
<thead><tr><th>Test rows</th><th><span class="ends" style="width: 250px"><span>← worse</span><span>better →</span></span></th><th class="n">Alone, mean</th><th class="n">Together</th><th class="n">Fused</th><th class="n">Pooled data</th><th>Together against alone</th></tr></thead>
{% for s in subtasks %}
<tbody class="part">
<tr><th colspan="6" class="name">{{ marks.key(s) }}{{ s.name }} <span class="unit">{{ s.data.metric|metric_name }}{% if s.data.metric|metric_unit %}, {{ s.data.metric|metric_unit }}{% endif %}; {{ "lower" if s.lower_is_better else "higher" }} is better</span></th><th class="{{ {'PAID': 'better', 'LOST': 'worse', 'MIXED': 'worse'}.get(s.outcome.name, 'unclear') }}">{{ s.outcome.value|capitalize }}</th></tr>
{% for row in s.lanes %}
<tr><td>{{ row.rows }}</td><td class="mark">{% if row.lane %}{{ marks.lane(row) }}{% endif %}</td><td class="n">{{ row.comparison.alone|number }}</td><td class="n"><b>{{ row.comparison.value|number }}</b></td><td class="n">{{ row.fused|number }}</td><td class="n">{{ row.pooled|number }}</td><td class="{{ row.comparison.verdict.name|lower }}">{{ row.words }}</td></tr>
{% endfor %}
</tbody>
{% endfor %}
</table>
</div>
<p class="legend">
<span><svg width="14" height="14"><circle class="alone" cx="7" cy="7" r="4.5"/></svg>alone, mean of the sites</span>
<span><svg width="42" height="14"><path class="better" d="M2 7H14" stroke-width="3"/><circle class="better" cx="14" cy="7" r="5"/><path class="worse" d="M26 7H36" stroke-width="3"/><circle class="worse" cx="36" cy="7" r="5"/></svg>together: better, worse</span>
<span><svg width="14" height="14"><path class="fused" d="M7 1.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z"/></svg>fused with the sites' models</span>
<span><svg width="8" height="16"><path class="pooled" d="M4 0V16"/></svg>all data in one place: the upper mark</span>
</p>
{% for name, whole in wholes.items() if at(whole, "by") != "modality" %}
{% if loop.first %}
<h3>Taken apart, and together again</h3>
<p class="soft">What the final models of a whole's parts answer together, on all sites' test rows of the whole; naive is the surest expert, whatever the gate says.</p>
<div class="card scroll"><table class="wide">
<thead><tr><th>Whole</th><th>Fusion</th><th class="n">Parts</th><th class="n">Global</th><th class="n">Own</th><th class="n">Naive</th><th class="n">Refused outside</th></tr></thead><tbody>
{% endif %}
<tr><th class="name">{{ name }} <span class="unit">{{ whole.metric|metric_name }}</span></th><td>{{ whole.fusion|replace("_", " ") }}</td><td class="n">{{ (at(whole, "per_part") or {})|length }}</td><td class="n"><b>{{ at(whole, "global")|number }}</b></td><td class="n">{{ at(whole, "own")|number }}</td><td class="n">{{ at(whole, "closed_set")|number }}</td><td class="n">{{ at(whole, "recall_outside")|number }}</td></tr>
{% if loop.last %}
</tbody></table></div>
{% endif %}
{% endfor %}
{% for name, whole in wholes.items() if at(whole, "by") == "modality" %}
{% if loop.first %}
<h3>Taken apart by modality, and together again</h3>
<p class="soft">What the models of all modalities answer together, on all sites' test rows of the whole, beside the best of them alone on the same rows (the class shares answer rows that lack it). The difference is together minus alone, ± one standard error of the paired rows; the best was chosen on these rows.</p>
<div class="card scroll"><table class="wide">
<thead><tr><th>Whole</th><th>Fusion</th><th class="n">Global</th><th class="n">Own</th><th>Each alone, and rows that have it</th><th>Best alone</th><th class="n">Difference</th></tr></thead><tbody>
{% endif %}
{% set best = at(whole, "best_alone") %}
<tr><th class="name">{{ name }} <span class="unit">{{ whole.metric|metric_name }}</span></th><td>{{ whole.fusion }}</td><td class="n"><b>{{ at(whole, "global")|number }}</b></td><td class="n">{{ at(whole, "own")|number }}</td><td>{% for part, value in (at(whole, "alone") or {}).items() %}{{ part }} {{ value|number }} ({{ at(whole, "rows", part) }}){{ ", " if not loop.last }}{% endfor %}</td><td>{{ at(best, "part") or "–" }} {{ at(best, "global")|number }}</td><td class="n">{{ at(best, "difference")|number }}{% if at(best, "standard_error") is not none %} ± {{ at(best, "standard_error")|number }}{% endif %}</td></tr>
{% if loop.last %}
</tbody></table></div>
{% endif %}
{% endfor %}
{% for name, family in families.items() %}
<h3>Family {{ name }}: {{ groups_of(family) }}</h3>
<p class="soft">These subtasks trained together with one encoder{% if at(family, "split_after") is none %} to the end; they were never split{% else %} until round {{ family.split_after }}, then each group with its own. The groups are {% if family.exact %}the best{% else %}good ones, not proven the best,{% endif %} by what a step for a row's subtask took off the loss of a column's, in percent{% endif %}. Measuring took {{ at(family, "measuring_examples")|default(0, true)|counted("example") }} of training.</p>
{% if at(family, "affinity") %}
<div class="card scroll"><table>
<thead><tr><th>A step for …</th>{% for subtask in family.subtasks %}<th class="n">on {{ subtask }}</th>{% endfor %}</tr></thead><tbody>
{% for subtask in family.subtasks %}{% set row = loop.index0 %}
<tr><th class="name">{{ subtask }}</th>{% for _ in family.subtasks %}<td class="n">{{ affinity_cell(family, row, loop.index0) }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% endfor %}
{% for name, chain in (at(run, "chains") or {}).items() %}
{% if loop.first %}
<h3>One after the other</h3>
<p class="soft">A subtask that comes after others reads what their final models predict, never their true labels. End to end is its final model on all sites' test rows; ablated is the same model where upstream says its mean of every row: the difference is what upstream was worth to it.</p>
<div class="card scroll"><table class="wide">
<thead><tr><th>Subtask</th><th>After</th><th class="n">Level</th><th class="n">End to end</th><th class="n">Own</th><th class="n">Upstream ablated</th><th>Upstream, each on its own</th></tr></thead><tbody>
{% endif %}
<tr><th class="name">{{ name }} <span class="unit">{{ chain.metric|metric_name }}</span></th><td>{{ (at(chain, "after") or [])|join(", ") }}</td><td class="n">{{ at(chain, "level") }}</td><td class="n"><b>{{ at(chain, "end_to_end")|number }}</b></td><td class="n">{{ at(chain, "own")|number }}</td><td class="n">{{ at(chain, "ablated")|number }}</td><td>{% for above, own in (at(chain, "upstream") or {}).items() %}{{ above }} {{ at(own, "global")|number }} <span class="unit">{{ at(own, "metric")|metric_name }}</span>{{ ", " if not loop.last }}{% endfor %}</td></tr>
{% if loop.last %}
</tbody></table></div>
{% endif %}
{% endfor %}
<details class="paper"><summary>All methods and all metrics</summary>
<div class="grid">
{% for s in subtasks %}
<div class="card scroll"><h3>{{ marks.key(s) }}{{ s.name }}</h3>
<table><thead><tr><th>Method, {{ s.data.metric|metric_name }}</th><th class="n">Global</th><th>vs alone</th><th class="n">Own</th><th>vs alone</th></tr></thead><tbody>
{% for m in s.methods %}
<tr><td>{{ m.name }}</td><td class="n">{{ m.everywhere.value|number }}</td><td class="{{ '' if m.is_reference else m.everywhere.verdict.name|lower }}">{{ "" if m.is_reference else m.everywhere.verdict.value }}</td><td class="n">{{ m.own.value|number }}</td><td class="{{ '' if m.is_reference else m.own.verdict.name|lower }}">{{ "" if m.is_reference else m.own.verdict.value }}</td></tr>
{% endfor %}
</tbody></table>
{% set all_global = at(s.data, "collaboration_metrics", "global") or {} %}{% set all_own = at(s.data, "collaboration_metrics", "own") or {} %}
{% if all_global or all_own %}
<table style="margin-top: 14px"><thead><tr><th>Collaboration, metric</th><th class="n">Global</th><th class="n">Own</th></tr></thead><tbody>
{% for name in (all_global.keys()|list + all_own.keys()|list)|unique %}
<tr><td>{{ name|metric_name }} <span class="unit small">{{ name|metric_unit }}</span></td><td class="n">{{ all_global.get(name)|number }}</td><td class="n">{{ all_own.get(name)|number }}</td></tr>
{% endfor %}
</tbody></table>
{% endif %}
</div>
{% endfor %}
</div></details>
</section>

<section id="gains">
<h2>Who gained, who lost</h2>
<p class="soft">What each site would deploy against what it had alone, on its own test rows. The bar is ± one standard error of the paired difference; within it we do not call a difference. A hollow dot is a loss.</p>
<div class="grid two">
{% for s in subtasks %}
<div class="card"><h3>{{ marks.key(s) }}{{ s.name }} <span class="unit small">{{ s.data.metric|metric_name }}</span></h3>
{% if s.sites %}
<p class="small"><b class="{{ 'better' if s.count('better') else 'unclear' }}">{{ s.count("better") }} better</b>, <b class="{{ 'worse' if s.count('worse') else 'unclear' }}">{{ s.count("worse") }} worse</b>, <span class="soft">{{ s.count("unclear") }} unclear{% if s.count("not compared") %}, {{ s.count("not compared") }} not compared{% endif %}</span></p>
<div class="scroll"><table class="small">
<thead><tr><th>Site</th><th><span class="ends" style="width: 150px"><span>← worse</span><span>better →</span></span></th><th>Together against alone</th></tr></thead>
{% for result, w in s.sites %}
<tr><td class="name">{{ result.site }}</td><td class="mark">{% if w %}{{ marks.whisker(w, result) }}{% endif %}</td><td class="{{ result.own.verdict.name|lower }}" title="own {{ result.own.value|number }}, alone {{ result.own.alone|number }}, pooled {{ result.pooled|number }}">{{ result.own.words }}</td></tr>
{% endfor %}
</table></div>
{% else %}<p class="soft">No site has a result.</p>{% endif %}
</div>
{% endfor %}
</div>
</section>

<section id="curves">
<h2>How it got there</h2>
<p class="soft">The deciding metric on the sites' validation rows after each round: over the {{ clock }} time, then over the bytes sent and received.</p>
<div class="grid">
{% for s in subtasks %}
<figure class="card keep"><h3>{{ marks.key(s) }}{{ s.name }} <span class="unit small">{{ s.data.metric|metric_name }}, {{ "lower" if s.lower_is_better else "higher" }} is better</span></h3>
{% if s.by_seconds %}{{ marks.curve(s.by_seconds, s, s.seconds_unit, clock ~ " time") }}{% endif %}
{% if s.by_bytes %}{{ marks.curve(s.by_bytes, s, s.bytes_unit, "bytes up and down") }}{% endif %}
{% if not s.by_seconds and not s.by_bytes %}<p class="soft">Never aggregated, so there is no curve.</p>{% endif %}
<figcaption>{% if s.by_seconds %}Last value {{ s.by_seconds.last_label }}. {% endif %}{{ at(s.data, "kind")|default("kind unknown", true)|replace("_", " ")|capitalize }}, exchange of {{ at(s.data, "exchange")|default("nothing known", true)|replace("_", " ") }}.
{% if at(s.data, "target") is none %}No target was set.{% elif at(s.data, "rounds_to_target") is none %}Target {{ s.data.target|number }} was not reached.{% else %}Target {{ s.data.target|number }} reached in round {{ s.data.rounds_to_target }}, after {{ at(s.data, "seconds_to_target")|duration }} {{ clock }}.{% endif %}
{% set student = at(s.data, "student") %}{% if student and at(student, "accepted") %} The student of round {{ at(student, "round") }} (temperature {{ at(student, "temperature") }}) was accepted.{% elif student %} No student was accepted.{% endif %}
</figcaption></figure>
{% endfor %}
</div>
</section>

<section id="allocation">
<h2>Who was asked, and what came back</h2>
{% if timeline %}
<p class="soft">A box is one assignment; columns are rounds. Rest the pointer on a box to see why the site was chosen.</p>
<div class="card"><div class="scroll" style="margin-top: 0">{{ marks.grid(timeline) }}</div>
<p class="legend">
{% for s in subtasks %}<span class="ink">{{ marks.key(s) }}{{ s.name }}</span>{% endfor %}
{% for name in ["contributed", "late", "rejected", "lost", "silent"] + (["asked"] if unfulfilled|selectattr("outcome", "equalto", "asked")|list else []) %}<span><svg class="c-none" width="16" height="16">{{ marks.outcome({"x": 1, "y": 1, "width": 14, "height": 14, "outcome": name}) }}</svg>{{ name }}</span>{% endfor %}
</p></div>
{% if unfulfilled %}
<details{{ " open" if unfulfilled|length <= 20 }}><summary>{{ unfulfilled|length }} of {{ all_allocations|counted("assignment") }} did not end in a contribution: {% for kind in unfulfilled|groupby("outcome") %}{{ kind.list|length }} {{ kind.grouper }}{{ ", " if not loop.last }}{% endfor %}</summary>
<div class="scroll"><table class="wide small">
<thead><tr><th class="n">Round</th><th>Site</th><th>Subtask</th><th>Outcome</th><th>What happened</th><th>Why it was chosen</th></tr></thead><tbody>
{% for a in unfulfilled[:100] %}
<tr><td class="n">{{ a.round }}</td><td class="name">{{ a.site }}</td><td class="name">{{ a.subtask }}{% for name in a.together|default([]) if name != a.subtask %} <span class="soft">+ {{ name }}</span>{% endfor %}</td><td>{{ a.outcome }}{% if a.attempt|default(1) > 1 %} <span class="soft">attempt {{ a.attempt }}</span>{% endif %}</td><td class="text">{{ a.detail|default("") or "–" }}</td><td class="text soft">{{ a.reason|default("") or "–" }}</td></tr>
{% endfor %}
</tbody></table></div>
{% if unfulfilled|length > 100 %}<p class="soft small">The first 100 are shown; all are in <code>summary.json</code>.</p>{% endif %}
</details>
{% else %}<p class="small" style="margin-top: 12px">Every assignment ended in a contribution.</p>{% endif %}
<details><summary>All {{ all_allocations|counted("assignment") }}, with scores and reasons</summary>
<div class="scroll"><table class="wide small"><thead><tr><th class="n">Round</th><th>Site</th><th>Subtask</th><th>Outcome</th><th class="n">Score</th><th class="n">{{ clock|capitalize }}</th><th>Why it was chosen</th></tr></thead><tbody>
{% for a in allocations %}
<tr><td class="n">{{ a.round }}</td><td class="name">{{ a.site }}</td><td class="name">{{ a.subtask }}{% for name in a.together|default([]) if name != a.subtask %} <span class="soft">+ {{ name }}</span>{% endfor %}</td><td>{{ a.outcome }}{% if a.attempt|default(1) > 1 %} <span class="soft">attempt {{ a.attempt }}</span>{% endif %}</td><td class="n">{{ a.score|default(none)|number }}</td><td class="n">{{ a.seconds|default(none)|duration }}</td><td class="text soft">{{ a.reason|default("") or "–" }}</td></tr>
{% endfor %}
</tbody></table></div>
{% if all_allocations > allocations|length %}<p class="soft small">The first {{ allocations|length }} are shown; all are in <code>summary.json</code>.</p>{% endif %}
</details>
{% else %}<p class="soft">No site was asked for anything.</p>{% endif %}
</section>

<section id="sites">
<h2>Sites</h2>
<p class="soft">Effort and result of each site. Own is what the site would deploy, alone is what it would make without the others, both on the site's own test rows.</p>
<div class="card scroll"><table class="wide">
<thead><tr><th rowspan="2">Site</th><th rowspan="2" class="n">Assignments</th><th rowspan="2" class="n">Bytes up</th><th rowspan="2" class="n">Bytes down</th><th rowspan="2" class="n">{{ clock|capitalize }}</th>{% for s in subtasks %}<th colspan="3" class="group">{{ marks.key(s) }}{{ s.name }} <span class="unit">{{ s.data.metric|metric_name }}</span></th>{% endfor %}</tr>
<tr>{% for s in subtasks %}<th class="n">own</th><th class="n">alone</th><th></th>{% endfor %}</tr></thead><tbody>
{% for name, site in sites.items() %}
<tr><th class="name">{{ name }}</th><td class="n">{{ site.assignments|default("–") }}</td><td class="n">{{ site.bytes_up|default(none)|nbytes }}</td><td class="n">{{ site.bytes_down|default(none)|nbytes }}</td><td class="n">{{ site.simulated_s|default(none)|duration }}</td>
{% for s in subtasks %}{% set r = own_results[s.name].get(name) %}{% if r %}<td class="n">{{ r.own.value|number }}</td><td class="n soft">{{ r.own.alone|number }}</td><td class="{{ r.own.verdict.name|lower }}">{{ r.own.verdict.value }}</td>{% else %}<td class="n soft">–</td><td class="n soft">–</td><td></td>{% endif %}{% endfor %}</tr>
{% else %}<tr><td colspan="5" class="soft">No site took part.</td></tr>
{% endfor %}
</tbody></table></div>
</section>

<section id="fusion">
<h2>Fusion weights</h2>
<p class="soft">How much each candidate's output counts at prediction time. Least-squares weights are not negative and sum to 1.</p>
<div class="grid">
{% for s in subtasks %}
<div class="card"><h3>{{ marks.key(s) }}{{ s.name }} <span class="unit small">{{ at(s.data, "fusion", "rule")|default("not fused", true)|replace("_", " ") }}</span></h3>
{% if s.fusion %}
<dl class="bars c{{ s.colour }}">
{% for name, weight in s.fusion %}<dt>{{ "final model" if name == "final" else name }}</dt><dd><span class="bar" style="width: {{ (100 * [weight, 1.0]|min)|round(1) }}%"></span></dd><dd class="n">{{ weight|number }}</dd>
{% endfor %}</dl>
{% if s.fusion_zeros %}<p class="soft small" style="margin-top: 8px">Weight 0: {{ s.fusion_zeros|counted("other candidate") }}.</p>{% endif %}
{% else %}<p class="soft">{{ s.no_global|capitalize if s.no_global else "No fusion weights were fitted" }}.</p>{% endif %}
</div>
{% endfor %}
</div>
</section>

{% if calibrations %}
<section id="calibration">
<h2>Calibration</h2>
<p class="soft">How far a model's stated probabilities are from how often it is right (expected calibration error on test rows, 0 to 1, lower is better), before and after one temperature fitted on validation rows. Above 1 it makes a model less sure.</p>
<div class="card scroll"><table class="wide">
<thead><tr><th rowspan="2">Subtask</th><th colspan="3" class="group">Final model</th><th colspan="2" class="group">Sites' own models, mean</th></tr>
<tr><th class="n">temperature</th><th class="n">before</th><th class="n">after</th><th class="n">before</th><th class="n">after</th></tr></thead><tbody>
{% for s in subtasks if s.name in calibrations %}{% set c = s.data.calibration %}
<tr><th class="name">{{ marks.key(s) }}{{ s.name }}</th>{% if s.no_global and at(c, "ece", "final", "before") is none %}<td colspan="3" class="soft">{{ s.no_global }}</td>{% else %}<td class="n">{{ at(c, "temperature")|number }}</td><td class="n">{{ at(c, "ece", "final", "before")|number }}</td><td class="n">{{ at(c, "ece", "final", "after")|number }}</td>{% endif %}<td class="n">{{ at(c, "ece", "local", "before")|number }}</td><td class="n">{{ at(c, "ece", "local", "after")|number }}</td></tr>
{% endfor %}
</tbody></table></div>
</section>
{% endif %}

<section id="coverage">
<h2>Coverage</h2>
{% for line in coverage.lines %}<p{% if not loop.first or not coverage.lacking %} class="soft"{% endif %}>{{ line }}</p>
{% endfor %}
{% if coverage.sites %}
<div class="grid two">
<div class="card"><h3>Who was out</h3>
<div class="scroll"><table class="small"><thead><tr><th>Site</th><th class="n">Asked</th><th class="n">Out</th><th class="n">Examples, all times</th><th>Why</th></tr></thead><tbody>
{% for site in coverage.sites[:most_rows] %}<tr><th class="name">{{ site.site }}</th><td class="n">{{ site.asked }}</td><td class="n">{{ site.out }}</td><td class="n">{{ "{:,}".format(site.examples) }}</td><td>{{ site.words }}</td></tr>
{% endfor %}</tbody></table></div></div>
{% if coverage.classes %}
<div class="card"><h3>Which classes that thinned</h3>
<div class="scroll"><table class="small"><thead><tr><th>Class</th><th class="n">Missing, mean</th><th class="n">Worst</th><th class="n">In round</th><th class="n">Rounds</th><th class="n">Not known</th></tr></thead><tbody>
{% for c in coverage.classes[:most_rows] %}<tr><th class="name">{{ c.label }} <span class="unit">{{ c.subtask }}</span></th><td class="n">{{ c.mean|percent }}</td><td class="n">{{ c.worst|percent }}</td><td class="n">{{ "–" if c.worst_round is none else c.worst_round }}</td><td class="n">{{ c.rounds }}</td><td class="n">{{ c.unknown }}</td></tr>
{% endfor %}</tbody></table></div>
<p class="soft small" style="margin-top: 8px">Share of a class's examples among those first asked for; the mean is over all rounds of the subtask in which it is known. Not known: a site that tells a mask, or nothing, decides it.{% if coverage.classes|length > most_rows %} The first {{ most_rows }} of {{ coverage.classes|length }}.{% endif %}</p></div>
{% endif %}
</div>
{% endif %}
{% if coverage.lacking %}
<details{{ " open" if coverage.lacking|length <= 20 }}><summary>{{ coverage.lacking|length|counted("cohort") }} in which something was missing</summary>
<div class="scroll"><table class="small"><thead><tr><th class="n">Round</th><th>Subtask</th><th class="n">In</th><th class="n">Examples</th><th>Without</th><th>Missing of classes</th></tr></thead><tbody>
{% for c in coverage.lacking[:most_rows] %}<tr><td class="n">{{ c.round }}</td><td class="name">{{ c.subtask }}{% for name in c.together|default([]) if name != c.subtask %} <span class="soft">+ {{ name }}</span>{% endfor %}</td><td class="n">{{ c.contributed }} of {{ c.asked }}</td><td class="n">{{ c.examples_share|percent }}</td><td class="text">{% for one in c.out|default([]) %}{{ out_words(one) }}{{ "; " if not loop.last }}{% else %}{{ "nobody was asked" if not c.asked else "–" }}{% endfor %}{% if c.ended|default("merged") in ends %} <b>{{ ends[c.ended]|capitalize }}.</b>{% endif %}</td><td class="text soft">{{ class_words(c)|join(", ") or "–" }}</td></tr>
{% endfor %}</tbody></table></div>
{% if coverage.lacking|length > most_rows %}<p class="soft small">The first {{ most_rows }} are shown; all are in <code>summary.json</code>.</p>{% endif %}
</details>
{% endif %}
{% if coverage.figures %}
<details><summary>{{ coverage.figures|length|counted("validation figure") }} without the rows of some sites</summary><div class="scroll"><table class="small" style="max-width: 640px"><thead><tr><th class="n">Round</th><th>Subtask</th><th>Measured without</th></tr></thead><tbody>
{% for subtask, round, without in coverage.figures[:most_rows] %}<tr><td class="n">{{ round }}</td><td class="name">{{ subtask }}</td><td class="text">{{ without|join(", ") }}</td></tr>
{% endfor %}</tbody></table></div></details>
{% endif %}
{% if coverage.statements %}
<details><summary>Every round</summary><div class="scroll"><table class="small"><thead><tr><th class="n">Round</th><th>Subtask</th><th class="n">Asked</th><th class="n">Contributed</th><th class="n">Share of examples</th><th>Has it and was not asked</th></tr></thead><tbody>
{% for c in coverage.statements %}<tr><td class="n">{{ c.round }}</td><td class="name">{{ c.subtask }}</td><td class="n">{{ c.asked }}</td><td class="n">{{ c.contributed }}</td><td class="n">{{ c.examples_share|percent }}</td><td class="text soft">{% for why, said in (c.not_asked|default({})).items() %}{{ said.named|join(", ") }}{% if said.sites > said.named|length %} and {{ said.sites - said.named|length }} more{% endif %}: {{ not_asked.get(why, why) }}{{ "; " if not loop.last }}{% else %}–{% endfor %}</td></tr>
{% endfor %}</tbody></table></div></details>
{% endif %}
</section>

{% if notes %}
<section id="notes"><h2>Notes</h2><ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul></section>
{% endif %}
</main>
<footer><div><dl>
<dt>Run</dt><dd>{{ run.run_id }}</dd>
<dt>Seed</dt><dd>{{ run.seed }}</dd>
<dt>Versions</dt><dd>{% for name, version in (at(run, "versions") or {}).items() %}{{ name }} {{ version }}{{ ", " if not loop.last }}{% endfor %}</dd>
<dt>Models</dt><dd>{% for s in subtasks %}{{ s.name }}: {% for model in (at(s.data, "models") or {}).values()|unique %}{{ model }}{{ ", " if not loop.last }}{% else %}–{% endfor %}{{ "; " if not loop.last }}{% endfor %}</dd>
<dt>Methods</dt><dd>{% for s in subtasks %}{{ s.name }}: {{ at(s.data, "exchange")|default("–", true)|replace("_", " ") }}{% for what, chosen in (at(s.data, "methods") or {}).items() if chosen %}, {{ what }} {{ chosen|replace("_", " ") }}{% endfor %}{{ "; " if not loop.last }}{% endfor %}</dd>
<dt>Replay</dt><dd><code>consilium replay RUN_DIR</code>, where RUN_DIR is the folder that holds this page</dd>
<dt>Scope</dt><dd>Metrics are measured on the test rows of the sites of this run. They say nothing about other patients, scanners or hospitals.</dd>
</dl></div></footer>
</body>
</html>
"""
