// A shop in one page. Prices, purchases and credits are read from Supabase with supabase-js, under row-level security;
// what has to do with a payment page goes through pgcheckout's bridge. https://github.com/pgcheckout/pgcheckout

const byId = (id) => document.getElementById(id);
const config = window.SHOP;
const supabase = config && window.supabase?.createClient(config.supabaseUrl, config.supabaseKey);
const shop = { products: [], signedIn: false, busy: false, following: 0 };

// ---- what can go wrong, in words

class Trouble extends Error {
  constructor(message, hint = "", { status = 0, reason = "" } = {}) {
    super(message);
    Object.assign(this, { hint, status, reason });
  }
}

const away = (who) => new Trouble(`${who} cannot be reached.`, "Try again in a moment: nothing is paid twice.");

async function signedOut() {
  await signOut();
  return new Trouble("You are signed out.", "Sign in to go on. Your purchases are safe with your account.");
}

/** The data of a supabase-js answer; a refusal is thrown in its own words. */
async function read(query) {
  const { data, error, status } = await query;
  if (!error) return data;
  if (status === 0) throw away("The shop");
  if (status === 401) throw await signedOut();
  throw new Trouble(error.message, error.hint ?? "", { status, reason: error.details });
}

/** POST to the bridge, as the user who is signed in. */
async function bridge(path, body, headers = {}) {
  const { data } = await supabase.auth.getSession();
  const token = data.session?.access_token;
  const request = {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${token}`, ...headers },
    body: JSON.stringify(body),
  };
  const response = await fetch(config.bridgeUrl + path, request).catch(() => null);
  if (!response) throw away("The payment service");
  if (response.status === 401) throw await signedOut();
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  const { message, hint, reason } = answer?.error ?? { message: `The payment service answered ${response.status}.` };
  throw new Trouble(message, hint, { status: response.status, reason });
}

// ---- what the buyer does

const unanswered = new Map();

async function buy(plan, currency) {
  // one key per press of the button; it is kept only for an answer that got lost
  const order = `${plan} ${currency}`;
  const key = unanswered.get(order) ?? crypto.randomUUID();
  unanswered.set(order, key);
  let checkout;
  try {
    checkout = await bridge("/checkout", { plan, currency }, { "Idempotency-Key": key });
  } catch (trouble) {
    const answered = trouble.status >= 400 && trouble.status < 500 && trouble.reason !== "request_in_progress";
    if (answered) unanswered.delete(order);
    throw trouble;
  }
  unanswered.delete(order);
  if (!checkout.checkout_url) return void follow(checkout.session_id); // paid, or free: nothing to open
  location.assign(checkout.checkout_url);
  await new Promise(() => {}); // busy until the payment page takes over
}

async function signIn() {
  const { error } = await supabase.auth.signInAnonymously();
  if (error) throw error.status ? new Trouble(error.message) : away("The shop");
  await refresh();
}

async function signOut() {
  shop.following += 1;
  await supabase.auth.signOut({ scope: "local" });
  show({ signedIn: false, history: [], credits: 0, tiers: [] });
  tell(null);
}

/** Ask about a payment until it is settled. A later call, or signing out, ends an earlier one. */
async function follow(sessionId) {
  const mine = ++shop.following;
  for (let seconds = 1; mine === shop.following; seconds = Math.min(seconds * 1.5, 30)) {
    try {
      const known = await bridge("/verify", { session_id: sessionId });
      if (mine !== shop.following) return;
      tell(known);
      complain(null);
      if (known.payment_status !== "processing") return void (await refresh());
    } catch (trouble) {
      complain(trouble);
      if (trouble.status >= 400 && trouble.status < 500) return;
    }
    await new Promise((done) => setTimeout(done, seconds * 1000));
  }
}

async function refresh() {
  const [history, balance, subscriptions] = await Promise.all([
    read(supabase.rpc("payment_history", { p_page_size: 10 })),
    read(supabase.from("payment_credit_balances").select("balance").maybeSingle()),
    read(supabase.from("payment_subscriptions").select("tier").gt("ends_at", new Date().toISOString())),
  ]);
  const tiers = subscriptions.map(({ tier }) => tier);
  show({ signedIn: true, history: history.payments, credits: balance?.balance ?? 0, tiers });
}

/** Run what the buyer asked for: one thing at a time, and its errors in words. */
async function act(work) {
  if (shop.busy) return;
  busy(true);
  complain(null);
  await work().catch(complain);
  busy(false);
}

// ---- the page. Data only ever becomes text.

function element(tag, { text = "", onclick, ...attributes } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), { textContent: text });
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (onclick) made.addEventListener("click", onclick);
  made.append(...children);
  return made;
}

// ISO 4217, as pgcheckout counts: what a browser shows by custom (HUF without digits, say) would be another amount
const NO_MINOR_UNIT = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF".split(" ");
const THREE_DIGITS = "BHD IQD JOD KWD LYD OMR TND".split(" ");

function money(amount, currency) {
  const digits = NO_MINOR_UNIT.includes(currency) ? 0 : THREE_DIGITS.includes(currency) ? 3 : 2;
  const style = { style: "currency", currency, minimumFractionDigits: digits, maximumFractionDigits: digits };
  return new Intl.NumberFormat("en", style).format(amount / 10 ** digits);
}

function notice(box, tone, title, text) {
  box.replaceChildren(element("div", { class: `notice ${tone}` }, element("strong", { text: title }), element("p", { text })));
}

function tell(known) {
  if (!known) return byId("news").replaceChildren();
  const got = known.fulfilment?.kind === "credits" ? `${known.fulfilment.credits} credits are yours.` : "";
  notice(byId("news"), known.success ? "good" : "wait", known.message, got);
}

function complain(trouble) {
  if (!trouble) return byId("trouble").replaceChildren();
  if (trouble instanceof Trouble) return notice(byId("trouble"), "bad", trouble.message, trouble.hint);
  console.error(trouble);
  notice(byId("trouble"), "bad", "Something went wrong in this page.", "Reload it. Your purchases are safe.");
}

function busy(value) {
  shop.busy = value;
  // aria-disabled keeps the focus where it is
  for (const button of document.querySelectorAll("button")) button.setAttribute("aria-disabled", String(value));
}

function show({ signedIn, history, credits, tiers }) {
  shop.signedIn = signedIn;
  byId("sign-in").hidden = signedIn;
  for (const id of ["sign-out", "account", "history"]) byId(id).hidden = !signedIn;
  byId("credits").textContent = new Intl.NumberFormat("en").format(credits);
  byId("subscription").textContent = tiers.join(", ") || "None";
  byId("nothing-yet").hidden = history.length > 0;
  byId("purchases").replaceChildren(...history.map(purchase));
  showProducts();
}

const STATES = {
  pending: "not paid yet", processing: "on its way", completed: "paid", failed: "not paid", expired: "expired",
  cancelled: "cancelled", refunded: "refunded", partially_refunded: "refunded in part",
};

function purchase({ product_id, status, fulfilment_status, amount, currency }) {
  const name = shop.products.find(({ id }) => id === product_id)?.name ?? product_id;
  const state = fulfilment_status === "fulfilled" ? "paid and delivered" : (STATES[status] ?? status);
  return element("li", {}, element("strong", { text: name }), element("span", { text: `${money(amount, currency)}, ${state}` }));
}

function showProducts() {
  const currency = byId("currency").value;
  const focused = document.activeElement?.dataset.product;
  byId("products").replaceChildren(...shop.products.map((product) => card(product, currency)));
  if (focused) byId("products").querySelector(`[data-product="${CSS.escape(focused)}"]`)?.focus();
  busy(shop.busy);
}

function card({ id, name, description, payment_prices }, currency) {
  const price = payment_prices.find((one) => one.currency === currency);
  const press = () => act(() => (shop.signedIn ? buy(id, currency) : signIn()));
  const words = shop.signedIn ? `Buy ${name}` : `Sign in to buy ${name}`;
  return element("li", {},
    element("h3", { text: name }),
    element("p", { class: "soft", text: description }),
    element("p", { class: "price", text: price ? money(price.amount, currency) : `Not sold in ${currency}` }),
    ...(price ? [element("button", { class: "go", text: words, "data-product": id, onclick: press })] : []));
}

async function start() {
  if (!config) throw new Trouble("config.js is missing.", "Copy config.example.js to config.js and fill it in.");
  if (!supabase) throw new Trouble("supabase.js is missing.", "The README of this example says where it comes from.");
  const back = new URLSearchParams(location.search);
  history.replaceState(null, "", location.pathname); // a reload must not ask about that payment again
  const columns = "id, name, description, payment_prices(currency, amount, is_default)";
  shop.products = await read(supabase.from("payment_products").select(columns).order("id"));
  const prices = shop.products.flatMap((product) => product.payment_prices);
  const first = prices.find((price) => price.is_default)?.currency;
  const currencies = [...new Set(prices.map((price) => price.currency))].sort();
  byId("currency").replaceChildren(...currencies.map((currency) => new Option(currency, currency, false, currency === first)));
  showProducts();
  const { data } = await supabase.auth.getSession();
  if (!data.session) return;
  await refresh();
  if (back.has("session_id")) follow(back.get("session_id"));
}

byId("sign-in").addEventListener("click", () => act(signIn));
byId("sign-out").addEventListener("click", () => act(signOut));
byId("currency").addEventListener("change", showProducts);
// Back from the payment page can bring this page back as it was left: busy, and out of date
addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  busy(false);
  if (shop.signedIn) act(refresh);
});
act(start);
