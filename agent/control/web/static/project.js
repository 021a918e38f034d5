// Choosing runs for the charts: the address keeps the choice, and the page fetches its regions.

document.addEventListener("change", (event) => {
  if (!event.target.matches("[data-chart-run]")) return;
  const address = new URL(location.href);
  address.searchParams.delete("run");
  const chosen = [...document.querySelectorAll("[data-chart-run]:checked")];
  // An empty one means that none is chosen.
  for (const value of chosen.length ? chosen.map((each) => each.value) : [""]) address.searchParams.append("run", value);
  history.replaceState(null, "", address);
  for (const link of document.querySelectorAll("#runs a[href^='?']")) {
    const there = new URL(link.href);
    there.searchParams.delete("run");
    for (const value of address.searchParams.getAll("run")) there.searchParams.append("run", value);
    link.setAttribute("href", there.search);
  }
  document.dispatchEvent(new CustomEvent("launch:refresh"));
});
