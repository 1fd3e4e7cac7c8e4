/**
 * Which gateways to use, in which order.
 *
 * `?gateway=1` puts the one with that index (from 0) in `config.json` first, `?gateway=ws://host:port/ws` that
 * address; the others follow, for when the first is down. A link could carry any address and would get the visitor's
 * token, so an address is taken only on a host this page knows: its own, this machine, or one in `config.json`.
 *
 * @param {string[]} known
 * @param {string | null} wanted
 * @param {string} pageHost
 * @returns {string[]}
 */
export function chooseGateways(known, wanted, pageHost) {
  if (wanted === null || wanted === "") return known;
  const first = /^\d+$/.test(wanted) ? byIndex(known, Number(wanted)) : byAddress(known, wanted, pageHost);
  return [first, ...known.filter((url) => url !== first)];
}

function byIndex(known, index) {
  if (index < known.length) return known[index];
  throw new Error(`There is no gateway ${index}: ${known.length} are configured, counted from 0.`);
}

function byAddress(known, address, pageHost) {
  const host = hostOf(address);
  if (host === null) throw new Error(`“${address}” is no gateway: give an index or an address such as ws://host/ws.`);
  const trusted = ["127.0.0.1", "localhost", "[::1]", pageHost, ...known.map(hostOf)];
  if (!trusted.includes(host)) throw new Error(`The gateway ${host} is not one of this page's; it gets no token.`);
  return address;
}

function hostOf(address) {
  try {
    const { protocol, hostname } = new URL(address);
    return protocol === "ws:" || protocol === "wss:" ? hostname : null;
  } catch {
    return null;
  }
}
