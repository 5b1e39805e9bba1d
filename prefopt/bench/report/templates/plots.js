// From the figures' values to plotly's traces.

const figures = JSON.parse(document.getElementById("figures").textContent);

// After Okabe and Ito, told apart by the colour-blind; beyond six methods dashes and symbols tell them apart.
const palettes = {
  light: ["#0072b2", "#d55e00", "#009e73", "#b8578f", "#b87a00", "#3d9bd0"],
  dark: ["#4c9be8", "#ff8f57", "#35c49b", "#e59ac6", "#efb53e", "#a5dcf7"],
};
const dashes = ["solid", "dash", "dot", "dashdot", "longdash"];
const symbols = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "pentagon"];

function look() {
  const style = getComputedStyle(document.body);
  const probe = (name) => {
    const element = document.createElement("i");
    element.style.color = `var(${name})`;
    document.body.append(element);
    const colour = getComputedStyle(element).color;
    element.remove();
    return colour;
  };
  return { ink: style.color, paper: style.backgroundColor, quiet: probe("--quiet"), rule: probe("--rule"), font: style.fontFamily };
}

function style(method) {
  if (figures.bounds.includes(method)) {
    const index = figures.bounds.indexOf(method);
    return { colour: look().quiet, dash: dashes[(index + 1) % dashes.length], symbol: symbols[index % symbols.length] };
  }
  const index = figures.methods.filter((name) => !figures.bounds.includes(name)).indexOf(method);
  const palette = palettes[theme.dark ? "dark" : "light"];
  const round = Math.floor(index / palette.length);
  return { colour: palette[index % palette.length], dash: dashes[round % dashes.length], symbol: symbols[round % symbols.length] };
}

// plotly reads some HTML in texts; names and reasons are to be shown as they are.
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const wrapped = (text) => (String(text).match(/.{1,60}(\s|$)|\S{60}/g) ?? []).map(plain).join("<br>");

function layout(x, y) {
  const { ink, paper, quiet, rule, font } = look();
  const axis = { gridcolor: rule, linecolor: rule, zerolinecolor: rule, tickfont: { color: quiet }, automargin: true };
  const titled = (title) => ({ ...axis, title: { text: title, font: { color: quiet, size: 12 }, standoff: 8 } });
  return {
    paper_bgcolor: paper, plot_bgcolor: paper, font: { family: font, size: 12, color: ink }, showlegend: false, hovermode: "closest",
    hoverlabel: { bgcolor: paper, bordercolor: quiet, font: { color: ink, family: font, size: 12 }, align: "left" },
    margin: { l: 8, r: 12, t: 8, b: 8 }, xaxis: titled(x), yaxis: titled(y),
  };
}

const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

function band(frontier, colour) {
  return {
    x: [...frontier.kl, ...frontier.kl.toReversed()], y: [...frontier.high, ...frontier.low.toReversed()],
    mode: "lines", line: { width: 0 }, fill: "toself", fillcolor: colour, opacity: 0.16, hoverinfo: "skip",
  };
}

function curve(name, frontier, line) {
  const hovertemplate = `<b>${plain(name)}</b><br>KL %{x:.3f} nats<br>reward %{y:.3f} above the reference<extra></extra>`;
  return { x: frontier.kl, y: frontier.gain, mode: "lines", line, name: plain(name), hovertemplate };
}

function selected(method, score, { colour, symbol }) {
  const text = score.points.map((point) => `${wrapped(point.trial)}<br>${wrapped(point.hyperparameters)}`);
  return {
    x: score.points.map((point) => point.kl), y: score.points.map((point) => point.gain), text,
    mode: "markers", marker: { color: colour, symbol, size: 8, line: { color: look().paper, width: 1 } }, name: plain(method),
    hovertemplate: `<b>${plain(method)}</b><br>KL %{x:.3f} nats<br>reward %{y:.3f} above the reference<br>%{text}<br>cells ${score.cells.map(plain).join("<br>")}<extra></extra>`,
  };
}

