// Draws JSON schemas as trees that unfold, and makes an example of one. References are followed when they are unfolded, so that
// schemas that contain themselves end.

import { h } from "/pages/shared/dom.js";

const MOST_DEPTH = 5;
const FACTS = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems", "pattern", "format"];

/** Return a text with its `code` as nodes. */
export function withCode(text) {
  return text.split(/`([^`]+)`/).map((part, index) => (index % 2 ? h("code", {}, part) : part));
}

/** Draws the schemas of a document. */
export class SchemaTree {
  #spec;

  constructor(spec) {
    this.#spec = spec;
  }

  /** Return the schema that a reference leads to; {} where it leads nowhere. */
  resolve(schema, seen = new Set()) {
    const reference = schema?.$ref;
    if (!reference) return schema ?? {};
    if (seen.has(reference)) return {};
    const found = reference.replace(/^#\//, "").split("/").reduce((node, part) => node?.[part.replaceAll("~1", "/").replaceAll("~0", "~")], this.#spec);
    return this.resolve(found, new Set([...seen, reference]));
  }

  /** Return whether a schema says nothing but `object`, or nothing at all. */
  isOpen(schema) {
    const { properties, anyOf, oneOf, allOf, items, $ref } = schema ?? {};
    return !(properties || anyOf || oneOf || allOf || items || $ref);
  }

  /** Return a schema's type in words. */
  name(schema, depth = 0) {
    const { $ref, type, anyOf, oneOf, allOf, items, const: fixed, enum: values, additionalProperties } = schema;
    if (depth > 3) return "…";
    if ($ref) return $ref.split("/").pop();
    if (fixed !== undefined) return JSON.stringify(fixed);
    if (values) return values.map((each) => JSON.stringify(each)).join(" | ");
    const parts = anyOf ?? oneOf;
    if (parts) return [...new Set(parts.filter((each) => each.type !== "null").map((each) => this.name(each, depth + 1)))].join(" | ") || "null";
    if (allOf?.length === 1) return this.name(allOf[0], depth + 1);
    if (type === "array") return `list of ${items ? this.name(items, depth + 1) : "anything"}`;
    if (type === "object" && additionalProperties && typeof additionalProperties === "object") return `object of ${this.name(additionalProperties, depth + 1)}`;
    return Array.isArray(type) ? type.filter((each) => each !== "null").join(" | ") : (type ?? "anything");
  }

  /** Return a schema as a node. */
  build(schema, seen = []) {
    const found = this.resolve(schema);
    const properties = Object.entries(found.properties ?? {});
    if (properties.length) {
      const required = new Set(found.required ?? []);
      return h("div", { class: "schema" }, found.description && !/^[A-Z]+ \/\S*\.$/.test(found.description) && h("p", { class: "muted small-text" }, withCode(found.description)),
        h("ul", { class: "properties" }, properties.map(([name, each]) => this.#property(name, each, required.has(name), [...seen, schema?.$ref]))));
    }
    const inner = this.#inner(found);
    if (inner.length) return h("div", { class: "schema" }, inner.map((each) => (this.isOpen(each) ? h("p", {}, h("code", {}, this.name(each))) : this.#fold(each, seen))));
    return h("p", { class: "schema" }, h("code", {}, this.name(found)), found.description && ` ${found.description}`);
  }

  /** Return the schemas below one that may have a structure of their own. */
  #inner(schema) {
    const found = this.resolve(schema);
    const below = [...(found.anyOf ?? []), ...(found.oneOf ?? []), ...(found.allOf ?? [])];
    if (found.items) below.push(found.items);
    if (typeof found.additionalProperties === "object") below.push(found.additionalProperties);
    return below;
  }

  #property(name, schema, required, seen) {
    const found = this.resolve(schema);
    const facts = FACTS.filter((fact) => found[fact] !== undefined).map((fact) => `${fact} ${found[fact]}`);
    if (found.default !== undefined) facts.push(`default ${JSON.stringify(found.default)}`);
    const unfolding = this.#unfoldable(schema).filter((each) => !this.isOpen(each));
    return h("li", {}, h("div", { class: "property" }, h("code", { class: "property-name" }, name), h("span", { class: "muted" }, this.name(schema)), required && h("span", { class: "required" }, "required")),
      (schema.description ?? found.description) && h("p", { class: "small-text" }, withCode(schema.description ?? found.description)), facts.length > 0 && h("p", { class: "small-text muted" }, facts.join(", ")),
      unfolding.map((each) => this.#fold(each, seen)));
  }

  /** Return what can be unfolded below a property: references, objects, and those in lists and choices. */
  #unfoldable(schema) {
    if (schema.$ref || schema.properties) return [schema];
    return this.#inner(schema).flatMap((each) => this.#unfoldable(each));
  }

  #fold(schema, seen) {
    const body = h("div", { class: "folded" });
    const again = schema.$ref && seen.includes(schema.$ref);
    const node = h("details", { class: "fold" }, h("summary", {}, h("code", {}, this.name(schema)), again && h("span", { class: "muted" }, " (as above)")), body);
    node.addEventListener("toggle", () => {
      if (node.open && !body.hasChildNodes()) body.append(this.build(schema, schema.$ref ? [...seen, schema.$ref] : seen));
    });
    return node;
  }
}

const KNOWN = {
  model: () => "MODEL",
  messages: () => [{ role: "user", content: "What is 15% of 240?" }],
  prompt: () => "What is 15% of 240?",
  query: () => "What is 15% of 240?",
  input: () => "What is 15% of 240?",
  text: () => "What is 15% of 240?",
  max_tokens: () => 256,
  tokens: () => [1, 2, 3],
};
const ALWAYS = ["model", "messages", "prompt", "query", "input"];

/** Return an example of a body: what is required, and what a request is about. */
export function buildExample(schema, spec) {
  const tree = new SchemaTree(spec);
  const found = tree.resolve(schema);
  const example = {};
  for (const [name, each] of Object.entries(found.properties ?? {})) {
    const required = found.required?.includes(name);
    if (!required && !ALWAYS.includes(name)) continue;
    if (name === "prompt" && found.properties.messages) continue;
    example[name] = name in KNOWN ? KNOWN[name]() : makeValue(each, tree, 0);
  }
  if (!Object.keys(example).length && found.properties?.text) example.text = KNOWN.text();
  return example;
}

function makeValue(schema, tree, depth) {
  const found = tree.resolve(schema);
  if (found.default !== undefined) return found.default;
  if (found.const !== undefined) return found.const;
  if (found.enum) return found.enum[0];
  const parts = found.anyOf ?? found.oneOf ?? found.allOf;
  if (depth > MOST_DEPTH) return null;
  if (parts) return makeValue(parts.find((each) => each.type !== "null") ?? {}, tree, depth + 1);
  const type = Array.isArray(found.type) ? found.type[0] : found.type;
  if (type === "object" || found.properties) {
    return Object.fromEntries((found.required ?? []).map((name) => [name, makeValue(found.properties?.[name] ?? {}, tree, depth + 1)]));
  }
  if (type === "array") return found.items ? [makeValue(found.items, tree, depth + 1)] : [];
  return { integer: found.minimum ?? 1, number: found.minimum ?? 1, boolean: true, null: null }[type] ?? "TEXT";
}
