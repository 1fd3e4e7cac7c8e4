/**
 * The page's story: read what is there, sign in, connect, show. The only place that builds things.
 */
import { connect } from "/client/index.js";

import { Chat } from "./chat.js";
import { fetchConfig, fetchToken } from "./demo.js";
import { chooseGateways } from "./model/gateways.js";
import { Orders } from "./orders.js";
import { avatar } from "./views/avatar.js";
import { showBackend } from "./views/backend.js";
import { showConnection } from "./views/connection.js";
import { showConversation } from "./views/conversation.js";
import { byId, setProblem } from "./views/dom.js";
import { describe, showProblem } from "./views/notices.js";
import { showOrderForm } from "./views/order-form.js";
import { showOrders } from "./views/order-list.js";
import { showRooms } from "./views/room-list.js";

const query = new URLSearchParams(location.search);

/** Remembers the last name, where the browser lets it. */
const lastName = {
  get: () => {
    try {
      return localStorage.getItem("towpath.name") ?? "";
    } catch {
      return "";
    }
  },
  set: (/** @type {string} */ name) => {
    try {
      localStorage.setItem("towpath.name", name);
    } catch {
      // A browser that keeps nothing is fine.
    }
  },
};

async function start() {
  const [field, line] = [byId("name"), byId("name-problem")];
  field.value = query.get("user") ?? lastName.get();
  field.focus();

  let config = null;
  byId("sign-in-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const name = field.value.trim();
    setProblem(field, line, name === "" ? "Give a name first." : "");
    if (name === "") return field.focus();
    byId("sign-in").disabled = true;
    try {
      config ??= await loadConfig();
      const urls = chooseGateways(config.gateways, query.get("gateway"), location.hostname);
      const token = await fetchToken(name);
      lastName.set(name);
      run(name, token, urls, config);
    } catch (error) {
      setProblem(field, line, describe(error));
      field.focus();
    } finally {
      byId("sign-in").disabled = false;
    }
  });

  try {
    config = await loadConfig();
    const [first] = chooseGateways(config.gateways, query.get("gateway"), location.hostname);
    byId("gateway-hint").textContent = `Gateway: ${first}`;
  } catch (error) {
    setProblem(field, line, describe(error));
  }
}

async function loadConfig() {
  const config = await fetchConfig();
  byId("backing").textContent = [config.broker, config.database].filter(Boolean).join(" · ");
  return config;
}

/**
 * Runs one signed-in session until the user signs out.
 *
 * @param {string} me
 * @param {string} firstToken
 * @param {string[]} urls
 * @param {{demo?: boolean}} config
 */
function run(me, firstToken, urls, config) {
  const session = new AbortController();
  const { signal } = session;
  const tokens = [firstToken];
  const client = connect({ urls, token: () => tokens.pop() ?? fetchToken(me) });
  client.onError((error) => console.warn(error));

  const end = () => {
    client.close();
    session.abort();
    leave();
  };
  const again = async () => {
    try {
      const token = await fetchToken(me);
      end();
      run(me, token, urls, config);
    } catch (error) {
      showProblem(error);
    }
  };

  const problem = (error) => error.code !== "closed" && showProblem(error);
  const chat = new Chat(client, me, { changed: () => renderChatSoon(), opened: () => renderChat(), problem });
  const orders = new Orders(client, { changed: () => renderOrders(), problem });

  enter(me, signal);
  const showPane = (pane) => (byId("app").dataset.pane = pane);
  const renderRooms = showRooms(chat, me, { opened: () => showPane("room"), signal });
  const back = () => {
    showPane("list");
    chat.show(null);
  };
  const renderConversation = showConversation(chat, client, me, { back, signal });
  const renderChat = () => {
    if (signal.aborted) return;
    renderRooms();
    renderConversation();
  };
  const renderChatSoon = soon(renderChat);

  byId("backend").hidden = !config.demo;
  const backend = config.demo ? showBackend(me, { signal }) : null;
  const renderOrderList = showOrders(orders, { pick: backend?.pick ?? null, signal });
  const renderOrders = soon(() => signal.aborted || renderOrderList());
  showOrderForm(orders, { submitted: (orderId) => backend?.suggest(orderId), signal });

  showConnection(client, { again, signal });
  byId("sign-out").addEventListener("click", end, { signal });
  renderChat();
  renderOrders();
}

/**
 * Puts many changes into one rendering, so that a burst of pushes does not render a hundred times.
 *
 * @param {() => void} render
 */
function soon(render) {
  let due = false;
  return () => {
    if (due) return;
    due = true;
    setTimeout(() => {
      due = false;
      render();
    });
  };
}

/**
 * @param {string} me
 * @param {AbortSignal} signal
 */
function enter(me, signal) {
  byId("welcome").hidden = true;
  byId("app").hidden = byId("account").hidden = false;
  byId("app").dataset.pane = "list";
  byId("account-name").textContent = me;
  const disc = avatar(me);
  disc.id = "account-avatar";
  byId("account-avatar").replaceWith(disc);
  for (const tab of byId("tabs").children) tab.addEventListener("click", () => showTab(tab.dataset.tab), { signal });
  showTab("chat");
  byId("room-input").focus();
}

function leave() {
  byId("welcome").hidden = false;
  byId("app").hidden = byId("account").hidden = true;
  document.title = "Towpath";
  byId("name").focus();
}

/** @param {string} name */
function showTab(name) {
  byId("app").dataset.tab = name;
  for (const tab of byId("tabs").children) {
    if (tab.dataset.tab === name) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
}

await start();
