-- Lets apps watch their session change (under RLS). The publication exists on Supabase, not on a plain Postgres.
do $$
begin
    if exists (select from pg_catalog.pg_publication as p where p.pubname = 'supabase_realtime') then
        alter publication supabase_realtime add table public.payment_checkout_sessions;
    end if;
end;
$$;
