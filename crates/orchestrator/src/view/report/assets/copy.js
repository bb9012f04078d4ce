// Commands that can be copied. The page works without.
"use strict";

for (const button of document.querySelectorAll(".copy")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const code = button.parentElement.querySelector("code");
    getSelection().selectAllChildren(code);
    navigator.clipboard?.writeText(code.textContent).catch(() => {});
  });
}
