// Each statement is a mistake that the types must find: none of these lines compiles.
import { createClient } from "@supabase/supabase-js";
import type { Database } from "./database.types";

const supabase = createClient<Database>("https://your-project.supabase.co", "sb_publishable_…");

// wrong from here on, line by line
supabase.rpc("complete_checkout_session", { p_session_id: "01a1fb90-dc7c-76f1-b2de-d2e9ec74b96d" });
supabase.rpc("spend_credits", { p_user_id: "1", p_amount: 1, p_reason: "a reason", p_idempotency_key: "a key" });
supabase.rpc("quote_checkout", {});
supabase.rpc("quote_checkout", { plan: "credits_100" });
supabase.rpc("get_or_create_checkout_session", { p_plan: "credits_100", p_price: "5" });
supabase.from("payment_daily_revenue").select();
supabase.from("payment_products").insert({ name: "A product without an id" });
supabase.from("payment_credit_balances").update({ balance: "a lot" });
