// The curves of all runs, plot by plot: smoothing, the axis they stand against, which runs are shown.

const smoothing = document.getElementById("smoothing");
const axis = document.getElementById("axis");
const legend = document.querySelector(".legend");
const hidden = new Set(); // runs the reader has switched off
const axes = { step: "step", rows: "rows", seconds: "seconds of training" };

// Runs beyond the colours there are take other dashes; within a run the first line and the second differ.
const dashesOfRound = [["solid", "dash"], ["dot", "dashdot"], ["longdash", "longdashdot"]];

function style(run) {
  const palette = palettes[theme.dark ? "dark" : "light"];
  const round = Math.floor(run / palette.length) % dashesOfRound.length;
  return { colour: palette[run % palette.length], dashes: dashesOfRound[round] };
}

// A mean that forgets: each value counts `memory` times what the next one does; the start is not drawn towards 0.
function smoothed(values, memory) {
  let [sum, weight] = [0, 0];
  return values.map((value) => {
    if (value === null) return null;
    sum = memory * sum + value;
    weight = memory * weight + 1;
    return sum / weight;
  });
}

const named = ({ label }, { side }) => plain(side ? `${label}, ${side}` : label);
const scaled = (values, scale) => (scale === 1 ? values : values.map((value) => (value === null ? null : value / scale)));

function curves(panel) {
  const memory = panel.noisy ? Number(smoothing.value) : 0;
  return figures.runs.flatMap((run, index) => (hidden.has(index) ? [] : panel.lines.flatMap((line, place) => {
    const raw = run.lines[line.key];
    if (!raw) return [];
    const { colour, dashes } = style(index);
    const x = run.x[axis.value];
    const y = scaled(raw, panel.scale);
    const mode = y.length === 1 ? "markers" : "lines";
    const drawn = { x, y: smoothed(y, memory), mode, name: named(run, line), line: { color: colour, dash: dashes[place], width: 1.75 }, marker: { color: colour }, hovertemplate: "%{y:.5~g}" };
    if (!memory) return [drawn];
    return [{ x, y, mode, line: { color: colour, width: 1 }, opacity: 0.22, hoverinfo: "skip" }, drawn];
  })));
}

function evaluations(panel) {
  const [{ key }] = panel.lines;
  return figures.runs.flatMap((run, index) => {
    const found = run.held_out.lines[key];
    if (!found || hidden.has(index)) return [];
    const { colour, dashes } = style(index);
    const ends = found.interval.map((interval, place) => (interval ? interval.map((end) => Math.abs(end - found.y[place])) : [0, 0]));
    const known = found.interval.some(Boolean);
    const error = { type: "data", symmetric: false, arrayminus: ends.map(([low]) => low), array: ends.map(([, high]) => high), color: colour, thickness: 1, width: 3, visible: known };
    const customdata = found.interval.map((interval) => (interval ? ` [${interval.map((end) => end.toFixed(3)).join(", ")}]` : ""));
    return [{ x: run.held_out.x[axis.value], y: found.y, customdata, error_y: error, mode: "lines+markers", name: named(run, { side: "" }), line: { color: colour, dash: dashes[0], width: 1.75 }, marker: { color: colour, size: 6 }, hovertemplate: "%{y:.5~g}%{customdata}" }];
  });
}

function draw(element, panel) {
  const plan = layout(axes[axis.value], panel.unit);
  Object.assign(plan, { hovermode: "x unified", margin: { l: 8, r: 8, t: 8, b: 8 } });
  plan.xaxis.hoverformat = axis.value === "seconds" ? ",.1f" : ",d";
  plan.xaxis.unifiedhovertitle = { text: `${axes[axis.value]} %{x}` };
  plan.xaxis.rangemode = "tozero";
  plan.yaxis.exponentformat = "e";
  if (panel.ends) plan.yaxis.range = panel.ends;
  plan.uirevision = axis.value; // a zoom outlasts smoothing and switching, not another axis
  return Plotly.react(element, panel.held_out ? evaluations(panel) : curves(panel), plan, { ...config, displayModeBar: false });
}

const redraws = [...document.querySelectorAll(".plot")].map((element) => whenSeen(element, () => draw(element, figures.panels[element.dataset.panel])));
const redraw = () => redraws.forEach((each) => each());

function fillLegend() {
  legend.replaceChildren(...figures.runs.map(({ label }, index) => {
    const button = document.createElement("button");
    const { colour, dashes: [dash] } = style(index);
    button.type = "button";
    button.ariaPressed = !hidden.has(index);
    button.append(swatch({ colour, dash }), label);
    button.addEventListener("click", () => {
      hidden.has(index) ? hidden.delete(index) : hidden.add(index);
      fillLegend();
      redraw();
      legend.children[index].focus();
    });
    return button;
  }));
  document.querySelectorAll(".swatch").forEach((element) => {
    const { colour, dashes: [dash] } = style(Number(element.dataset.run));
    element.replaceChildren(swatch({ colour, dash }));
  });
}

smoothing.addEventListener("input", () => {
  document.querySelector("output[for=smoothing]").textContent = Number(smoothing.value).toFixed(2);
  redraw();
});
axis.addEventListener("change", redraw);
document.addEventListener("theme", fillLegend);
fillLegend();
