/**
 * Which gateways to use, in which order.
 *
 * `?gateway=1` puts the one with that index (from 0) in `config.json` first, `?gateway=ws://host:port/ws` that
 * address; the others follow, for when the first is down. A link could carry any address and would get the visitor's
 * token, so an address is taken only on a host this page knows: its own, this machine, or one in `config.json`.
 */
import { Problem } from "./problem.ts";

/** @throws {Problem} `no_such_gateway`, `bad_gateway` or `foreign_gateway` */
export function chooseGateways(known: readonly string[], wanted: string | null, pageHost: string): string[] {
  if (!wanted) return [...known];
  const first = /^\d+$/.test(wanted) ? byIndex(known, wanted) : byAddress(known, wanted, pageHost);
  return [first, ...known.filter((url) => url !== first)];
}

function byIndex(known: readonly string[], wanted: string): string {
  const url = known[Number(wanted)];
  if (url !== undefined) return url;
  throw new Problem({ code: "no_such_gateway", wanted, count: known.length });
}

function byAddress(known: readonly string[], address: string, pageHost: string): string {
  const host = hostOf(address);
  if (host === null) throw new Problem({ code: "bad_gateway", wanted: address });
  const trusted = ["127.0.0.1", "localhost", "[::1]", pageHost, ...known.map(hostOf)];
  if (!trusted.includes(host)) throw new Problem({ code: "foreign_gateway", host });
  return address;
}

function hostOf(address: string): string | null {
  try {
    const { protocol, hostname } = new URL(address);
    return protocol === "ws:" || protocol === "wss:" ? hostname : null;
  } catch {
    return null;
  }
}
