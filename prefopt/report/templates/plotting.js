// What the plots of every page share: the page's data, its colours, a plain layout, drawing when seen.

const figures = JSON.parse(document.getElementById("figures").textContent);

// After Okabe and Ito, told apart by the colour-blind; beyond six lines dashes and symbols tell them apart.
const palettes = {
  light: ["#0072b2", "#d55e00", "#009e73", "#b8578f", "#b87a00", "#3d9bd0"],
  dark: ["#4c9be8", "#ff8f57", "#35c49b", "#e59ac6", "#efb53e", "#a5dcf7"],
};
const dashes = ["solid", "dash", "dot", "dashdot", "longdash"];

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
    margin: { l: 8, r: 12, t: 30, b: 8 }, xaxis: titled(x), yaxis: titled(y),
  };
}

const config = { responsive: true, displaylogo: false, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] }; // not the one that uploads

function whenSeen(element, draw) {
  let seen = false;
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    seen = true;
    draw();
  }, { rootMargin: "300px" }).observe(element);
  const redraw = () => seen && draw();
  document.addEventListener("theme", redraw);
  return redraw;
}

function swatch({ colour, dash }) {
  const pattern = { solid: "", dash: "6 4", dot: "2 3", dashdot: "6 3 2 3", longdash: "10 4" }[dash];
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("width", 20);
  svg.setAttribute("height", 8);
  const line = document.createElementNS(svg.namespaceURI, "line");
  Object.entries({ x1: 0, x2: 20, y1: 4, y2: 4, stroke: colour, "stroke-width": 2.5, "stroke-dasharray": pattern }).forEach(([key, number]) => line.setAttribute(key, number));
  svg.append(line);
  return svg;
}
