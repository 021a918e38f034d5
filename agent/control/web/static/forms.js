// Forms: the variables of the chosen queue are shown, and what was checked gets the focus.

function showVariables(select) {
  for (const set of select.form.querySelectorAll("fieldset[data-queue]")) {
    const chosen = set.dataset.queue === select.value;
    set.hidden = !chosen;
    set.disabled = !chosen;
  }
}

for (const select of document.querySelectorAll("select[data-queues]")) {
  showVariables(select);
  select.addEventListener("change", () => showVariables(select));
}

document.querySelector("[data-focus]")?.focus();
