"use strict";

// Light or dark: as the system says, until the button is pressed.

const theme = {
  system: matchMedia("(prefers-color-scheme: dark)"),
  button: document.getElementById("theme"),
  get dark() {
    return (document.documentElement.dataset.theme ?? (this.system.matches ? "dark" : "light")) === "dark";
  },
  announce() {
    this.button.textContent = this.dark ? "light" : "dark";
    document.dispatchEvent(new Event("theme"));
  },
};

theme.button.addEventListener("click", () => {
  document.documentElement.dataset.theme = theme.dark ? "light" : "dark";
  theme.announce();
});
theme.system.addEventListener("change", () => theme.announce());
theme.announce();
