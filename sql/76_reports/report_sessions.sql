create function payments.report_sessions(p_from timestamptz)
returns table (
    day text, product text, provider text, currency text, status text, user_id uuid, attempts int,
    amount bigint, refunded bigint, minutes_to_pay numeric, reminded boolean, was_slow boolean
)
language plpgsql
stable
rows 10000
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        to_char(s.created_at at time zone 'UTC', 'YYYY-MM-DD'), s.product_id, s.provider, s.currency, s.status,
        s.user_id, s.attempts,
        case when s.completed_at is not null then s.amount else 0 end, s.refunded_amount,
        extract(epoch from s.completed_at - s.created_at) / 60,
        reminder.session_id is not null,
        s.created_at + t.reminder_after < coalesce(
            s.completed_at, case when s.status in ('failed', 'expired', 'cancelled') then s.updated_at end, now()
        )
    from public.payment_checkout_sessions as s
    cross join payments.settings as t
    left join (
        select distinct n.session_id
        from payments.notifications as n
        where n.kind = 'reminder' and n.session_id >= payments.first_id_at(p_from) and n.status = 'sent'
    ) as reminder on s.id = reminder.session_id
    where s.id >= payments.first_id_at(p_from);
end;
$$;

comment on function payments.report_sessions(timestamptz) is
'The sessions made since a time, as payment_report counts them. Days are UTC, amounts minor units; was_slow: still '
'unpaid when its first reminder would have been due.';

revoke all on function payments.report_sessions(timestamptz) from public, anon, authenticated, service_role;
