// Fields made of a schema, each with what the document says of it, and with what the server said about it.

import type { ReactElement, ReactNode } from "react";

import { sentence } from "../rest.js";
import { Icon } from "../ui/icons.js";
import { type Document, type Parameter, type Schema, typeOf } from "./openapi.js";
import { countOf, type Errors, placeOf, step, type Values } from "./values.js";

export interface FormState {
  readonly document: Document;
  readonly values: Values;
  readonly errors: Errors;
  readonly set: (place: string, value: string | undefined) => void;
}

/** Text in which `code` and **emphasis** are marked, as in the document. */
export function Prose({ text }: { readonly text: string }): ReactElement {
  const nodes: ReactNode[] = text.split("`").map((part, index) => {
    const key = `${index}`;
    return index % 2 === 1 ? <code key={key}>{part}</code> : <span key={key}>{part.replaceAll("**", "")}</span>;
  });
  return <>{nodes}</>;
}

export function ParameterField({
  parameter,
  form,
}: {
  readonly parameter: Parameter;
  readonly form: FormState;
}): ReactElement {
  const { name, required = false, description, schema = {} } = parameter;
  const said = { ...form.document.resolve(schema), ...(description === undefined ? {} : { description }) };
  return <Field {...{ form, name, place: placeOf(parameter), schema: said, isRequired: required }} />;
}

interface FieldProps {
  readonly form: FormState;
  readonly name: string;
  readonly place: string;
  readonly schema: Schema;
  readonly isRequired: boolean;
}

/** A field, or a group of them. */
export function Field(props: FieldProps): ReactElement {
  const { form, place } = props;
  const schema = form.document.resolve(props.schema);
  const resolved = { ...props, schema };
  switch (typeOf(schema)) {
    case "object":
      return (
        <Group {...resolved}>
          <Fields form={form} place={place} schema={schema} />
        </Group>
      );
    case "array":
      return <List {...resolved} />;
    default:
      return <Simple {...resolved} />;
  }
}

/** The fields of an object. */
export function Fields(props: {
  readonly form: FormState;
  readonly place: string;
  readonly schema: Schema;
}): ReactElement {
  const { form, place, schema } = props;
  const entries = Object.entries(schema.properties ?? {});
  const isRequired = (name: string) => schema.required?.includes(name) ?? false;
  // What is needed comes first.
  const sorted = entries.sort(([one], [other]) => Number(isRequired(other)) - Number(isRequired(one)));
  return (
    <>
      {sorted.map(([name, property]) => (
        <Field
          key={name}
          {...{ form, name, place: place + step(name), schema: property, isRequired: isRequired(name) }}
        />
      ))}
    </>
  );
}

function Simple({ form, name, place, schema, isRequired }: FieldProps): ReactElement {
  const { values, errors, set } = form;
  const id = `field${place}`;
  const error = errors.get(place);
  const common = {
    id,
    value: values.get(place) ?? "",
    "aria-invalid": error !== undefined,
    "aria-describedby": `${id}-said`,
    onChange: (event: { readonly target: { readonly value: string } }) => set(place, event.target.value),
  };
  const placeholder =
    schema.example === undefined || typeof schema.example === "object" ? "" : `for example ${String(schema.example)}`;
  return (
    <div className="labelled">
      <label htmlFor={id}>
        {name}
        <Needed isRequired={isRequired} />
      </label>
      {control(schema, common, placeholder)}
      <Said id={`${id}-said`} error={error} description={schema.description} />
    </div>
  );
}

type Common = Readonly<Record<"id" | "value" | "aria-describedby", string>> & {
  readonly "aria-invalid": boolean;
  readonly onChange: (event: { readonly target: { readonly value: string } }) => void;
};

function control(schema: Schema, common: Common, placeholder: string): ReactElement {
  const type = typeOf(schema);
  switch (type) {
    case "choice":
    case "boolean": {
      const choices =
        type === "boolean" ? ["true", "false"] : (schema.enum ?? []).filter((one) => one !== null).map(String);
      return (
        <select {...common}>
          <option value="" />
          {choices.map((choice) => (
            <option key={choice}>{choice}</option>
          ))}
        </select>
      );
    }
    case "json":
      return <textarea {...common} className="mono" rows={3} spellCheck={false} placeholder="{ }" />;
    case "integer":
    case "number":
      return <input {...common} inputMode="numeric" placeholder={placeholder} />;
    default:
      return <input {...common} spellCheck={false} autoComplete="off" placeholder={placeholder} />;
  }
}

function List(props: FieldProps): ReactElement {
  const { form, place, schema } = props;
  const count = Number(form.values.get(countOf(place)) ?? 0);
  const items = schema.items ?? {};
  const resize = (to: number) => form.set(countOf(place), String(to));
  return (
    <Group {...props}>
      {Array.from({ length: count }, (_, index) => {
        const item = place + step(index);
        return (
          <div className="item" key={item}>
            <Field {...{ form, name: String(index + 1), place: item, schema: items, isRequired: true }} />
          </div>
        );
      })}
      <span className="buttons">
        <button type="button" disabled={count >= (schema.maxItems ?? 100)} onClick={() => resize(count + 1)}>
          <Icon name="add" />
          Add to {props.name}
        </button>
        {count > 0 && (
          <button type="button" onClick={() => resize(count - 1)}>
            Remove the last
          </button>
        )}
      </span>
    </Group>
  );
}

function Group(props: FieldProps & { readonly children: ReactNode }): ReactElement {
  const { form, name, place, schema, isRequired, children } = props;
  const id = `field${place}`;
  return (
    <fieldset aria-describedby={`${id}-said`}>
      <legend>
        {name}
        <Needed isRequired={isRequired} />
      </legend>
      <Said id={`${id}-said`} error={form.errors.get(place)} description={schema.description} />
      {children}
    </fieldset>
  );
}

function Needed({ isRequired }: { readonly isRequired: boolean }): ReactElement | null {
  return isRequired ? <span className="needed"> needed</span> : null;
}

function Said(props: {
  readonly id: string;
  readonly error: string | undefined;
  readonly description: string | undefined;
}): ReactElement {
  const { id, error, description } = props;
  return (
    <small id={id}>
      {error !== undefined && (
        <strong className="failure" role="alert">
          {sentence(error)}{" "}
        </strong>
      )}
      {description !== undefined && <Prose text={description} />}
    </small>
  );
}
