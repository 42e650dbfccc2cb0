"""A Supabase look-alike for one machine: an embedded Postgres with Supabase's roles, schemas and grants."""
