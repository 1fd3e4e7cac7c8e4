/**
 * How the connection stands, always in sight; and, once it is closed for good, why, with a way back.
 */
import { byId } from "./dom.js";

/**
 * @param {import("@towpath/client").Client} client
 * @param {{again: () => void, signal: AbortSignal}} options
 */
export function showConnection(client, { again, signal }) {
  const banner = byId("banner");

  const show = (state, more = "") => {
    const line = byId("connection");
    line.dataset.state = state;
    line.textContent = more ? `${state} · ${more}` : state;
  };

  client.onState((state, error) => {
    if (signal.aborted) return;
    show(state, state === "open" ? client.connection?.gateway_id : "");
    banner.hidden = state !== "closed";
    if (error) byId("banner-text").textContent = error.message;
  });
  client.on("retry", ({ delayMs }) => !signal.aborted && show(client.state, `next try in ${seconds(delayMs)}`));
  byId("banner-again").addEventListener("click", again, { signal });
  signal.addEventListener("abort", () => {
    banner.hidden = true;
    show("closed");
  });
  show(client.state);
}

function seconds(ms) {
  return ms < 1_000 ? "a moment" : `${Math.round(ms / 1_000)} s`;
}
