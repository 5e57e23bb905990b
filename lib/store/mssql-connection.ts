import { createRequire } from "node:module";
import type { Knex } from "knex";

const require = createRequire(import.meta.url);

/** What knex reads of a connection; its own type knows only some of it. */
type Settings = Record<string, unknown> & { options: Record<string, unknown> };

interface Parameter {
  readonly value: unknown;
}

/**
 * knex's `mapBinding`: strings are always declared nvarchar(4000) or nvarchar(max). tedious would declare each
 * with its own length, and SQL Server would compile and keep one plan per length.
 */
function stableStrings(): (binding: unknown) => { value: unknown; type: unknown } | undefined {
  let type: unknown;
  return (binding) => {
    if (typeof binding !== "string") return undefined;
    if (type === undefined) {
      const { TYPES } = require("tedious") as { TYPES: { NVarChar: object } };
      type = Object.assign(Object.create(TYPES.NVarChar), {
        declaration: ({ value }: Parameter) =>
          typeof value === "string" && value.length > 4_000 ? "nvarchar(max)" : "nvarchar(4000)",
        resolveLength: ({ value }: Parameter) =>
          typeof value === "string" && value.length > 4_000 ? value.length : 4_000,
      });
    }
    return { value: binding, type };
  };
}

function fromUrl(text: string): Settings {
  const url = new URL(text);
  const flag = (name: string, standard: boolean): boolean => {
    const value = url.searchParams.get(name);
    return value === null ? standard : /^(true|yes|1)$/i.test(value);
  };
  return {
    server: decodeURIComponent(url.hostname),
    port: url.port === "" ? 1433 : Number(url.port),
    user: decodeURIComponent(url.username),
    password: decodeURIComponent(url.password),
    database: decodeURIComponent(url.pathname.replace(/^\//, "")),
    options: {
      encrypt: flag("encrypt", true),
      trustServerCertificate: flag("trustServerCertificate", false),
    },
  };
}

interface ParsedConnection {
  server: string;
  port?: number;
  user?: string;
  password?: string;
  database?: string;
  authentication?: { type: string; options?: Record<string, unknown> };
  options?: Record<string, unknown>;
}

/** `Authentication=` of an ODBC string, as tedious calls it. Integrated means: whatever identity runs here. */
const ENTRA: Record<string, string> = {
  activedirectoryintegrated: "azure-active-directory-default",
  activedirectorydefault: "azure-active-directory-default",
  activedirectorypassword: "azure-active-directory-password",
  activedirectorymsi: "azure-active-directory-msi-app-service",
  activedirectoryserviceprincipal: "azure-active-directory-service-principal-secret",
};

function entra(text: string): Record<string, string> {
  const asked = /(?:^|;)\s*authentication\s*=\s*([^;]*)/i.exec(text)?.[1]?.trim().toLowerCase();
  if (asked === undefined || asked === "sqlpassword") return {};
  const type = ENTRA[asked];
  if (type === undefined) throw new Error(`Authentication=${asked} is not supported`);
  const { AZURE_CLIENT_ID, AZURE_CLIENT_SECRET, AZURE_TENANT_ID } = process.env;
  return {
    type,
    ...(AZURE_CLIENT_ID === undefined ? {} : { clientId: AZURE_CLIENT_ID }),
    ...(AZURE_CLIENT_SECRET === undefined ? {} : { clientSecret: AZURE_CLIENT_SECRET }),
    ...(AZURE_TENANT_ID === undefined ? {} : { tenantId: AZURE_TENANT_ID }),
  };
}

/** ODBC and ADO.NET strings, read by the parser that comes with the `mssql` package. */
function fromConnectionString(text: string): Settings {
  const { ConnectionPool } = require("mssql") as {
    ConnectionPool: { parseConnectionString(text: string): ParsedConnection };
  };
  const parsed = ConnectionPool.parseConnectionString(text.replace(/driver=\{[^}]*\};?/i, ""));
  return {
    ...parsed,
    ...entra(text),
    server: parsed.server.replace(/^tcp:/i, ""),
    options: { encrypt: true, trustServerCertificate: false, ...parsed.options },
    pool: undefined,
  };
}

/** What knex hands to tedious: encrypted and verified unless the address says otherwise. */
export function tediousConfig(text: string): Knex.MsSqlConnectionConfig {
  const config = /^(mssql|sqlserver):\/\//i.test(text) ? fromUrl(text) : fromConnectionString(text);
  return {
    ...config,
    options: {
      connectTimeout: 30_000,
      requestTimeout: 30_000,
      appName: "agent-outbox",
      ...config.options,
      mapBinding: stableStrings(),
    },
  } as unknown as Knex.MsSqlConnectionConfig;
}
