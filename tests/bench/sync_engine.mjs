// Stripe Sync Engine behind the least that a server can be: node sync_engine.mjs PORT, with its settings in the environment
import { createServer } from "node:http";
import { createRequire } from "node:module";

const { DATABASE_URL, WEBHOOK_SECRET, MODULES, CONNECTIONS } = process.env;
const { StripeSync, runMigrations } = createRequire(`${MODULES}/`)("@supabase/stripe-sync-engine");

await runMigrations({ databaseUrl: DATABASE_URL, schema: "stripe" });
const sync = new StripeSync({
  poolConfig: { connectionString: DATABASE_URL, max: Number(CONNECTIONS) },
  stripeSecretKey: "sk_test_nobody_is_asked",
  stripeWebhookSecret: WEBHOOK_SECRET,
  backfillRelatedEntities: false,
});

createServer(async (request, response) => {
  if (request.method === "GET") {
    response.end("ready");
    return;
  }
  const body = [];
  for await (const part of request) body.push(part);
  try {
    await sync.processWebhook(Buffer.concat(body), request.headers["stripe-signature"]);
    response.writeHead(200, { "content-type": "application/json" }).end('{"received":true}');
  } catch (error) {
    console.error(error);
    response.writeHead(400).end();
  }
}).listen(Number(process.argv[2]), "127.0.0.1");
