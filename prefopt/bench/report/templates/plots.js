// From the figures' values to plotly's traces.

const symbols = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "pentagon"];

const places = new Map(); // method -> place among colours; given when first shown, and then kept on the whole page

function givePlaces(methods) {
  const { length } = palettes.light;
  for (const method of methods.filter((name) => !places.has(name) && !figures.bounds.includes(name))) {
    const taken = methods.filter((name) => places.has(name)).map((name) => places.get(name) % length);
    const uses = Array.from({ length }, (_, colour) => taken.filter((each) => each === colour).length);
    let place = uses.indexOf(Math.min(...uses));
    while ([...places.values()].includes(place)) place += length;
    places.set(method, place);
  }
}

function style(method) {
  const bound = figures.bounds.indexOf(method);
  if (bound >= 0) return { colour: look().quiet, dash: dashes[(bound + 1) % dashes.length], symbol: symbols[bound % symbols.length] };
  if (!places.has(method)) return { colour: look().quiet, dash: "solid", symbol: "circle" };
  const palette = palettes[theme.dark ? "dark" : "light"];
  const round = Math.floor(places.get(method) / palette.length);
  return { colour: palette[places.get(method) % palette.length], dash: dashes[round % dashes.length], symbol: symbols[round % symbols.length] };
}

function band(kl, { low, high }, colour) {
  return {
    x: [...kl, ...kl.toReversed()], y: [...high, ...low.toReversed()],
    mode: "lines", line: { width: 0 }, fill: "toself", fillcolor: colour, opacity: 0.16, hoverinfo: "skip",
  };
}

function curve(kl, { gain }, name, line) {
  const hovertemplate = `<b>${plain(name)}</b><br>KL %{x:.3f} nats<br>reward %{y:.3f} above the reference<extra></extra>`;
  return { x: kl, y: gain, mode: "lines", line, name: plain(name), hovertemplate };
}

const cellsOf = (cells) => (cells.length ? `<br>cells ${cells.map(plain).join("<br>")}` : "");

function selected(method, { points, trials, cells }, { colour, symbol }) {
  return {
    x: points.kl, y: points.gain, text: points.trial.map((trial, index) => `trial ${trial}, step ${points.step[index]}<br>${wrapped(trials.text[trial])}`),
    mode: "markers", marker: { color: colour, symbol, size: 8, line: { color: look().paper, width: 1 } }, name: plain(method),
    hovertemplate: `<b>${plain(method)}</b><br>KL %{x:.3f} nats<br>reward %{y:.3f} above the reference<br>%{text}${cellsOf(cells)}<extra></extra>`,
  };
}

function drawFrontier(element, { kl, max_kl, optimum, scores }, methods) {
  const shown = methods.map((method) => ({ method, score: scores[method], look: style(method) }));
  const withBand = shown.filter(({ method, score }) => score.frontier.low && !figures.bounds.includes(method));
  const bands = withBand.map(({ score, look }) => band(kl, score.frontier, look.colour));
  const curves = shown.map(({ method, score, look }) => curve(kl, score.frontier, method, { color: look.colour, dash: look.dash, width: 2 }));
  const points = shown.map(({ method, score, look }) => selected(method, score, look));
  const { ink } = look();
  if (optimum) curves.unshift(curve(kl, optimum, "optimum (nobody can beat it)", { color: ink, width: 2.5 }));
  if (optimum?.low) bands.unshift(band(kl, optimum, ink));
  const plan = layout("KL(policy || reference), nats", "reward above the reference's");
  plan.xaxis.range = [-0.02 * max_kl, 1.04 * max_kl];
  return Plotly.react(element, [...bands, ...curves, ...points], plan, config);
}

const ownFirst = (trials) => Object.keys(trials.values).find((name) => name !== "learning_rate");

function drawSensitivity(element, { has_optimum, scores }, methods, name) {
  const { paper } = look();
  const traces = methods.filter((method) => (name || ownFirst(scores[method].trials)) in scores[method].trials.values).map((method) => {
    const { trials, cells } = scores[method];
    const { colour, symbol } = style(method);
    return {
      x: trials.values[name || ownFirst(trials)], y: trials.area, mode: "markers", name: plain(method),
      text: trials.text.map((text, index) => `trial ${index}${trials.selected[index] ? ", selected" : ""}<br>${wrapped(text)}`),
      marker: { symbol, size: 8, color: trials.selected.map((chosen) => (chosen ? colour : paper)), line: { color: colour, width: 1.5 } },
      hovertemplate: `<b>${plain(method)}</b><br>area %{y:.3f}<br>%{text}${cellsOf(cells)}<extra></extra>`,
    };
  });
  const plan = layout(name ? plain(name) : "beta, or what the method has in its place", has_optimum ? "area ratio" : "mean gain");
  const positive = traces.every(({ x }) => x.every((value) => value === null || value > 0));
  Object.assign(plan.xaxis, positive ? { type: "log", dtick: 1 } : { type: "linear" });
  return Plotly.react(element, traces, plan, config);
}

// The colours of cividis, after Nunez, Anderton and Renslow; closer together near 1, where most methods are.
const cividis = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];
const colorscale = cividis.map((colour, index) => [(index / (cividis.length - 1)) ** 0.45, colour]);

// Known before it is drawn, so that nothing below moves when it is.
function sizeHeatMap(element, { methods, settings }) {
  element.style.height = `${170 + 20 * methods.length}px`;
  element.style.width = `${Math.max(360, 220 + 56 * settings.length)}px`;
}

function drawHeatMap(element, { methods, settings, cells }) {
  const { ink, quiet } = look();
  const text = cells.map((row, r) => row.map((cell, s) => `<b>${plain(methods[r])}</b> on ${plain(settings[s])}<br>${wrapped(cell.text)}${cellsOf(cell.cells)}`));
  const absent = cells.flatMap((row, r) => row.map((cell, s) => ({ ...cell, r, s, text: text[r][s] }))).filter(({ area }) => area === null);
  const plan = layout("", "");
  Object.assign(plan.xaxis, { side: "top", tickvals: settings.map((_, index) => index), ticktext: settings.map(plain), tickangle: -40, showgrid: false, zeroline: false, range: [-0.5, settings.length - 0.5] });
  Object.assign(plan.yaxis, { tickvals: methods.map((_, index) => index), ticktext: methods.map(plain), showgrid: false, zeroline: false, range: [methods.length - 0.5, -0.5] });
  const map = {
    type: "heatmap", z: cells.map((row) => row.map(({ area }) => area)), text, hovertemplate: "%{text}<extra></extra>", hoverongaps: false,
    zmin: 0, zmax: 1, colorscale, xgap: 1, ygap: 1, colorbar: { thickness: 10, outlinewidth: 0, tickfont: { color: quiet }, title: { text: "area ratio", font: { color: quiet } } },
  };
  const crosses = {
    x: absent.map(({ s }) => s), y: absent.map(({ r }) => r), mode: "markers", customdata: absent.map(({ text }) => text), hovertemplate: "%{customdata}<extra></extra>",
    marker: { symbol: absent.map(({ failed }) => (failed ? "x-thin" : "line-ew")), size: 9, color: ink, line: { color: ink, width: 1.5 } },
  };
  return Plotly.react(element, [map, crosses], plan, { ...config, displayModeBar: false });
}
