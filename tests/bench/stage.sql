-- Buyers and prepared purchases for the benchmark. User n is the same one in every run.
create schema bench;

create function bench.user_id(p_n int) returns uuid language sql immutable as $$ select md5(p_n::text)::uuid $$;

create table bench.purchases (
    n int primary key,
    session_id uuid not null,
    naive_id uuid not null,
    reference text
);

create procedure bench.add_users(p_from int, p_to int) language sql as $$
    insert into auth.users (id, email)
    select bench.user_id(n), 'buyer-' || n || '@example.test' from generate_series(p_from, p_to) as n
    on conflict do nothing
$$;

-- sessions made by earlier runs, found again
create procedure bench.collect(p_from int, p_to int) language sql as $$
    insert into bench.purchases (n, session_id, naive_id)
    select
        n,
        public.get_or_create_checkout_session('credits_100', bench.user_id(n)),
        naive.get_or_create(bench.user_id(n), 'credits_100')
    from generate_series(p_from, p_to) as n
$$;

create procedure bench.open_pages(p_from int, p_to int) language plpgsql as $$
declare
    v_purchase record;
    v_attempt jsonb;
begin
    for v_purchase in select * from bench.purchases as p where p.n between p_from and p_to loop
        v_attempt := public.open_checkout_attempt(v_purchase.session_id);
        perform public.attach_checkout_attempt(
            (v_attempt ->> 'number')::bigint, 'cs_' || v_purchase.n, 'https://pay.test/cs_' || v_purchase.n
        );
        update bench.purchases as p set reference = v_attempt ->> 'reference' where p.n = v_purchase.n;
    end loop;
end;
$$;

-- sessions whose time is up
create procedure bench.add_due(p_from int, p_to int) language sql as $$
    select public.get_or_create_checkout_session('credits_100', bench.user_id(n)) from generate_series(p_from, p_to) as n;

    update public.payment_checkout_sessions as s set expires_at = now() - interval '1 minute'
    from generate_series(p_from, p_to) as n
    where s.user_id = bench.user_id(n) and s.status = 'pending'
$$;

grant usage on schema bench to service_role;
grant select on all tables in schema bench to service_role;
