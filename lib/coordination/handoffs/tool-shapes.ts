import type { z } from "zod";

/** What each shape is made of. `T`: what the tool answers. */
interface ToolParts<T extends { readonly ok: boolean }> {
  readonly name: string;
  readonly description: string;
  readonly schema: Readonly<Record<string, unknown>>;
  readonly parameters: z.ZodObject;
  execute(args: unknown, call?: { readonly toolCallId?: string | undefined }): Promise<T>;
}

type Json = Readonly<Record<string, unknown>>;

/** The tool as other SDKs define theirs. Each returns plain data and functions; none of them is needed here. */
export interface ToolShapes {
  /** OpenAI, Chat Completions: `tools: [tool.openai().definition]`; `call` answers one of `tool_calls`. */
  openai(): {
    readonly definition: {
      readonly type: "function";
      readonly function: { name: string; description: string; parameters: Json };
    };
    call(toolCall: {
      readonly id: string;
      readonly function: { readonly arguments: string };
    }): Promise<{ role: "tool"; tool_call_id: string; content: string }>;
  };
  /** OpenAI, Responses: `call` answers a `function_call` item. */
  openaiResponses(): {
    readonly definition: {
      readonly type: "function";
      readonly name: string;
      readonly description: string;
      readonly parameters: Json;
      /** An object of any fields, such as incident_data, is no strict schema. */
      readonly strict: false;
    };
    call(item: {
      readonly call_id: string;
      readonly arguments: string;
    }): Promise<{ type: "function_call_output"; call_id: string; output: string }>;
  };
  /** Vercel's AI SDK: `tools: { [tool.name]: tool(transfer.aiSdk()) }`. */
  aiSdk(): {
    readonly description: string;
    readonly inputSchema: z.ZodObject;
    execute(input: unknown, options?: { readonly toolCallId?: string }): Promise<Json>;
  };
  /** Google's ADK: `new FunctionTool(transfer.adk())`. */
  adk(): {
    readonly name: string;
    readonly description: string;
    readonly parameters: z.ZodObject;
    execute(input: unknown, toolContext?: unknown): Promise<Json>;
  };
  /** Anthropic, Messages: `call` answers a `tool_use` block. */
  anthropic(): {
    readonly definition: { name: string; description: string; input_schema: Json };
    call(block: { readonly id: string; readonly input: unknown }): Promise<{
      type: "tool_result";
      tool_use_id: string;
      content: string;
      is_error: boolean;
    }>;
  };
  /** Model Context Protocol: an entry of tools/list, and what tools/call answers. */
  mcp(): {
    readonly definition: {
      readonly name: string;
      readonly description: string;
      readonly inputSchema: Json;
      readonly annotations: Json;
    };
    call(args: unknown): Promise<{
      content: { type: "text"; text: string }[];
      structuredContent: Json;
      isError: boolean;
    }>;
  };
  /** Mastra: `createTool(transfer.mastra())`, of either major version. */
  mastra(): {
    readonly id: string;
    readonly description: string;
    readonly inputSchema: z.ZodObject;
    execute(input: unknown, context?: unknown): Promise<Json>;
  };
}

export function toolShapes<T extends { readonly ok: boolean; readonly message: string }>({
  name,
  description,
  schema,
  parameters,
  execute,
}: ToolParts<T>): ToolShapes {
  const fromText = (text: string, toolCallId: string) => execute(parsed(text), { toolCallId });
  return {
    openai: () => ({
      definition: { type: "function", function: { name, description, parameters: schema } },
      call: async (toolCall) => ({
        role: "tool",
        tool_call_id: toolCall.id,
        content: JSON.stringify(await fromText(toolCall.function.arguments, toolCall.id)),
      }),
    }),
    openaiResponses: () => ({
      definition: { type: "function", name, description, parameters: schema, strict: false },
      call: async (item) => ({
        type: "function_call_output",
        call_id: item.call_id,
        output: JSON.stringify(await fromText(item.arguments, item.call_id)),
      }),
    }),
    aiSdk: () => ({
      description,
      inputSchema: parameters,
      execute: (input, options) => execute(input, { toolCallId: textAt(options, "toolCallId") }),
    }),
    adk: () => ({
      name,
      description,
      parameters,
      execute: (input, toolContext) =>
        execute(input, { toolCallId: textAt(toolContext, "functionCallId") }),
    }),
    anthropic: () => ({
      definition: { name, description, input_schema: schema },
      call: async (block) => {
        const result = await execute(block.input, { toolCallId: block.id });
        return {
          type: "tool_result",
          tool_use_id: block.id,
          content: JSON.stringify(result),
          is_error: !result.ok,
        };
      },
    }),
    mcp: () => ({
      definition: {
        name,
        description,
        inputSchema: schema,
        annotations: { readOnlyHint: false, destructiveHint: false, openWorldHint: false },
      },
      call: async (args) => {
        const result = await execute(args);
        return {
          content: [{ type: "text", text: result.message }],
          structuredContent: result,
          isError: !result.ok,
        };
      },
    }),
    mastra: () => ({
      id: name,
      description,
      inputSchema: parameters,
      execute: (input, context) => {
        // Before version 1 the input came as `context` of the one argument.
        const inner = (input as { context?: unknown } | null)?.context;
        const early = inner !== null && typeof inner === "object" && !has(input, "incident_data");
        const agent = (context as { agent?: unknown } | undefined)?.agent;
        return execute(early ? inner : input, { toolCallId: textAt(agent, "toolCallId") });
      },
    }),
  };
}

/** What is no JSON is left to the check of the arguments, which says what is wrong. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function has(value: unknown, field: string): boolean {
  return value !== null && typeof value === "object" && Object.hasOwn(value, field);
}

function textAt(value: unknown, field: string): string | undefined {
  const found = has(value, field) ? (value as Record<string, unknown>)[field] : undefined;
  return typeof found === "string" && found !== "" ? found : undefined;
}
