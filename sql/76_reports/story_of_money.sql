-- Documents are found by their user, whom the invoice names: the session may be gone.
create function payments.story_of_money(p_session_id uuid)
returns table (at timestamptz, kind text, title text, detail jsonb, place bigint)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        c.created_at, 'capture', 'money ' || c.disposition,
        jsonb_build_object(
            'provider', c.provider, 'provider_payment_id', c.provider_payment_id, 'attempt_number', c.attempt_number,
            'amount', c.amount, 'currency', c.currency, 'disposition', c.disposition, 'paid_at', c.paid_at
        ),
        0::bigint
    from payments.captures as c
    where c.session_id = p_session_id
    union all
    select
        r.created_at, 'refund', r.kind || ' ' || r.status,
        jsonb_build_object(
            'provider', r.provider, 'provider_refund_id', r.provider_refund_id,
            'provider_payment_id', r.provider_payment_id, 'kind', r.kind, 'amount', r.amount, 'currency', r.currency,
            'status', r.status, 'reason', r.reason, 'updated_at', r.updated_at
        ),
        0
    from public.payment_refunds as r
    where r.session_id = p_session_id
    union all
    select
        d.issued_at, 'invoice', d.kind || ' ' || d.series || '-' || d.year || '-' || d.number,
        jsonb_build_object(
            'series', d.series, 'year', d.year, 'number', d.number, 'kind', d.kind, 'amount', d.amount,
            'currency', d.currency
        ),
        d.number
    from public.payment_invoices as i
    inner join public.payment_invoices as d on i.user_id = d.user_id and i.session_id = d.session_id
    where i.session_id = p_session_id and i.kind = 'invoice'
    union all
    select
        e.created_at, 'credits', e.reason, jsonb_build_object('amount', e.amount, 'reason', e.reason, 'source', e.source),
        e.id
    from public.payment_credit_entries as e
    where e.reason in ('purchase', 'clawback', 'reinstatement') and e.source in (
        select p_session_id::text
        union all
        select p_session_id || ':' || n.change
        from payments.credit_clawbacks as k
        cross join generate_series(1, k.changes) as n (change)
        where k.session_id = p_session_id
    );
end;
$$;

comment on function payments.story_of_money(uuid) is
'The part of checkout_session_story that is money: captures, refunds, documents and credits.';

revoke all on function payments.story_of_money(uuid) from public, anon, authenticated, service_role;
