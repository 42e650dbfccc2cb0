-- A shop with a past: p_sessions sessions of the last p_days, three a buyer, with all that real ones leave behind. For an
-- empty shop and as superuser: triggers, foreign keys and indexes sleep meanwhile, and tables that are truncated in the
-- same transaction write no WAL where wal_level is minimal.
create schema if not exists bench;

create or replace procedure bench.fill(p_sessions int, p_days int default 90) language plpgsql as $$
declare
    v_tables regclass[] := array[
        'auth.users', 'payments.attempts', 'payments.captures', 'payments.session_events', 'payments.webhook_events',
        'payments.notifications', 'public.payment_checkout_sessions', 'public.payment_credit_entries',
        'public.payment_credit_balances', 'public.payment_invoices'
    ];
    v_table regclass;
begin
    set local session_replication_role = replica;
    execute format('truncate %s cascade', array_to_string(v_tables, ', '));
    update pg_index set indisready = false where indrelid = any(v_tables);

    create table bench.past as
    select
        n,
        'customer-' || n / 3 || '@example.test' as email,
        md5('buyer ' || n / 3)::uuid as user_id,
        md5('reference ' || n) as reference,
        made.at as created_at,
        (
            lpad(to_hex((extract(epoch from made.at) * 1000)::bigint), 12, '0') || '7'
            || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15)
        )::uuid as session_id,
        case
            when n > p_sessions * 0.97 and n % 3 = 2 then 'pending' when n % 10 < 7 then 'completed' when n % 10 < 9 then 'expired'
            when n % 20 = 9 then 'cancelled' else 'failed'
        end as status
    from generate_series(1, p_sessions) as n
    cross join lateral (select now() - p_days * interval '1 day' * (1 - n::float8 / p_sessions) as at) as made;

    insert into auth.users (id, email)
    select p.user_id, p.email from bench.past as p where p.n % 3 = 0 or p.n = 1;

    insert into payments.attempts (
        number, session_id, provider, reference, status, provider_session_id, checkout_url, created_at, expires_at,
        reconcile_at
    )
    overriding system value
    select
        p.n, p.session_id, 'stripe', p.reference,
        case when p.status in ('pending', 'completed') then 'open' else p.status end, 'cs_' || p.reference,
        'https://pay.test/' || p.reference, p.created_at, p.created_at + interval '1 day',
        case when p.status = 'pending' then now() + interval '1 hour' end
    from bench.past as p;
    perform setval(pg_get_serial_sequence('payments.attempts', 'number'), p_sessions);

    insert into public.payment_checkout_sessions (
        id, user_id, email, product_id, kind, terms, provider, currency, original_amount, amount, status,
        fulfilment_status, fulfilment, provider_session_id, provider_payment_id, checkout_url, attempts,
        current_attempt, created_at, updated_at, expires_at, completed_at
    )
    select
        p.session_id, p.user_id, p.email, 'credits_100', 'credits', '{"credits": 100}', 'stripe',
        'USD', 500, 500, p.status, paid.fulfilment_status, paid.fulfilment, 'cs_' || p.reference, paid.payment_id,
        'https://pay.test/' || p.reference, 1, p.n, p.created_at, p.created_at,
        p.created_at + case p.status when 'pending' then interval '91 days' else interval '1 day' end, paid.at
    from bench.past as p
    cross join lateral (
        select
            case when p.status = 'completed' then 'fulfilled' else 'none' end as fulfilment_status,
            case when p.status = 'completed' then '{"kind": "credits", "credits": 100, "balance": 100}'::jsonb end
                as fulfilment,
            case when p.status = 'completed' then 'pi_' || p.reference end as payment_id,
            case when p.status = 'completed' then p.created_at + interval '5 minutes' end as at
    ) as paid;

    insert into payments.session_events (session_id, from_status, to_status, source, created_at)
    select p.session_id, 'pending', p.status, 'webhook', p.created_at from bench.past as p where p.status <> 'pending';

    insert into payments.captures
    select
        'stripe', 'pi_' || p.reference, p.session_id, null, 'cs_' || p.reference, 500, 'USD', 'settled', p.created_at,
        p.created_at
    from bench.past as p
    where p.status = 'completed';

    insert into payments.webhook_events (
        provider, event_id, type, payload, status, session_id, received_at, handled_at
    )
    select
        'stripe', 'evt_' || p.reference, 'checkout.session.completed', jsonb_build_object('lines', p.reference),
        'handled', p.session_id, p.created_at, p.created_at
    from bench.past as p
    where p.status = 'completed';

    insert into public.payment_credit_entries (user_id, amount, reason, source, created_at)
    select p.user_id, 100, 'purchase', p.session_id, p.created_at from bench.past as p where p.status = 'completed';

    insert into public.payment_credit_balances
    select e.user_id, sum(e.amount), now() from public.payment_credit_entries as e group by e.user_id;

    insert into public.payment_invoices (
        series, year, number, kind, session_id, user_id, product_id, product_name, currency, original_amount,
        discount_amount, amount, provider, paid_at, issued_at
    )
    select
        'INV', extract(year from p.created_at), row_number() over (partition by extract(year from p.created_at)
        order by p.n), 'invoice', p.session_id, p.user_id, 'credits_100', '100 credits', 'USD', 500, 0, 500, 'stripe',
        p.created_at, p.created_at
    from bench.past as p
    where p.status = 'completed';

    insert into payments.invoice_counters
    select i.series, i.year, max(i.number) from public.payment_invoices as i group by i.series, i.year;

    insert into payments.notifications (
        session_id, user_id, kind, occurrence, email, payload, status, due_at, created_at, finished_at
    )
    select
        p.session_id, p.user_id, 'receipt', '', p.email, '{"amount": 500}', 'sent', p.created_at,
        p.created_at, p.created_at
    from bench.past as p
    where p.status = 'completed';

    -- one in a hundred purchases went back
    insert into public.payment_refunds (
        provider, provider_refund_id, session_id, user_id, provider_payment_id, kind, amount, currency, status,
        created_at, updated_at
    )
    select
        'stripe', 're_' || p.reference, p.session_id, p.user_id, 'pi_' || p.reference, 'refund', 100, 'USD',
        'succeeded', p.created_at, p.created_at
    from bench.past as p
    where p.n % 100 = 1 and p.status = 'completed';
    insert into payments.credit_clawbacks
    select p.session_id, p.user_id, 20, 20, 1, p.created_at
    from bench.past as p
    where p.n % 100 = 1 and p.status = 'completed';

    -- one in fifty came with a coupon
    insert into payments.coupons (id, percent_off, places_taken) values ('SPRING', 10, p_sessions / 50);
    insert into payments.coupon_redemptions (
        session_id, coupon_id, user_id, status, holds_place, created_at, updated_at
    )
    select p.session_id, 'SPRING', p.user_id, 'confirmed', true, p.created_at, p.created_at
    from bench.past as p
    where p.n % 50 = 1;

    insert into payments.idempotency_keys (
        key, user_id, request_hash, status, response, leased_until, created_at, updated_at
    )
    select p.reference, p.user_id, '', 'completed', '{}', p.created_at, p.created_at, p.created_at
    from bench.past as p
    where p.created_at > now() - interval '1 day';
    drop table bench.past;

    foreach v_table in array v_tables loop
        execute format('reindex table %s', v_table);
    end loop;
end;
$$;