function drawFrontier(element, setting, methods) {
  const { ink } = look();
  const shown = methods.map((method) => [method, setting.scores[method], style(method)]);
  const bands = shown.filter(([, score]) => score.frontier.low).map(([, score, { colour }]) => band(score.frontier, colour));
  const curves = shown.map(([method, score, { colour, dash }]) => curve(method, score.frontier, { color: colour, dash, width: 2 }));
  const points = shown.map(([method, score, look]) => selected(method, score, look));
  if (setting.optimum) curves.unshift(curve("optimum (nobody can beat it)", setting.optimum, { color: ink, width: 2.5 }));
  const plan = layout("KL(policy || reference), nats", "reward above the reference's");
  plan.xaxis.range = [-0.02 * setting.max_kl, 1.04 * setting.max_kl];
  Plotly.react(element, [...bands, ...curves, ...points], plan, config);
}

function hyperparameterOf(trial, name) {
  const own = Object.keys(trial.hyperparameters).find((each) => each !== "learning_rate");
  return trial.hyperparameters[name || own];
}

function drawSensitivity(element, setting, methods, name) {
  const { paper } = look();
  const traces = methods.map((method) => {
    const score = setting.scores[method];
    const { colour, symbol } = style(method);
    const trials = score.trials.map((trial, index) => ({ ...trial, index, x: hyperparameterOf(trial, name) })).filter(({ x }) => x !== undefined);
    const about = ({ index, hyperparameters, selected }) =>
      `trial ${index}${selected ? ", selected" : ""}<br>${Object.entries(hyperparameters).map(([key, number]) => `${plain(key)} ${Number(number.toPrecision(4))}`).join("<br>")}`;
    return {
      x: trials.map(({ x }) => x), y: trials.map(({ area }) => area), text: trials.map(about), mode: "markers", name: plain(method),
      marker: { symbol, size: 8, color: trials.map(({ selected }) => (selected ? colour : paper)), line: { color: colour, width: 1.5 } },
      hovertemplate: `<b>${plain(method)}</b><br>area %{y:.3f}<br>%{text}<br>cells ${score.cells.map(plain).join("<br>")}<extra></extra>`,
    };
  });
  const plan = layout(name ? plain(name) : "beta, or what the method has in its place", setting.has_optimum ? "area ratio" : "mean gain");
  plan.xaxis.type = traces.every(({ x }) => x.every((number) => number > 0)) ? "log" : "linear";
  if (plan.xaxis.type === "log") plan.xaxis.dtick = 1;
  Plotly.react(element, traces, plan, config);
}

function drawHeatMap(element, { methods, settings, cells }) {
  const { ink, paper, quiet } = look();
  const text = cells.map((row, r) => row.map((cell, s) => `<b>${plain(methods[r])}</b> on ${plain(settings[s])}<br>${wrapped(cell.text)}<br>${cell.cells.length ? `cells ${cell.cells.map(plain).join("<br>")}` : ""}`));
  const absent = cells.flatMap((row, r) => row.map((cell, s) => ({ ...cell, r, s, text: text[r][s] }))).filter(({ area }) => area === null);
  const plan = layout("", "");
  Object.assign(plan.xaxis, { side: "top", tickvals: settings.map((_, index) => index), ticktext: settings.map(plain), tickangle: -40, showgrid: false, zeroline: false, range: [-0.5, settings.length - 0.5] });
  Object.assign(plan.yaxis, { tickvals: methods.map((_, index) => index), ticktext: methods.map(plain), showgrid: false, zeroline: false, range: [methods.length - 0.5, -0.5] });
  element.style.height = `${170 + 20 * methods.length}px`;
  element.style.width = `${Math.max(360, 220 + 56 * settings.length)}px`;
  const map = {
    type: "heatmap", z: cells.map((row) => row.map(({ area }) => area)), text, hovertemplate: "%{text}<extra></extra>", hoverongaps: false,
    zmin: 0, zmax: 1, colorscale: "Cividis", xgap: 1, ygap: 1, colorbar: { thickness: 10, outlinewidth: 0, tickfont: { color: quiet }, title: { text: "area ratio", font: { color: quiet } } },
  };
  const crosses = {
    x: absent.map(({ s }) => s), y: absent.map(({ r }) => r), mode: "markers", customdata: absent.map(({ text }) => text), hovertemplate: "%{customdata}<extra></extra>",
    marker: { symbol: absent.map(({ failed }) => (failed ? "x-thin" : "line-ew")), size: 9, color: ink, line: { color: ink, width: 1.5 } },
  };
  return Plotly.react(element, [map, crosses], { ...plan, plot_bgcolor: paper }, config);
}
