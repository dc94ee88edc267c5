/**
 * Keeps DOM nodes in step with data: writes only what changed, so that focus, selection and open details stay.
 * Knows nothing of operations.
 */

/** Set the text of a node, if it differs. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Set an attribute, if it differs; null and false remove it. */
export function write(node, name, value) {
  if (value === null || value === undefined || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
    return;
  }
  const text = value === true ? "" : String(value);
  if (node.getAttribute(name) !== text) node.setAttribute(name, text);
}

/** Show or hide a node. */
export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

/** Give a node's style property a value, by CSSOM: the page's policy forbids style attributes. */
export function setStyle(node, property, value) {
  if (node.style.getPropertyValue(property) !== value) node.style.setProperty(property, value);
}

/**
 * Make the children of `parent` those of `items`, one each, in their order; the parent has no other children.
 * `create(item)` returns a node, `update(node, item)` brings it up to date. A node whose item stays is never rebuilt, and is moved
 * only where the order changed. Where the node that has the focus goes, its successor's first control takes the focus.
 */
export function keep(parent, items, { key, create, update }) {
  const nodes = (parent.keptNodes ??= new Map());
  const wanted = new Set(items.map(key));
  for (const [name, node] of nodes) {
    if (wanted.has(name)) continue;
    if (node.contains(document.activeElement)) passFocus(node);
    node.remove();
    nodes.delete(name);
  }
  let place = parent.firstChild;
  for (const item of items) {
    const name = key(item);
    let node = nodes.get(name);
    if (!node) {
      node = create(item);
      nodes.set(name, node);
    }
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
    update(node, item);
  }
}

function passFocus(node) {
  const controls = "button, a[href], input, select, summary";
  const next = node.nextElementSibling?.querySelector(controls) ?? node.previousElementSibling?.querySelector(controls);
  const target = next ?? node.closest("[tabindex], section");
  if (target && !next) target.tabIndex = -1;
  target?.focus({ preventScroll: true });
}
