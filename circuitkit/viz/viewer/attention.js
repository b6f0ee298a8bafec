// What is said of a head beside its edges: its attention pattern, wherever in the prompt it is.
function extra(make, D, {name}) {
  name = name.split(/(\.kv)?@/)[0];
  const rows = D.attention?.heads[name];
  if (!rows) return [];
  const tokens = D.attention.tokens, shown = tokens.map((token) => token.replace(/ /g, "·").replace(/\n/g, "⏎"));
  const body = rows.map((row, q) => make("tr", {}, make("th", {scope: "row"}, shown[q]), ...tokens.map((_, k) => {
    const share = k > q || row.length < 2 * k + 2 ? null : +row.slice(2 * k, 2 * k + 2) / 100;
    const cell = make("td", share === null ? {} : {title: `${shown[q]} attends to ${shown[k]}: ${share}`, "aria-label": share});
    if (share !== null) cell.style.setProperty("--a", share);
    return cell;
  })));
  return [make("div", {class: "rows"}, make("table", {class: "pattern"}, make("caption", {}, `Attention of ${name}: from each row's token to each column's`),
    make("thead", {}, make("tr", {}, make("td"), ...shown.map((token) => make("th", {scope: "col"}, make("span", {}, token))))), make("tbody", {}, ...body)))];
}
