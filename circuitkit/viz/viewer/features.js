// What is said of a feature beside its edges: where it is most active, and the logits that it moves.
function extra(make, D, {feature}) {
  const own = D.features?.[feature];
  if (!own) return [];
  const plain = (token) => token.replace(/\n/g, "⏎");
  const text = ({tokens, values, peak, cut}) => {
    const made = make("p", {class: "shown", dir: "auto"}, make("b", {}, String(values[peak])), cut[0] ? " …" : " ");
    tokens.forEach((token, i) => {
      const part = make(i === peak ? "mark" : "span", values[i] ? {title: `activation ${values[i]}`} : {}, plain(token));
      part.style.setProperty("--a", values[i] / own.largest);
      made.append(part);
    });
    made.append(cut[1] ? "…" : "");
    return made;
  };
  const moved = (name, pairs) => !pairs.length ? [] : [make("h3", {}, `Logits that a unit directly ${name}`),
    make("p", {class: "moved"}, ...pairs.flatMap(([token, by]) => [
      make("span", {}, make("code", {dir: "auto"}, plain(token).replace(/ /g, "·")), ` ${by < 0 ? "−" : "+"}${Math.abs(by)}`), " "]))];
  return [make("section", {class: "feature", "aria-label": `What ${feature} is`}, make("p", {class: "hint"}, own.said),
    make("h3", {}, own.shown.length ? "Most active in" : "Nowhere active"), ...own.shown.map(text),
    ...moved("raises", own.raised), ...moved("lowers", own.lowered))];
}
