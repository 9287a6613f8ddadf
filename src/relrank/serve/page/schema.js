// JSON schemas of openapi.json as short texts and rows of a table.

/** A schema as a short text, with its bounds and default. */
export function typeOf(schema) {
  if (schema.$ref) return nameOf(schema);
  const parts = schema.anyOf ?? schema.oneOf;
  let text = parts ? parts.map(typeOf).join(" or ") : schema.enum ? schema.enum.map((one) => JSON.stringify(one)).join(" or ") : schema.const !== undefined ? JSON.stringify(schema.const) : (schema.type ?? "any");
  if (schema.type === "array") text = `list of ${typeOf(schema.items)}`;
  else if (schema.additionalProperties?.type || schema.additionalProperties?.anyOf) text = `object of ${typeOf(schema.additionalProperties)}`;
  if (schema.minimum !== undefined && Math.abs(schema.minimum) < 1e15) text += `, ≥ ${schema.minimum}`;
  if (schema.maximum !== undefined && Math.abs(schema.maximum) < 1e15) text += `, ≤ ${schema.maximum}`;
  if (schema.default !== undefined && schema.default !== null && !Array.isArray(schema.default)) text += `, default ${schema.default}`;
  return text;
}

/** All fields of a schema: `name` (`items[].score`), `type` and `text`; a schema inside itself is not repeated. */
export function fieldsOf(schema, known, above = "", inside = []) {
  const whole = schema.$ref ? known[nameOf(schema)] : schema;
  const path = schema.$ref ? [...inside, nameOf(schema)] : inside;
  return Object.entries(whole.properties ?? {}).flatMap(([name, of]) => {
    const row = { name: above + name, type: typeOf(of), text: of.description ?? "" };
    const below = [of, ...(of.anyOf ?? [])].flatMap((one) => [[one, "."], ...(one.items ? [[one.items, "[]."]] : [])]).find(([one]) => one.$ref);
    return below && !path.includes(nameOf(below[0])) ? [row, ...fieldsOf(below[0], known, above + name + below[1], path)] : [row];
  });
}

const nameOf = ({ $ref }) => $ref.slice($ref.lastIndexOf("/") + 1);
