// Every function and table that an app may use, through the types that pgcheckout ships: this file compiles.
import { createClient } from "@supabase/supabase-js";
import type { Database, Json, Tables } from "./database.types";

const supabase = createClient<Database>("https://your-project.supabase.co", "sb_publishable_…");

export async function everyFunction(): Promise<string[]> {
  const quote = await supabase.rpc("quote_checkout", { p_plan: "credits_100", p_currency: "USD", p_coupon: "SAVE10" });
  const price: Json | null = quote.data;
  const made = await supabase.rpc("get_or_create_checkout_session", {
    p_plan: "credits_100",
    p_price: 5,
    p_provider: "stripe",
    p_subject: "a subject",
    p_idempotency_key: "a key",
    p_metadata: { from: "the cart" },
  });
  const id: string | null = made.data;
  const latest = await supabase.rpc("get_latest_checkout_session").maybeSingle();
  const session: Tables<"payment_checkout_sessions"> | null = latest.data;
  const cancelled = await supabase.rpc("cancel_checkout_session", { p_session_id: id ?? "" });
  const status: string | undefined = cancelled.data?.status;
  const history = await supabase.rpc("payment_history", { p_page: 1, p_page_size: 20, p_status: "completed" });
  const stats = await supabase.rpc("payment_stats");
  return [price, session?.id, status, history.data, stats.data].map(String);
}

export async function everyTable(): Promise<number> {
  const catalogue = await supabase
    .from("payment_products")
    .select("id, name, description, payment_prices(currency, amount)")
    .eq("active", true);
  const prices: number[] = (catalogue.data ?? []).flatMap((product) => product.payment_prices.map((price) => price.amount));
  const balance = await supabase.from("payment_credit_balances").select("balance").maybeSingle();
  const counts = await Promise.all([
    supabase.from("payment_checkout_sessions").select("id, status, fulfilment_status, checkout_url"),
    supabase.from("payment_contributions").select("group_id, cycle, amount"),
    supabase.from("payment_credit_entries").select("amount, reason, created_at"),
    supabase.from("payment_group_members").select("group_id, position, payment_groups(name)"),
    supabase.from("payment_groups").select("id, name, capacity"),
    supabase.from("payment_invoices").select("series, number, amount, currency, issued_at"),
    supabase.from("payment_prices").select("product_id, currency, amount"),
    supabase.from("payment_refunds").select("amount, currency, status"),
    supabase.from("payment_subscriptions").select("tier, ends_at"),
  ]);
  return prices.length + (balance.data?.balance ?? 0) + counts.length;
}
