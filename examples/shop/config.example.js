// Copy this file to config.js. Nothing in here is a secret: the key is the publishable one (sb_publishable_…).
window.SHOP = {
  supabaseUrl: "https://your-project.supabase.co",
  supabaseKey: "sb_publishable_…",
  bridgeUrl: "https://pay.example.com",
};
