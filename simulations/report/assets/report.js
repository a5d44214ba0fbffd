/* The page's behaviour: sortable tables, the light and dark scheme, and the timeline of the chosen row
   and target. All numbers come from the two data blocks in the page; nothing is fetched. */
"use strict";
(() => {
  const block = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = block("figures");
  const data = block("timelines");
  const chosen = { row: figures.row, target: 0 };
  const config = {
    displaylogo: false, responsive: true, displayModeBar: "hover",
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
  };
  const timeline = document.getElementById("timeline");

  /* Colours: "$name" in a figure is the style sheet's variable --name. */
  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  function coloured(value) {
    if (typeof value === "string" && value.startsWith("$")) return variable(value.slice(1)) || value;
    if (Array.isArray(value)) return value.map(coloured);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v)]));
    }
    return value;
  }
  function themed(layout) {
    const look = coloured(layout);
    for (const key of Object.keys(look)) {
      if (/^[xy]axis\d*$/.test(key)) {
        const rule = variable("rule");
        look[key] = { gridcolor: rule, linecolor: rule, zerolinecolor: rule, ...look[key] };
      }
    }
    return {
      ...look,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: variable("ink"), size: 12, family: getComputedStyle(document.body).fontFamily },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: variable("muted"), activecolor: variable("ink") },
      hoverlabel: { bgcolor: variable("card"), bordercolor: variable("rule"), font: { color: variable("ink") } },
    };
  }

  /* Timelines: unpack the shared arrays and fill the template. */
  function unpacked(index, points) {
    const values = data.arrays[index];
    return values.length === 1 && points > 1 ? new Array(points).fill(values[0]) : values;
  }
  function series(row, name, trace) {
    if (name === "constant") return new Array(row.points).fill(trace.value);
    const index = name.startsWith("gpus.") ? row.gpus[name.slice(5)] : row.targets[chosen.target][name];
    return index === undefined ? null : unpacked(index, row.points);
  }
  function times(row) {
    const end_s = row.start_s + row.step_s * row.points;
    const unit = end_s > 3 * 3600 ? ["hours", 3600] : end_s > 600 ? ["minutes", 60] : ["seconds", 1];
    const x = Array.from({ length: row.points }, (_, i) => (row.start_s + i * row.step_s) / unit[1]);
    return [x, unit[0] + " from the start of the replay"];
  }
  function filled(row) {
    const [x, axis] = times(row);
    const traces = [];
    for (const trace of figures.timeline.data) {
      const y = series(row, trace.series, trace);
      // Nothing known, or a state that this row never knew: no line, no legend.
      if (!y || y.every((v) => v === null) || (trace.stackgroup && y.every((v) => !v))) continue;
      const one = { ...coloured(trace), x, y };
      delete one.series; delete one.value; delete one.extra;
      if (trace.hoverinfo !== "skip") one.hovertemplate = "%{y:,.4~g}";
      if (trace.extra) {
        one.customdata = series(row, trace.extra, trace);
        one.hovertemplate = "%{y:,.4~g} (%{customdata:,.4~g} requests/s)";
      }
      traces.push(one);
    }
    const layout = themed(figures.timeline.layout);
    layout.xaxis.title = { text: axis };
    layout.uirevision = "keep the zoom";
    return [traces, layout];
  }
  function drawTimeline() {
    const row = data.rows[chosen.row];
    const note = document.getElementById("no-series");
    note.hidden = row.points !== undefined;
    timeline.hidden = !note.hidden;
    if (note.hidden) Plotly.react(timeline, ...filled(row), config);
  }

  function draw() {
    for (const [id, figure] of Object.entries(figures.still)) {
      Plotly.react(document.getElementById(id), coloured(figure.data), themed(figure.layout), config);
    }
    if (data.rows.length) drawTimeline();
  }

  /* Tables: a click on a heading sorts within each group; unknown values stay last. */
  function sortBy(heading) {
    const table = heading.closest("table");
    const column = [...heading.parentNode.children].indexOf(heading);
    const first = heading.classList.contains("word") ? "ascending" : "descending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = heading.getAttribute("aria-sort") === first ? other : first;
    for (const h of heading.parentNode.children) h.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    for (const body of table.tBodies) {
      const key = (tr) => tr.children[column].dataset.v;
      const rows = [...body.rows].sort((a, b) => {
        const [p, q] = [key(a), key(b)];
        if (p === "" || q === "") return (p === "") - (q === "");
        return sign * (heading.classList.contains("word") ? p.localeCompare(q) : p - q);
      });
      body.append(...rows);
    }
  }

  function setScheme(dark) {
    document.documentElement.dataset.scheme = dark ? "dark" : "light";
    document.getElementById("scheme").textContent = dark ? "Light" : "Dark";
    draw();
  }

  document.addEventListener("click", (event) => {
    const heading = event.target.closest("th");
    if (heading && heading.closest("table.sortable")) sortBy(heading);
    const tab = event.target.closest("[data-target]");
    if (tab) {
      chosen.target = Number(tab.dataset.target);
      for (const t of document.querySelectorAll("[data-target]")) t.setAttribute("aria-pressed", String(t === tab));
      drawTimeline();
    }
  });
  const picker = document.getElementById("row-picker");
  if (picker) {
    picker.addEventListener("change", () => { chosen.row = Number(picker.value); drawTimeline(); });
  }
  document.getElementById("scheme").addEventListener("click", () => {
    setScheme(document.documentElement.dataset.scheme !== "dark");
  });
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  system.addEventListener("change", () => setScheme(system.matches));
  setScheme(system.matches);
})();
