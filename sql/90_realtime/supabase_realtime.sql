-- Lets apps watch their session change (under RLS). The publication exists on Supabase, not on a plain Postgres; where
-- it belongs to another role or holds all tables already, there is nothing to do here.
do $$
begin
    if exists (
        select from pg_catalog.pg_publication as p where p.pubname = 'supabase_realtime' and not p.puballtables
    ) then
        alter publication supabase_realtime add table public.payment_checkout_sessions;
    end if;
exception
    when insufficient_privilege then
        raise notice 'Add public.payment_checkout_sessions to the publication supabase_realtime as its owner.';
end;
$$;
