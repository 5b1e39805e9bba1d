// A section of tasks: choosing the task, the methods and the hyper-parameter; drawn when it comes into view.

function panel(section) {
  const find = (selector) => section.querySelector(selector);
  const [task, hyperparameter, legend] = [find(".setting"), find(".hyperparameter"), find(".legend")];
  const chosen = new Map(); // method -> shown or not, where the reader said so; it outlasts a change of task
  const setting = () => figures.settings[task.value];
  const methods = () => Object.keys(setting().scores);
  const shown = () => methods().filter((method) => chosen.get(method) ?? setting().shown.includes(method));

  const tuned = (names) => names.filter((method) => !figures.bounds.includes(method)); // a bound has nothing to tune

  const redraw = whenSeen(find(".plots"), () => {
    drawFrontier(find(".frontier"), setting(), shown());
    drawSensitivity(find(".sensitivity"), setting(), tuned(shown()), hyperparameter.value);
  });

  function fillLegend() {
    const visible = shown();
    givePlaces(visible);
    legend.replaceChildren(...methods().map((method, index) => {
      const button = document.createElement("button");
      const area = document.createElement("span");
      area.textContent = setting().scores[method].area;
      button.type = "button";
      button.ariaPressed = visible.includes(method);
      button.append(swatch(style(method)), method, area);
      button.addEventListener("click", () => {
        const show = button.ariaPressed !== "true";
        chosen.set(method, show);
        fillLegend();
        redraw();
        legend.children[index].focus();
      });
      return button;
    }));
  }

  function fillHyperparameters() {
    const names = tuned(methods()).flatMap((method) => Object.keys(setting().scores[method].trials.values));
    const before = hyperparameter.value;
    const options = ["", ...new Set(names)].map((name) => new Option(name || "each method's own first, as beta", name, false, name === before));
    hyperparameter.replaceChildren(...options);
  }

  function changeTask() {
    fillLegend();
    fillHyperparameters();
    section.querySelectorAll(".of-setting").forEach((part) => (part.hidden = part.dataset.setting !== task.value));
    redraw();
  }

  task.addEventListener("change", changeTask);
  hyperparameter.addEventListener("change", redraw);
  document.addEventListener("theme", fillLegend);
  section.querySelectorAll(".choose button").forEach((button) => button.addEventListener("click", () => {
    chosen.clear();
    if (button.value !== "default") methods().forEach((method) => chosen.set(method, button.value === "all"));
    fillLegend();
    redraw();
  }));
  changeTask();
}

document.querySelectorAll("section.panel").forEach(panel);

const heatMap = document.querySelector(".heat-map");
if (heatMap) {
  sizeHeatMap(heatMap, figures.heat_map);
  whenSeen(heatMap, async () => {
    await drawHeatMap(heatMap, figures.heat_map);
    heatMap.removeAllListeners("plotly_click");
    heatMap.on("plotly_click", ({ points: [point] }) => {
      const task = document.querySelector("#tasks .setting");
      task.selectedIndex = point.x;
      task.dispatchEvent(new Event("change"));
      task.closest("section").scrollIntoView();
    });
  });
}
