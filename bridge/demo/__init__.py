"""The main job on one machine: a shop, the sandbox provider, and an embedded Postgres that looks like Supabase."""
