-- What create, complete and outcome write, and nothing else: no price is read, nothing is checked, nobody asks whether
-- it has happened before. No implementation on these tables is faster, so this is how near to the floor one can come.
create schema rows;

create function rows.create_session(p_user_id uuid)
returns uuid
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id uuid;
begin
    insert into public.payment_checkout_sessions (
        id, user_id, product_id, kind, terms, provider, currency, original_amount, amount, metadata,
        created_at, updated_at, expires_at
    )
    values (
        payments.new_time_ordered_id(p_user_id), p_user_id, 'credits_100', 'credits', '{"credits": 100}', 'stripe', 'USD',
        500, 500, '{}', now(), now(), now() + interval '1 day'
    )
    returning id into v_id;
    return v_id;
end;
$$;

create function rows.complete_session(p_session_id uuid, p_payment text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_user_id uuid;
    v_number int;
begin
    update public.payment_checkout_sessions as s
    set status = 'completed', provider_payment_id = p_payment, fulfilment_status = 'fulfilled',
        fulfilment = '{"kind": "credits", "credits": 100, "balance": 100}', completed_at = now(), updated_at = now()
    where s.id = p_session_id
    returning s.user_id into v_user_id;
    insert into payments.captures (
        provider, provider_payment_id, session_id, amount, currency, disposition, paid_at, created_at
    )
    values ('stripe', p_payment, p_session_id, 500, 'USD', 'settled', now(), now());
    insert into public.payment_credit_entries (user_id, amount, reason, source, created_at)
    values (v_user_id, 100, 'purchase', p_session_id, now());
    insert into public.payment_credit_balances as b (user_id, balance, updated_at)
    values (v_user_id, 100, now())
    on conflict (user_id) do update
        set balance = b.balance + excluded.balance, updated_at = excluded.updated_at;
    insert into payments.session_events (session_id, from_status, to_status, source, created_at)
    values (p_session_id, 'pending', 'completed', 'webhook', now());
    update payments.invoice_counters as c
    set last_number = c.last_number + 1
    where (c.series, c.year) = (
        select k.series, k.year
        from payments.invoice_counters as k
        where k.series = 'INV' and k.year = extract(year from now() at time zone 'UTC')
        for no key update skip locked
    )
    returning c.last_number into v_number;
    -- whoever does not get a number leaves its document for later, as in the engine
    if found then
        insert into public.payment_invoices (
            series, year, number, kind, session_id, user_id, product_id, product_name, currency, original_amount,
            discount_amount, amount, provider, provider_payment_id, paid_at, issued_at
        )
        values (
            'INV', extract(year from now() at time zone 'UTC'), v_number, 'invoice', p_session_id, v_user_id, 'credits_100',
            '100 credits', 'USD', 500, 0, 500, 'stripe', p_payment, now(), now()
        );
    else
        insert into payments.unnumbered_invoices (document, created_at)
        values (
            jsonb_build_object(
                'series', 'INV', 'kind', 'invoice', 'session_id', p_session_id, 'user_id', v_user_id,
                'product_id', 'credits_100', 'product_name', '100 credits', 'currency', 'USD', 'original_amount', 500,
                'discount_amount', 0, 'amount', 500, 'provider', 'stripe', 'provider_payment_id', p_payment,
                'paid_at', now()
            ), now()
        );
    end if;
end;
$$;

create function rows.apply_outcome(p_reference text, p_payment text, p_event jsonb)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session_id uuid;
begin
    select a.session_id into v_session_id from payments.attempts as a where a.reference = p_reference;
    insert into payments.webhook_events (
        provider, event_id, type, payload, status, session_id, received_at, handled_at
    )
    values (
        'stripe', p_event ->> 'id', p_event ->> 'type', p_event -> 'payload', 'handled', v_session_id, now(), now()
    );
    perform rows.complete_session(v_session_id, p_payment);
end;
$$;

grant usage on schema rows to service_role;
