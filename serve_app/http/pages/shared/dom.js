// Builds DOM nodes. Text stays text: nothing here parses HTML, and addresses are limited to harmless schemes.

const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "open", "selected", "indeterminate", "readOnly", "tabIndex", "htmlFor"]);
const ADDRESSES = new Set(["href", "src", "action", "formaction", "xlink:href"]);
const SVG = "http://www.w3.org/2000/svg";

/**
 * Return a new element.
 *
 * `attributes`: `class`, any attribute, `onclick` and the like (functions only), `dataset` and `style` (objects; style goes through
 * the CSSOM, which the page's policy allows). false, null and undefined leave an attribute out; true writes it empty.
 * `children`: nodes, texts, numbers, lists of them; null, undefined and false are left out.
 */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Return a new SVG element; the arguments are those of `h`. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) setAttribute(node, name, value);
  append(node, ...children);
  return node;
}

/** Set one attribute, property or listener by the rules of `h`. */
export function setAttribute(node, name, value) {
  if (name.startsWith("on")) {
    if (typeof value === "function") node.addEventListener(name.slice(2).toLowerCase(), value);
    else if (value) throw new TypeError(`${name} must be a function`);
  } else if (name === "dataset") {
    Object.assign(node.dataset, value);
  } else if (name === "style") {
    for (const [property, text] of Object.entries(value)) {
      if (property.startsWith("--")) node.style.setProperty(property, text);
      else node.style[property] = text;
    }
  } else if (PROPERTIES.has(name) && name in node) {
    if (value !== null && value !== undefined) node[name] = value;
  } else if (value === false || value === null || value === undefined) {
    node.removeAttribute(name);
  } else if (ADDRESSES.has(name) && !isSafeAddress(String(value))) {
    node.removeAttribute(name);
  } else {
    node.setAttribute(name, value === true ? "" : String(value));
  }
}

/** Return whether an address is of this page's origin, http(s), or an anchor; `javascript:`, `data:` and the like are not. */
export function isSafeAddress(address) {
  try {
    return ["http:", "https:"].includes(new URL(address, location.href).protocol);
  } catch {
    return false;
  }
}

/** Append children by the rules of `h`; return the parent. */
export function append(parent, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    parent.append(child instanceof Node ? child : String(child));
  }
  return parent;
}

/** Replace all children of a node; return the node. */
export function replace(node, ...children) {
  node.replaceChildren();
  return append(node, ...children);
}

/** Replace the children of a node as `replace` does, but keep those that stay equal: selections and focus in them survive. */
export function patch(node, ...children) {
  const wanted = [...append(document.createDocumentFragment(), ...children).childNodes];
  for (const [index, child] of wanted.entries()) {
    const old = node.childNodes[index];
    if (!old) node.append(child);
    else if (!old.isEqualNode(child)) old.replaceWith(child);
  }
  while (node.childNodes.length > wanted.length) node.lastChild.remove();
  return node;
}

/** Return the element with an id; raises if there is none, since the page and its script then do not fit. */
export function byId(id) {
  const node = document.getElementById(id);
  if (!node) throw new Error(`the page has no element with the id ${id}`);
  return node;
}

let serial = 0;

/** Return an id that no other element has, for labels. */
export function newId(prefix = "id") {
  serial += 1;
  return `${prefix}-${serial}`;
}

/** Return a label and its control as one block; `hint` is a line of help below. */
export function field(label, control, hint = "") {
  control.id ||= newId("field");
  const help = hint ? h("p", { class: "hint", id: `${control.id}-hint` }, hint) : null;
  if (help) control.setAttribute("aria-describedby", help.id);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, help);
}

/** Copy a text; return whether it worked. Pages of plain http on other hosts have no clipboard API. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h("textarea", { class: "visually-hidden", readOnly: true, "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}

/** Return a button that copies what `read()` returns, and says so. */
export function copyButton(read, label = "Copy", attributes = {}) {
  const button = h("button", { type: "button", class: "small quiet", ...attributes }, label);
  button.addEventListener("click", async () => {
    const copied = await copyText(read());
    button.textContent = copied ? "Copied" : "Not copied";
    announce(copied ? "Copied" : "It could not be copied");
    setTimeout(() => (button.textContent = label), 1500);
  });
  return button;
}

let region = null;

/** Let screen readers say a text when they are done with the last one. */
export function announce(text) {
  if (!region) {
    region = h("div", { class: "visually-hidden", role: "status", "aria-live": "polite", id: "announcements" });
    document.body.append(region);
  }
  region.textContent = text;
}
