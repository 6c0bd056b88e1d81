// Chat templates: Jinja text that turns messages into a prompt.
import { readdir } from "node:fs/promises"
import { join } from "node:path"
import { Template } from "@huggingface/jinja"
import { ioError, TsqError } from "../core/errors.ts"
import { describe } from "../core/options.ts"
import { readOptionalText } from "./companion-files.ts"

export interface ChatMessage {
  role: string
  content: string
  [key: string]: unknown
}

export interface ChatOptions {
  /** End with the header of the assistant's turn. Default true. */
  addGenerationPrompt?: boolean
  /** Name of one of several templates. Default "default". */
  template?: string
  /** Anything else that the template reads (tools, documents, enable_thinking ...). */
  variables?: Record<string, unknown>
}

export class ChatTemplates {
  readonly #sources: ReadonlyMap<string, string>
  readonly #variables: Readonly<Record<string, unknown>>
  readonly #parsed = new Map<string, Template>()

  /** `variables`: the special tokens by name, as templates expect them. */
  constructor(sources: ReadonlyMap<string, string>, variables: Record<string, unknown>) {
    this.#sources = sources
    this.#variables = variables
  }

  get names(): readonly string[] {
    return [...this.#sources.keys()]
  }

  /** The prompt. ERR_OPTION where the template refuses the messages (raise_exception), ERR_FORMAT where it cannot be parsed. */
  render(messages: readonly ChatMessage[], options: ChatOptions = {}): string {
    const name = options.template ?? "default"
    const template = this.#template(name)
    try {
      return template.render({
        ...this.#variables,
        messages,
        add_generation_prompt: options.addGenerationPrompt ?? true,
        ...options.variables,
      })
    } catch (cause) {
      throw new TsqError("ERR_OPTION", `chat template ${describe(name)}: ${(cause as Error).message}`, { cause })
    }
  }

  #template(name: string): Template {
    const known = this.#parsed.get(name)
    if (known) return known
    const source = this.#sources.get(name)
    if (source === undefined)
      throw new TsqError(
        "ERR_OPTION",
        this.#sources.size === 0
          ? "this model has no chat template; give it a plain prompt"
          : `there is no chat template ${describe(name)}; the model has ${this.names.join(", ")}`,
      )
    try {
      const template = new Template(source)
      this.#parsed.set(name, template)
      return template
    } catch (cause) {
      throw new TsqError(
        "ERR_FORMAT",
        `chat template ${describe(name)} cannot be parsed: ${(cause as Error).message}`,
        { cause },
      )
    }
  }
}

/** Template texts by name; chat_template.jinja and additional_chat_templates/ come before tokenizer_config.json. */
export async function readChatTemplates(
  directory: string,
  tokenizerConfig: Record<string, unknown>,
): Promise<Map<string, string>> {
  const sources = new Map<string, string>()
  const inline = tokenizerConfig.chat_template
  if (typeof inline === "string") sources.set("default", inline)
  else if (Array.isArray(inline))
    for (const entry of inline as unknown[]) {
      const { name, template } = (entry ?? {}) as Record<string, unknown>
      if (typeof name !== "string" || typeof template !== "string")
        throw new TsqError(
          "ERR_FORMAT",
          "tokenizer_config.json: chat_template holds an entry without name and template",
        )
      sources.set(name, template)
    }
  const file = await readOptionalText(directory, "chat_template.jinja")
  if (file !== null) sources.set("default", file)
  const folder = join(directory, "additional_chat_templates")
  for (const name of await jinjaFiles(folder)) {
    const text = await readOptionalText(folder, name)
    if (text !== null) sources.set(name.slice(0, -".jinja".length), text)
  }
  return sources
}

async function jinjaFiles(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder)).filter(name => name.endsWith(".jinja")).sort()
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return []
    throw ioError("read", folder, cause)
  }
}
